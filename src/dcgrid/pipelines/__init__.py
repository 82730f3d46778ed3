"""Pipelines: from a job to files, without knowing a terminal. Read edit.py first."""
