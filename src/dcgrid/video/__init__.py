"""Video in and out: the only package that imports av. Start with read.py, then write.py."""
