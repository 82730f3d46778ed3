"""Edit videos by filling a grid of cells with a video diffusion transformer.

Nothing is imported here, so that `import dcgrid` costs nothing; start reading at cli/main.py.
"""

__version__ = "0.1.0"
