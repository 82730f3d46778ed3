"""`python -m dcgrid` does what the command `dcgrid` does; torchrun starts it this way."""

import os
import sys

from dcgrid.cli.main import main

code = main()
if os.environ.get("WORLD_SIZE", "1") != "1":
    # All work is done and all files are whole. Taking torch apart at the end of a process that
    # others talked to aborts now and then (std::terminate, gloo, torch 2.13), and torchrun would
    # call the job failed.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
sys.exit(code)
