"""Measurements of the program; not part of the package. Start at README.md."""

import os

# Read once by OpenMP when torch is imported; the command line sets the same (cli/main.py).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
