"""The command line `shardwright-worker`: one module per command."""

from shardwright_benchmark_worker.cli.app import main

__all__ = ["main"]
