"""Row-wise shards as TorchRec's runtime reads them."""

from __future__ import annotations

from shardwright.domain import Shard, ShardingProblem


def row_shards(problem: ShardingProblem, index: int, devices: range) -> list[Shard]:
    """A table in TorchRec's row ranges: ceil(rows / n) each, in order of devices."""
    table = problem.tables[index]
    block = -(-table.num_embeddings // len(devices))
    starts = [min(i * block, table.num_embeddings) for i in range(len(devices))]
    return [
        Shard(
            table.name, d, start, min(block, table.num_embeddings - start), 0, table.embedding_dim
        )
        for d, start in zip(devices, starts, strict=True)
    ]
