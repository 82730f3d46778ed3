"""Speed of the Wan backbone beside diffusers' own, as ratios. Start at __main__.py."""
