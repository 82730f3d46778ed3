"""Flow matching: the path and its loss, schedules, samplers. Start at path.py."""
