"""One line for each table of a plan: how it is cut and where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from shardwright.domain import (
    Cluster,
    IllegalPlanError,
    Shard,
    ShardingPlan,
    ShardingProblem,
    ShardingType,
    sharding_type,
)

_MAX_GROUPS = 6


@dataclass(frozen=True)
class TableRow:
    """What a person wants to know of one table.

    Attributes:
        name: Name of the table.
        num_embeddings: Rows.
        embedding_dim: Columns.
        bytes: Device memory of all its shards; of copies, with their dense gradients.
        num_shards: Pieces it is cut into.
        cut: In words, such as `columns 64+32+32`, `rows, 8 blocks` or `8 whole copies`.
        devices: Such as `0, 3` or `0-7`, in the order of the pieces.
    """

    name: str
    num_embeddings: int
    embedding_dim: int
    bytes: int
    num_shards: int
    cut: str
    devices: str


def table_rows(problem: ShardingProblem, plan: ShardingPlan) -> list[TableRow]:
    """One row for each table, in the order of the problem."""
    rows = []
    for table in problem.tables:
        shards = plan.by_table.get(table.name, ())
        try:
            kind = sharding_type(table, shards, problem.cluster)
        except IllegalPlanError:
            kind = None
        if kind is ShardingType.DATA_PARALLEL:
            num_bytes = len(shards) * problem.replica_bytes(table)
        else:
            num_bytes = sum(problem.shard_bytes(table, s.num_rows, s.num_columns) for s in shards)
        rows.append(
            TableRow(
                name=table.name,
                num_embeddings=table.num_embeddings,
                embedding_dim=table.embedding_dim,
                bytes=num_bytes,
                num_shards=len(shards),
                cut=_cut(kind, shards, problem.cluster),
                devices=device_list([s.device for s in shards]),
            )
        )
    return rows


def _cut(kind: ShardingType | None, shards: Sequence[Shard], cluster: Cluster) -> str:
    if kind is ShardingType.TABLE_WISE:
        return "whole"
    if kind is ShardingType.COLUMN_WISE:
        return f"columns {_widths([s.num_columns for s in shards])}"
    if kind is ShardingType.ROW_WISE:
        return f"rows, {len(shards)} blocks"
    if kind is ShardingType.TABLE_ROW_WISE:
        return f"rows, {len(shards)} blocks on host {cluster.host_of(shards[0].device)}"
    if kind is ShardingType.DATA_PARALLEL:
        return f"{len(shards)} whole copies"
    return "not legal"


def _widths(widths: Sequence[int]) -> str:
    """`64+32+32`, equal neighbours of four and more as `4x32`."""
    terms = []
    for width, run in groupby(widths):
        length = len(list(run))
        terms += [f"{length}x{width}"] if length >= 4 else [str(width)] * length
    return "+".join(terms)


def device_list(devices: Sequence[int]) -> str:
    """Devices in order, runs of three and more as a range: `0-7`, `5, 2, 9`."""
    groups: list[str] = []
    start = 0
    for end in range(1, len(devices) + 1):
        if end < len(devices) and devices[end] == devices[end - 1] + 1:
            continue
        run = devices[start:end]
        groups += [f"{run[0]}-{run[-1]}"] if len(run) >= 3 else map(str, run)
        start = end
    if len(groups) > _MAX_GROUPS:
        return f"{', '.join(groups[:_MAX_GROUPS])}, ... ({len(devices)})"
    return ", ".join(groups)
