"""Every legal plan of a tiny problem, by the rules of the domain alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from shardwright.domain import (
    EmbeddingTable,
    IllegalPlanError,
    InsufficientMemoryError,
    SearchOptions,
    Shard,
    ShardingPlan,
    ShardingProblem,
    check_constraints,
    check_plan,
)
from shardwright_server.search.cost import PlanEvaluator
from shardwright_server.search.cost_model import CostModel


def legal_plans(problem: ShardingProblem, options: SearchOptions) -> Iterator[ShardingPlan]:
    """All plans that fit and keep the constraints; the order of column pieces is left out."""
    for cuts in itertools.product(*(list(_cuts(t, problem)) for t in problem.tables)):
        plan = ShardingPlan(tuple(itertools.chain(*cuts)))
        try:
            check_plan(plan, problem)
            check_constraints(plan, problem, options)
        except (IllegalPlanError, InsufficientMemoryError):
            continue
        yield plan


def least_cost_ms(
    problem: ShardingProblem, options: SearchOptions, cost_model: CostModel
) -> float | None:
    """The cost of the best plan; None when there is none."""
    evaluator = PlanEvaluator(problem, cost_model)
    layouts = [evaluator.layout(plan) for plan in legal_plans(problem, options)]
    return float(evaluator.layout_costs(layouts).cost_ms.min()) if layouts else None


def _cuts(table: EmbeddingTable, problem: ShardingProblem) -> Iterator[list[Shard]]:
    rows, dim = table.num_embeddings, table.embedding_dim
    devices = range(problem.cluster.num_devices)
    on_host = problem.cluster.devices_per_host
    for widths in _partitions(dim // 4, dim // 4):
        offsets = [4 * sum(widths[:i]) for i in range(len(widths))]
        # equal pieces can change places
        for places in {
            tuple(sorted(zip(widths, at, strict=True)))
            for at in itertools.product(devices, repeat=len(widths))
        }:
            at = [(width, device) for width, device in reversed(places)]
            yield [
                Shard(table.name, device, 0, rows, offset, 4 * width)
                for (width, device), offset in zip(at, offsets, strict=True)
            ]
    if len(devices) == 1:
        return
    yield [Shard(table.name, d, 0, rows, 0, dim) for d in devices]
    yield _in_rows(table, devices)
    if 1 < on_host < len(devices):
        for first in devices[::on_host]:
            yield _in_rows(table, range(first, first + on_host))


def _partitions(units: int, widest: int) -> Iterator[list[int]]:
    """Falling widths that add up to `units`."""
    if units == 0:
        yield []
    for width in range(min(units, widest), 0, -1):
        for rest in _partitions(units - width, width):
            yield [width, *rest]


def _in_rows(table: EmbeddingTable, devices: range) -> list[Shard]:
    block = -(-table.num_embeddings // len(devices))
    shards = []
    for i, device in enumerate(devices):
        start = min(i * block, table.num_embeddings)
        rows = min(block, table.num_embeddings - start)
        shards.append(Shard(table.name, device, start, rows, 0, table.embedding_dim))
    return shards
