"""The pictures in docs/: contact sheets of real clips, a preview of every effect. See make.py."""
