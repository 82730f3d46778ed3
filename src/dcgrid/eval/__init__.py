"""Evaluation: metrics, suites, the report page, the user study.

Stands above pipelines and train, which it runs (docs/decisions/0019). Read results.py first: it is
what everything here makes or reads.
"""
