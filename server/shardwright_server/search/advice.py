"""What would make tables fit: every answer comes from a packing that was made and checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from shardwright.domain import (
    CostModelId,
    CostModelSource,
    EmbeddingTable,
    SearchOptions,
    ShardingProblem,
    ShardingType,
    TableConstraints,
    allowed_sharding_types,
    check_constraints,
    check_plan,
    contradictions,
)
from shardwright_costmodel.features import FloatArray
from shardwright_server.search.cost import PlanEvaluator
from shardwright_server.search.lots import LotBook
from shardwright_server.search.packing import Misfit, pack

MAX_SIZE = 600_000
"""Tables times devices of the largest packing that is tried: advice must come soon."""

MAX_DEVICES = 4096
_COPIED = (ShardingType.DATA_PARALLEL,)
_ATTEMPTS = 6
_GROWTHS = 12

GENERAL = (
    "Use devices with more memory or more of them, a smaller weight_dtype, an optimizer with less "
    "state, or fewer rows"
)


def advice(problem: ShardingProblem, options: SearchOptions) -> str:
    """Changes to a request without a plan, each of which was found to lead to one that fits."""
    found = [text for text, task, allowed in _variants(problem, options) if fits(task, allowed)]
    more = _more_devices(problem, options)
    if more is not None:
        found.append(more)
    if not found:
        # neither alone helps: both together may
        both = ((text, _more_devices(t, o)) for text, t, o in _variants(problem, options))
        found = [f"{text} and {devices}" for text, devices in both if devices is not None][:1]
    return f"It would fit with {'; or with '.join(found)}" if found else GENERAL


def _more_devices(problem: ShardingProblem, options: SearchOptions) -> str | None:
    devices = _devices_needed(problem, options)
    each = problem.cluster.device_memory_bytes - problem.cluster.reserved_memory_bytes
    return None if devices is None else f"{devices} devices of {each} bytes for shards"


def fits(problem: ShardingProblem, options: SearchOptions) -> bool:
    """Whether a plan is found that fits, and that passes all checks; False proves nothing."""
    if len(problem.tables) * problem.cluster.num_devices > MAX_SIZE:
        return False
    cluster = problem.cluster
    memory = sum(cluster.shard_memory_bytes(device) for device in range(cluster.num_devices))
    if problem.total_bytes > memory or contradictions(problem, options):
        return False
    book = LotBook(PlanEvaluator(problem, _Weightless()), options)
    attempts = 0

    def give_up() -> None:
        nonlocal attempts
        attempts += 1
        if attempts > _ATTEMPTS:
            raise _GivenUpError

    try:
        packed = pack(book, options.seed, give_up)
    except _GivenUpError:
        return False
    if isinstance(packed, Misfit):
        return False
    plan = packed.to_plan()
    check_plan(plan, problem)
    check_constraints(plan, problem, options)
    return True


class _GivenUpError(Exception):
    """Enough attempts."""


Variant = tuple[str, ShardingProblem, SearchOptions]


def _variants(problem: ShardingProblem, options: SearchOptions) -> Iterator[Variant]:
    """The request with one kind of limit lifted."""
    allowed = [allowed_sharding_types(t, options, problem.cluster) for t in problem.tables]
    for kind in (ShardingType.COLUMN_WISE, ShardingType.ROW_WISE):
        if any(kind not in types for types in allowed):
            lifted = _with_type(problem, options, kind)
            yield f"{kind.value} allowed for all tables", *lifted
    if _COPIED in allowed:
        tables = [
            _not_copied(table) if types == _COPIED else table
            for table, types in zip(problem.tables, allowed, strict=True)
        ]
        yield "no table data_parallel", replace(problem, tables=tuple(tables)), options
    constrained = [table.constraints for table in problem.tables]
    if any(c.devices or c.excluded_devices for c in constrained):
        yield (
            "no table pinned to devices",
            _changed(problem, devices=(), excluded_devices=()),
            options,
        )
    if any(c.colocation_group for c in constrained):
        yield "no colocation_group", _changed(problem, colocation_group=""), options
    if any(c.min_column_width > 4 for c in constrained):
        yield "min_column_width 4", _changed(problem, min_column_width=4), options


def _changed(problem: ShardingProblem, **values: object) -> ShardingProblem:
    tables = [
        replace(table, constraints=replace(table.constraints, **values))  # type: ignore[arg-type]
        for table in problem.tables
    ]
    return replace(problem, tables=tuple(tables))


def _with_type(
    problem: ShardingProblem, options: SearchOptions, kind: ShardingType
) -> tuple[ShardingProblem, SearchOptions]:
    tables = []
    for table in problem.tables:
        types = table.constraints.sharding_types
        if types and kind not in types and not table.constraints.colocation_group:
            wider = replace(table.constraints, sharding_types=(*types, kind))
            table = replace(table, constraints=wider)
        tables.append(table)
    both = tuple(dict.fromkeys((*options.sharding_types, kind)))
    return replace(problem, tables=tuple(tables)), replace(options, sharding_types=both)


def _not_copied(table: EmbeddingTable) -> EmbeddingTable:
    wise = ShardingType.TABLE_WISE, ShardingType.COLUMN_WISE
    constraints: TableConstraints = replace(table.constraints, sharding_types=wise)
    return replace(table, constraints=constraints)


def _devices_needed(problem: ShardingProblem, options: SearchOptions) -> int | None:
    """The least number of devices, in whole hosts, that a packing was found for."""
    cluster = problem.cluster
    per_host = cluster.devices_per_host
    each = cluster.device_memory_bytes - cluster.reserved_memory_bytes
    hosts = max(cluster.num_hosts + 1, -(-problem.total_bytes // (each * per_host)))
    for _ in range(_GROWTHS):
        if hosts * per_host > MAX_DEVICES:
            return None
        larger = replace(cluster, num_devices=hosts * per_host)
        if fits(replace(problem, cluster=larger), options):
            return hosts * per_host
        hosts += max(1, hosts // 8)
    return None


class _Weightless:
    """A cost model for packing alone: everything costs nothing."""

    id = CostModelId("weightless", "", "", CostModelSource.MODELLED)
    encoding_size = 1
    peak_channels = 0

    def encode(self, shard_features: FloatArray) -> FloatArray:
        return np.zeros((len(shard_features), 1), dtype=np.float32)

    def compute_ms(self, encodings: FloatArray) -> FloatArray:
        return np.zeros((len(encodings), 2), dtype=np.float32)

    compute_floor_ms = compute_ms

    def forward_comm_ms(self, comm_features: FloatArray) -> FloatArray:
        return np.zeros(len(comm_features), dtype=np.float32)

    backward_comm_ms = forward_comm_ms
    forward_comm_floor_ms = forward_comm_ms
    backward_comm_floor_ms = forward_comm_ms
    all_reduce_ms = forward_comm_ms

    def range_warnings(
        self, shard_features: FloatArray, comm_features: FloatArray
    ) -> tuple[str, ...]:
        return ()
