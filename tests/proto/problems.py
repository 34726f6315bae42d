"""Small problems for the tests of the contract."""

from __future__ import annotations

from typing import Any

from shardwright.domain import (
    Cluster,
    EmbeddingTable,
    InvalidValueError,
    Optimizer,
    Shard,
    ShardingProblem,
)


def table(name: str = "t", rows: int = 100, columns: int = 16, **more: Any) -> EmbeddingTable:
    return EmbeddingTable(name, rows, columns, **{"pooling_factor": 2.0, **more})


def cluster(num_devices: int = 4, devices_per_host: int = 2, **more: Any) -> Cluster:
    return Cluster(
        num_devices,
        devices_per_host,
        **{"hardware": "test-gpu", "device_memory_bytes": 10**9, **more},
    )


def problem(*tables: EmbeddingTable, **more: Any) -> ShardingProblem:
    return ShardingProblem(
        tables or (table(),),
        **{
            "cluster": cluster(),
            "global_batch_size": 1024,
            "optimizer": Optimizer.SGD,
            **more,
        },
    )


def whole(t: EmbeddingTable, device: int = 0) -> Shard:
    return Shard(t.name, device, 0, t.num_embeddings, 0, t.embedding_dim)


def columns(t: EmbeddingTable, *widths: int, devices: tuple[int, ...] = ()) -> list[Shard]:
    """Column shards of these widths, on devices 0, 1, ... unless told otherwise."""
    offsets = [sum(widths[:i]) for i in range(len(widths))]
    return [
        Shard(t.name, device, 0, t.num_embeddings, offset, width)
        for device, offset, width in zip(
            devices or range(len(widths)), offsets, widths, strict=True
        )
    ]


def rows(t: EmbeddingTable, *counts: int, first_device: int = 0) -> list[Shard]:
    """Row shards of these heights on consecutive devices."""
    return [
        Shard(t.name, first_device + i, sum(counts[:i]), count, 0, t.embedding_dim)
        for i, count in enumerate(counts)
    ]


def fields(error: InvalidValueError) -> list[str]:
    return [violation.field for violation in error.violations]
