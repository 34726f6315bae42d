"""What users compare with: the greedy heuristics of production systems, and chance.

The four heuristics of NeuroShard's evaluation (MLSys 2023): whole tables by falling score, each to
the device with the smallest sum of scores that has room in memory.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping

import numpy as np

from shardwright.domain import Baseline, EmbeddingTable, ShardingProblem
from shardwright_server.search.cost import Layout, PlanEvaluator
from shardwright_server.search.pieces import Float64Array, IntArray

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


def baselines(
    evaluator: PlanEvaluator, seed: int, on_step: Callable[[], None] = lambda: None
) -> tuple[Baseline, ...]:
    """The greedy heuristics in the order of `SCORES`, then `random`; all costed in one batch.

    Args:
        evaluator: Of the problem.
        seed: Of the random placement.
        on_step: Called before each table is placed; may raise to stop.
    """
    problem = evaluator.problem
    tables = np.array(evaluator.catalog.whole_tables(), dtype=np.int64)
    table_bytes, memory = evaluator.catalog.memory_bytes[tables], evaluator.memory_bytes
    placed = {
        name: _greedy(
            np.array([score(problem, t) for t in problem.tables]), table_bytes, memory, on_step
        )
        for name, score in SCORES.items()
    }
    placed["random"] = _random(seed, table_bytes, memory, on_step)
    found = {name: Layout(tables, devices) for name, devices in placed.items() if len(devices)}
    cost_ms: dict[str, float] = {}
    if found:
        costs = evaluator.layout_costs(list(found.values()))
        cost_ms = dict(zip(found, costs.cost_ms.tolist(), strict=True))
    return tuple(Baseline(name, cost_ms.get(name)) for name in placed)


def _greedy(
    scores: Float64Array,
    table_bytes: IntArray,
    memory_bytes: IntArray,
    on_step: Callable[[], None],
) -> IntArray:
    """The device of each table, `[tables] int64`; empty when a table finds no room."""
    devices = np.empty(len(scores), dtype=np.int64)
    free_bytes = memory_bytes.copy()
    score_sums = np.zeros(len(free_bytes))
    for table in np.argsort(-scores, kind="stable"):
        on_step()
        fits = np.flatnonzero(free_bytes >= table_bytes[table])
        if not len(fits):
            return devices[:0]
        device = fits[score_sums[fits].argmin()]  # the lowest device on ties
        free_bytes[device] -= table_bytes[table]
        score_sums[device] += scores[table]
        devices[table] = device
    return devices


def _random(
    seed: int, table_bytes: IntArray, memory_bytes: IntArray, on_step: Callable[[], None]
) -> IntArray:
    """As `_greedy`: tables in order, each to any device with room, equally likely."""
    generator = random.Random(seed)
    devices = np.empty(len(table_bytes), dtype=np.int64)
    free_bytes = memory_bytes.copy()
    for table, needed in enumerate(table_bytes):
        on_step()
        fits = np.flatnonzero(free_bytes >= needed)
        if not len(fits):
            return devices[:0]
        # Random.random is the one draw that Python promises to keep the same in all versions
        device = fits[int(generator.random() * len(fits))]
        free_bytes[device] -= needed
        devices[table] = device
    return devices
