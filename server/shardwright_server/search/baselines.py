"""What users compare with: the greedy heuristics of production systems, and chance.

The four heuristics of NeuroShard's evaluation (MLSys 2023): whole tables by falling score, each to
the device with the smallest sum of scores that has room in memory.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping

import numpy as np
from numba import njit

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
        on_step: Called before each heuristic; may raise to stop.
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
    on_step()
    devices = np.empty(len(scores), dtype=np.int64)
    order = np.argsort(-scores, kind="stable")
    found = place_by_score(scores, order, table_bytes, memory_bytes, devices)
    return devices if found else devices[:0]


@njit(cache=True)
def place_by_score(
    scores: Float64Array,
    order: IntArray,
    table_bytes: IntArray,
    memory_bytes: IntArray,
    devices: IntArray,
) -> bool:
    """Fills the device of each table: the lowest on ties; False when a table finds no room."""
    free_bytes, sums = memory_bytes.copy(), np.zeros(len(memory_bytes))
    for table in order:
        best = -1
        for d in range(len(sums)):
            if free_bytes[d] >= table_bytes[table] and (best < 0 or sums[d] < sums[best]):
                best = d
        if best < 0:
            return False
        free_bytes[best] -= table_bytes[table]
        sums[best] += scores[table]
        devices[table] = best
    return True


def _random(
    seed: int, table_bytes: IntArray, memory_bytes: IntArray, on_step: Callable[[], None]
) -> IntArray:
    """As `_greedy`: tables in order, each to any device with room, equally likely."""
    on_step()
    # Random.random is the one draw that Python promises to keep the same in all versions
    generator = random.Random(seed)
    draws = np.array([generator.random() for _ in range(len(table_bytes))])
    devices = np.empty(len(table_bytes), dtype=np.int64)
    return devices if place_at_random(draws, table_bytes, memory_bytes, devices) else devices[:0]


@njit(cache=True)
def place_at_random(
    draws: Float64Array, table_bytes: IntArray, memory_bytes: IntArray, devices: IntArray
) -> bool:
    """Fills the device of each table by draws from [0, 1); False when a table finds no room."""
    free_bytes = memory_bytes.copy()
    for table in range(len(draws)):
        fits = np.flatnonzero(free_bytes >= table_bytes[table])
        if not len(fits):
            return False
        device = fits[int(draws[table] * len(fits))]
        free_bytes[device] -= table_bytes[table]
        devices[table] = device
    return True
