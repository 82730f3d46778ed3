"""How near edits come to the truth: the effect rendered on the very clip. Start at measure.py."""
