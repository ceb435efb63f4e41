"""psptool: raw skeleton recordings to a trained and measured PSP model."""

__version__ = "0.1.0"
