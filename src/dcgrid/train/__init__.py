"""Training: the stages, their data and their checkpoints. Start at run_stage.py, then loop.py."""
