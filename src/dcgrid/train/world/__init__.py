"""The procedural world: rendered effects and moving subjects, so that ground truth exists for any clip."""
