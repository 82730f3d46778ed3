"""`python -m dcgrid` does what the command `dcgrid` does; torchrun starts it this way."""

import sys

from dcgrid.cli.main import main

sys.exit(main())
