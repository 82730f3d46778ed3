"""Training data that people bring: manifests of clips, and caches of what was encoded."""
