"""The Shardwright contract: `domain` types, generated stubs in `v1`, and `wire` between them."""

__version__ = "0.1.0"
