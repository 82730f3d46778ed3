"""Proof that a killed and resumed training ends as one that was never stopped."""
