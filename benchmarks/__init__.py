"""Measurements of the program; not part of the package. Start at README.md.

Commands: `python -m benchmarks.truth`, `python -m benchmarks.speed`, `python -m benchmarks.sheets`.
"""

import os

# Read once by OpenMP when torch is imported; the command line sets the same (cli/main.py).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
