"""Backbones behind one protocol. Start at base.py; loading.py makes them by name."""
