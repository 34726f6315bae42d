"""Measures embedding-bag kernels and all-to-all transfers."""

__version__ = "0.1.0"
