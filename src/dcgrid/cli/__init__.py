"""The command line: the only place that parses options, prints, and turns errors into exit codes.

Read main.py first, then edit.py. No module here imports torch when it is imported itself.
"""
