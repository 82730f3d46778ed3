"""The paper's own system in torch and einops. Start at config.py, then dit.py."""
