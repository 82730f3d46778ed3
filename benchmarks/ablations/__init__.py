"""Ablations of the method on `mini`, with seeds: see docs/results.md."""
