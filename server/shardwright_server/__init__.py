"""The Shardwright planning server."""

__version__ = "0.1.0"
