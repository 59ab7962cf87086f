"""The version, where both the package and what it imports can read it."""

__version__ = "0.2.0"
