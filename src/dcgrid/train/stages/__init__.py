"""The stages of training, a file each; grids.py is the loss of base, grid and fill."""
