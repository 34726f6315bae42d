"""Whole tables by rules of thumb: NeuroShard's four greedy heuristics, and chance.

Written apart from the server's baselines, which answer costs and keep no plans.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping

from shardwright.domain import EmbeddingTable, Shard, ShardingPlan, ShardingProblem

SCORES: Mapping[str, Callable[[EmbeddingTable], float]] = {
    "dim": lambda t: t.embedding_dim,
    "size": lambda t: t.weight_bytes,
    "lookup": lambda t: t.embedding_dim * t.pooling_factor,
    "size_lookup": lambda t: t.embedding_dim * t.pooling_factor * math.log10(t.num_embeddings),
}


def place_greedily(problem: ShardingProblem, score: str) -> ShardingPlan | None:
    """Tables by falling score, each to the device of the smallest sum that has room."""
    free, sums = _memory(problem), [0.0] * problem.cluster.num_devices
    shards = []
    for table in sorted(problem.tables, key=SCORES[score], reverse=True):
        fits = _with_room(problem, table, free)
        if not fits:
            return None
        device = min(fits, key=lambda d: sums[d])
        sums[device] += SCORES[score](table)
        shards.append(_put(problem, table, device, free))
    return ShardingPlan(tuple(shards))


def place_randomly(problem: ShardingProblem, seed: int) -> ShardingPlan | None:
    """Tables in order, each to any device that has room."""
    draw = random.Random(seed)
    free = _memory(problem)
    shards = []
    for table in problem.tables:
        fits = _with_room(problem, table, free)
        if not fits:
            return None
        shards.append(_put(problem, table, draw.choice(fits), free))
    return ShardingPlan(tuple(shards))


def _memory(problem: ShardingProblem) -> list[int]:
    cluster = problem.cluster
    return [cluster.shard_memory_bytes(d) for d in range(cluster.num_devices)]


def _bytes(problem: ShardingProblem, table: EmbeddingTable) -> int:
    return problem.shard_bytes(table, table.num_embeddings, table.embedding_dim)


def _with_room(problem: ShardingProblem, table: EmbeddingTable, free: list[int]) -> list[int]:
    needed = _bytes(problem, table)
    return [device for device, left in enumerate(free) if left >= needed]


def _put(problem: ShardingProblem, table: EmbeddingTable, device: int, free: list[int]) -> Shard:
    free[device] -= _bytes(problem, table)
    return Shard(table.name, device, 0, table.num_embeddings, 0, table.embedding_dim)
