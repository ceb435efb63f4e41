"""``psptool train``."""
