"""The procedural world: effects and moving subjects rendered, so that ground truth exists."""
