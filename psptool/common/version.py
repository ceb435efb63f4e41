"""The package's version. Modules import it from here, so that none of them imports the whole package."""

__version__ = "0.1.0"
