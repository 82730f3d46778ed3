"""`python -m dcgrid` does what the command `dcgrid` does."""

import sys

from dcgrid.cli.main import main

sys.exit(main())
