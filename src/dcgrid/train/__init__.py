"""Training: the stages, their data and their checkpoints. Start at run.py, then loop.py."""
