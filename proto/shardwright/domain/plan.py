"""Sharding plans and the rules that make one legal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from shardwright.domain.errors import Checks, IllegalPlanError, InsufficientMemoryError
from shardwright.domain.problem import ShardingProblem
from shardwright.domain.shard import Shard
from shardwright.domain.sharding_type import ShardingType
from shardwright.domain.table import COLUMN_MULTIPLE, EmbeddingTable
from shardwright.domain.topology import Cluster


@dataclass(frozen=True)
class ShardingPlan:
    """Every table of a problem, cut into shards.

    Attributes:
        shards: The shards, in canonical order: tables in order of first appearance, then by
            column offset, row offset and device.
    """

    shards: tuple[Shard, ...]

    def __post_init__(self) -> None:
        first_seen: dict[str, int] = {}
        for shard in self.shards:
            first_seen.setdefault(shard.table, len(first_seen))
        ordered = sorted(
            self.shards,
            key=lambda s: (first_seen[s.table], s.column_offset, s.row_offset, s.device),
        )
        object.__setattr__(self, "shards", tuple(ordered))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hex over the shards; equal for plans that differ only in table order."""
        digest = hashlib.sha256()
        for s in sorted(self.shards, key=lambda s: (s.table, s.column_offset, s.row_offset)):
            digest.update(
                f"{s.table!a} {s.device} {s.row_offset} {s.num_rows} "
                f"{s.column_offset} {s.num_columns}\n".encode()
            )
        return digest.hexdigest()

    @cached_property
    def by_table(self) -> Mapping[str, tuple[Shard, ...]]:
        """The shards of each table, in canonical order."""
        grouped: dict[str, list[Shard]] = {}
        for shard in self.shards:
            grouped.setdefault(shard.table, []).append(shard)
        return {table: tuple(shards) for table, shards in grouped.items()}


def sharding_type(
    table: EmbeddingTable, shards: tuple[Shard, ...], cluster: Cluster
) -> ShardingType:
    """Classifies the shards of one table.

    Raises:
        IllegalPlanError: When they do not cover the table exactly in a way that TorchRec runs.
    """
    checks = Checks()
    checks.require(bool(shards), "", f"table {table.name!r} has no shard; every table needs one")
    for shard in shards:
        if shard.device >= cluster.num_devices:
            checks.require(
                False,
                "device",
                f"must be below num_devices ({cluster.num_devices}), got {shard.device}",
            )
    checks.raise_if_any(IllegalPlanError)
    if len(shards) == 1 and _is_whole(table, shards[0]):
        return ShardingType.TABLE_WISE  # most tables of most plans
    if _is_data_parallel(table, shards, cluster):
        return ShardingType.DATA_PARALLEL
    if all(s.row_offset == 0 and s.num_rows == table.num_embeddings for s in shards):
        _check_columns(table, shards)
        return ShardingType.TABLE_WISE if len(shards) == 1 else ShardingType.COLUMN_WISE
    if all(s.column_offset == 0 and s.num_columns == table.embedding_dim for s in shards):
        return _row_wise_type(table, shards, cluster)
    checks.require(
        False,
        "",
        f"table {table.name!r} is cut in rows and columns at once; "
        "cut it in columns or in rows (TorchRec's grid sharding is wrong with mean pooling)",
    )
    raise IllegalPlanError(checks.violations)


def _is_data_parallel(table: EmbeddingTable, shards: tuple[Shard, ...], cluster: Cluster) -> bool:
    """Whether every device of a job of several has a whole copy."""
    return (
        1 < cluster.num_devices == len(shards)
        and sorted(s.device for s in shards) == list(range(cluster.num_devices))
        and all(_is_whole(table, shard) for shard in shards)
    )


def _is_whole(table: EmbeddingTable, shard: Shard) -> bool:
    rectangle = shard.row_offset, shard.num_rows, shard.column_offset, shard.num_columns
    return rectangle == (0, table.num_embeddings, 0, table.embedding_dim)


def _check_columns(table: EmbeddingTable, shards: tuple[Shard, ...]) -> None:
    checks = Checks()
    covered = 0
    for shard in sorted(shards, key=lambda s: s.column_offset):
        if shard.num_columns % COLUMN_MULTIPLE:
            checks.require(
                False,
                "num_columns",
                f"must be a multiple of {COLUMN_MULTIPLE}, got {shard.num_columns} "
                f"in table {table.name!r}",
            )
        if shard.column_offset != covered:
            checks.require(
                False,
                "column_offset",
                f"shards of table {table.name!r} must follow one another without gap or overlap: "
                f"expected {covered}, got {shard.column_offset}",
            )
        covered = shard.column_offset + shard.num_columns
    checks.require(
        covered == table.embedding_dim,
        "num_columns",
        f"shards of table {table.name!r} must cover its {table.embedding_dim} columns, "
        f"got {covered}",
    )
    for device, widths in _widths_per_device(shards).items():
        if len(widths) > 1:
            checks.require(
                False,
                "num_columns",
                f"shards of table {table.name!r} on one device must be equally wide (TorchRec "
                f"takes all of them to be as wide as the first), got {sorted(widths)} on device "
                f"{device}; make them one shard",
            )
    checks.raise_if_any(IllegalPlanError)


