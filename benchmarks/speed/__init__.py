"""How long an edit takes and where the time goes. Start at measure.py."""
