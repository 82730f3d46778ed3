"""Pipelines: from a job to files, without knowing a terminal. Read run.py first."""