def _widths_per_device(shards: Iterable[Shard]) -> dict[int, set[int]]:
    widths: dict[int, set[int]] = {}
    for shard in shards:
        widths.setdefault(shard.device, set()).add(shard.num_columns)
    return widths


def merge_columns(plan: ShardingPlan) -> ShardingPlan:
    """The plan with the column shards of a table that lie on one device made one.

    No device holds more or fewer columns of a table than before, but which ones may change: a
    device's columns follow one another, devices in the order of their first column. Tables that are
    not cut in columns stay as they are.
    """
    if len({(shard.table, shard.device) for shard in plan.shards}) == len(plan.shards):
        return plan
    merged: list[Shard] = []
    for shards in plan.by_table.values():
        if len({s.column_offset for s in shards}) < len(shards):
            merged += shards  # not cut in columns
            continue
        width: dict[int, int] = {}
        for shard in shards:
            width[shard.device] = width.get(shard.device, 0) + shard.num_columns
        offset = 0
        for device, num_columns in width.items():
            first = shards[0]
            merged.append(Shard(first.table, device, 0, first.num_rows, offset, num_columns))
            offset += num_columns
    return ShardingPlan(tuple(merged))


def _row_wise_type(
    table: EmbeddingTable, shards: tuple[Shard, ...], cluster: Cluster
) -> ShardingType:
    """Row-wise over all devices, or over all devices of one host, in TorchRec's fixed split.

    TorchRec gives rank i of n the rows from i * ceil(rows / n), in order; any other row split
    silently computes wrong results.
    """
    checks = Checks()
    ordered = sorted(shards, key=lambda s: s.device)
    devices = [s.device for s in ordered]
    host = cluster.host_of(devices[0])
    on_host = list(range(host * cluster.devices_per_host, (host + 1) * cluster.devices_per_host))
    everywhere = devices == list(range(cluster.num_devices))
    checks.require(
        everywhere or devices == on_host,
        "device",
        f"row shards of table {table.name!r} must lie on all devices, or on all devices of one "
        f"host, once each; got devices {devices[:8]}",
    )
    block = -(-table.num_embeddings // len(ordered))
    for i, shard in enumerate(ordered):
        start = min(i * block, table.num_embeddings)
        rows = min(block, table.num_embeddings - start)
        checks.require(
            shard.num_rows == rows and (rows == 0 or shard.row_offset == start),
            "num_rows",
            f"row shard {i} of {len(ordered)} of table {table.name!r} must hold rows {start} to "
            f"{start + rows} (ceil(rows / devices) each, in device order), got "
            f"{shard.row_offset} to {shard.row_offset + shard.num_rows}",
        )
    checks.raise_if_any(IllegalPlanError)
    return ShardingType.ROW_WISE if everywhere else ShardingType.TABLE_ROW_WISE


def check_plan(plan: ShardingPlan, problem: ShardingProblem) -> dict[str, ShardingType]:
    """Checks that a TorchRec job can run the plan; returns the sharding type of each table.

    Raises:
        IllegalPlanError: With every table that is missing, unknown or badly cut.
        InsufficientMemoryError: When a device's shards exceed its memory.
    """
    checks = Checks()
    types: dict[str, ShardingType] = {}
    names = {table.name for table in problem.tables}
    for name in plan.by_table:
        checks.require(name in names, "plan.shards", f"name a table of the problem, got {name!r}")
    for table in problem.tables:
        try:
            shards = plan.by_table.get(table.name, ())
            types[table.name] = sharding_type(table, shards, problem.cluster)
        except IllegalPlanError as error:
            checks.extend(error.violations, "plan.shards")
    checks.raise_if_any(IllegalPlanError)
    check_memory(plan, problem)
    return types


def device_memory_bytes(plan: ShardingPlan, problem: ShardingProblem) -> list[int]:
    """Bytes of the shards on each device: weights and optimizer state, copies with a gradient."""
    used = [0] * problem.cluster.num_devices
    for table in problem.tables:
        shards = plan.by_table[table.name]
        if _is_data_parallel(table, shards, problem.cluster):
            copy_bytes = problem.replica_bytes(table)
            used = [already + copy_bytes for already in used]
            continue
        for s in shards:
            used[s.device] += problem.shard_bytes(table, s.num_rows, s.num_columns)
    return used


def check_memory(plan: ShardingPlan, problem: ShardingProblem) -> None:
    """Checks that each device can hold its shards.

    Raises:
        InsufficientMemoryError: Naming the first device that cannot, and the bytes missing.
    """
    for device, used in enumerate(device_memory_bytes(plan, problem)):
        available = problem.cluster.shard_memory_bytes(device)
        if used > available:
            raise InsufficientMemoryError(
                f"device {device} needs {used} bytes for its shards and has {available} "
                f"(memory less the reservation): {used - available} bytes are missing",
                missing_bytes=used - available,
            )
