"""How files are written, locked, read and checked, and how progress is reported; loads no torch."""
