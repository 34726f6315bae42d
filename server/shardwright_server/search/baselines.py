"""What users compare with: the greedy heuristics of production systems, and chance.

The four heuristics of NeuroShard's evaluation (MLSys 2023, section 4.1): whole tables by falling
score, each to the device with the smallest sum of scores that has room in memory.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping

import numpy as np

from shardwright.domain import Baseline, EmbeddingTable, ShardingProblem
from shardwright_server.search.cost import Layout, PlanEvaluator
from shardwright_server.search.pieces import IntArray

ScoreFunction = Callable[[ShardingProblem, EmbeddingTable], float]


def _dim(problem: ShardingProblem, table: EmbeddingTable) -> float:
    return float(table.embedding_dim)


def _size(problem: ShardingProblem, table: EmbeddingTable) -> float:
    return float(problem.shard_bytes(table, table.num_embeddings, table.embedding_dim))


def _lookup(problem: ShardingProblem, table: EmbeddingTable) -> float:
    return table.embedding_dim * table.pooling_factor


def _size_lookup(problem: ShardingProblem, table: EmbeddingTable) -> float:
    return _lookup(problem, table) * math.log10(table.num_embeddings)


SCORES: Mapping[str, ScoreFunction] = {
    "dim": _dim,
    "size": _size,
    "lookup": _lookup,
    "size_lookup": _size_lookup,
}


def baselines(evaluator: PlanEvaluator, seed: int) -> tuple[Baseline, ...]:
    """The greedy heuristics in the order of `SCORES`, then `random`; all costed in one batch.

    Args:
        evaluator: Of the problem.
        seed: Of the random placement.
    """
    placed = {name: _greedy(evaluator, score) for name, score in SCORES.items()}
    placed["random"] = _random(evaluator, seed)
    tables = np.array(evaluator.catalog.whole_tables(), dtype=np.int64)
    found = {name: Layout(tables, devices) for name, devices in placed.items() if len(devices)}
    cost_ms: dict[str, float] = {}
    if found:
        costs = evaluator.layout_costs(list(found.values()))
        cost_ms = dict(zip(found, costs.cost_ms.tolist(), strict=True))
    return tuple(Baseline(name, cost_ms.get(name)) for name in placed)


def _greedy(evaluator: PlanEvaluator, score: ScoreFunction) -> IntArray:
    """The device of each table, `[tables] int64`; empty when a table finds no room."""
    problem = evaluator.problem
    scores = np.array([score(problem, table) for table in problem.tables])
    devices = np.empty(len(scores), dtype=np.int64)
    room, score_sums = _Room(evaluator), np.zeros(problem.cluster.num_devices)
    for table in np.argsort(-scores, kind="stable"):
        fits = room.devices_for(table)
        if not len(fits):
            return devices[:0]
        device = fits[score_sums[fits].argmin()]
        room.take(table, device)
        score_sums[device] += scores[table]
        devices[table] = device
    return devices


def _random(evaluator: PlanEvaluator, seed: int) -> IntArray:
    """As `_greedy`: tables in order, each to any device with room, equally likely."""
    generator = random.Random(seed)
    devices = np.empty(len(evaluator.problem.tables), dtype=np.int64)
    room = _Room(evaluator)
    for table in range(len(devices)):
        fits = room.devices_for(table)
        if not len(fits):
            return devices[:0]
        # Random.random is the one draw that Python promises to keep the same in all versions
        devices[table] = fits[int(generator.random() * len(fits))]
        room.take(table, devices[table])
    return devices


class _Room:
    """Memory left on each device while whole tables are placed."""

    def __init__(self, evaluator: PlanEvaluator) -> None:
        cluster, catalog = evaluator.problem.cluster, evaluator.catalog
        self._free_bytes = np.array(
            [cluster.shard_memory_bytes(d) for d in range(cluster.num_devices)], dtype=np.int64
        )
        self._table_bytes = catalog.memory_bytes[catalog.whole_tables()]

    def devices_for(self, table: int) -> IntArray:
        """Devices with room for a table, rising."""
        return np.flatnonzero(self._free_bytes >= self._table_bytes[table])

    def take(self, table: int, device: int) -> None:
        """Puts a table on a device."""
        self._free_bytes[device] -= self._table_bytes[table]
