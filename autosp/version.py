"""This package's version, also where it was not installed (a checkout on PYTHONPATH)."""

__version__ = "0.1.0"
