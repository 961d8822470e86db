"""The version of glmc."""

__version__ = "0.1.0"
