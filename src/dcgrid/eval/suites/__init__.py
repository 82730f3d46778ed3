"""Suites: which clips are edited how by which methods, done, scored and written.

    recipe -> plan -> work, a unit a clip and method -> scores -> results.json, tables, report

Read suite.py (what a suite is), eval_plan.py (what it means for these clips), eval_run.py (doing
it).
"""
