"""A user study from make to table, taken by a real browser; tests drive it with the same hands."""
