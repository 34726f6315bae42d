"""Can device memory hold the tables at all, and if no plan was found, why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from shardwright.domain import (
    COLUMN_MULTIPLE,
    EmbeddingTable,
    InsufficientMemoryError,
    SearchOptions,
    ShardingProblem,
    ShardingType,
    allowed_sharding_types,
    colocation_groups,
)
from shardwright_server.search.advice import advice
from shardwright_server.search.pieces import Piece
from shardwright_server.search.reach import Reach, Reaches


def check_capacity(problem: ShardingProblem, options: SearchOptions) -> None:
    """Checks what every plan needs that keeps the constraints, whatever the search.

    Raises:
        InsufficientMemoryError: When the tables exceed the memory they may use together, or a
            table (or colocation group) by itself exceeds it in every way to cut it.
    """
    reaches = Reaches(problem.cluster)
    _check_totals(problem, options, reaches)
    for table in problem.tables:
        _check_table(problem, options, table, reaches.of(table))
    for group, members in colocation_groups(problem.tables).items():
        _check_group(problem, options, group, members, reaches)


def no_plan_error(
    problem: ShardingProblem, options: SearchOptions, misfit: Piece
) -> InsufficientMemoryError:
    """Explains a beam search that ended without a plan, though memory might hold the tables.

    Args:
        problem: The problem.
        options: The options it was searched with.
        misfit: The piece for which no device had room.
    """
    return no_room_error(
        problem,
        options,
        (misfit.table,),
        misfit.num_columns,
        f" within {options.max_column_splits} column splits",
        "Raise max_column_splits, beam_width and candidates, or ask for LOCAL_SEARCH. ",
    )


def no_room_error(
    problem: ShardingProblem,
    options: SearchOptions,
    tables: Sequence[int],
    columns: int,
    limits: str = "",
    remedy: str = "",
) -> InsufficientMemoryError:
    """Explains a search that ended without a plan, though memory might hold the tables.

    Args:
        problem: The problem.
        options: The options it was searched with.
        tables: Indices of the table, or the tables of the group, for which there was no room.
        columns: How many of the table's columns were left over; of no meaning for a group.
        limits: Within which limits was searched.
        remedy: What to change about them, a sentence.
    """
    first = problem.tables[tables[0]]
    if len(tables) > 1:
        needed = sum(_whole_bytes(problem, problem.tables[i]) for i in tables)
        what = f"the {len(tables)} tables of group {first.constraints.colocation_group!r:.80}"
    else:
        needed = problem.shard_bytes(first, first.num_embeddings, columns)
        what = f"{columns} of {first.embedding_dim} columns of table {first.name!r}"
    reach = Reaches(problem.cluster).of(first)
    largest = reach.largest_bytes
    room = "and the largest device has" if needed > largest else "and no device had so much left of"
    return InsufficientMemoryError(
        f"no plan that fits was found by {options.algorithm.value}{limits}: {what} need {needed} "
        f"bytes, {room} {largest} bytes for shards; all tables need {problem.total_bytes} bytes "
        f"and all devices have {_total(problem)}. {remedy}{advice(problem, options)}",
        missing_bytes=max(0, needed - largest),
    )


def _check_totals(problem: ShardingProblem, options: SearchOptions, reaches: Reaches) -> None:
    """The tables that may lie anywhere and those that may not, against the memory for them."""
    needed = 0
    by_reach: dict[int, tuple[Reach, int]] = {}
    for table in problem.tables:
        reach = reaches.of(table)
        least = _least_bytes(problem, options, table)
        needed += least
        by_reach[id(reach)] = reach, by_reach.get(id(reach), (reach, 0))[1] + least
    if needed > _total(problem):
        raise _too_much(problem, options, "the tables", "", needed, _total(problem))
    for reach, needed in by_reach.values():
        available = sum(reach.memory_bytes.tolist())
        if not reach.everywhere and needed > available:
            where = f" that they may use ({_devices(reach)})"
            tables = "the tables pinned to the same devices"
            raise _too_much(problem, options, tables, where, needed, available)


def _too_much(
    problem: ShardingProblem,
    options: SearchOptions,
    tables: str,
    where: str,
    needed: int,
    available: int,
) -> InsufficientMemoryError:
    devices = f"the {problem.cluster.num_devices} devices" if not where else f"the devices{where}"
    return InsufficientMemoryError(
        f"{tables} need {needed} bytes (weights and {problem.optimizer.value} state) and {devices} "
        f"have {available} (memory less the reservation): {needed - available} bytes are missing. "
        f"{advice(problem, options)}",
        missing_bytes=needed - available,
    )


def _check_table(
    problem: ShardingProblem, options: SearchOptions, table: EmbeddingTable, reach: Reach
) -> None:
    types = _types(problem, options, table)
    whole_bytes = _whole_bytes(problem, table)
    if ShardingType.TABLE_WISE in types and whole_bytes <= reach.largest_bytes:
        return  # nearly every table of nearly every request
    missing: dict[str, int] = {}
    for kind in types:
        for how, missing_bytes in _shortfall(problem, table, reach, kind):
            missing[how] = missing_bytes
    if not missing or min(missing.values()) <= 0:
        return
    ways = "; ".join(f"{how}, {short} too many" for how, short in missing.items())
    raise InsufficientMemoryError(
        f"table {table.name!r} ({whole_bytes} bytes) fits in none of its allowed ways, even with "
        f"all other tables left out: {ways}. {advice(problem, options)}",
        missing_bytes=min(missing.values()),
    )


def _shortfall(
    problem: ShardingProblem, table: EmbeddingTable, reach: Reach, kind: ShardingType
) -> Iterator[tuple[str, int]]:
    """What one way to cut a table needs in bytes, in words, and how much too much that is."""
    cluster = problem.cluster
    largest = reach.largest_bytes
    if kind is ShardingType.TABLE_WISE:
        needed = _whole_bytes(problem, table)
        yield f"table_wise needs {needed} bytes on one device of {largest}", needed - largest
    elif kind is ShardingType.COLUMN_WISE:
        if table.embedding_dim >= 2 * table.constraints.min_column_width:
            yield _column_shortfall(problem, table, reach)
    elif kind is ShardingType.DATA_PARALLEL:
        needed, least = problem.replica_bytes(table), _least_device(problem)
        yield f"data_parallel needs {needed} bytes on every device, one has {least}", needed - least
    else:
        wide = kind is ShardingType.ROW_WISE
        parts = cluster.num_devices if wide else cluster.devices_per_host
        rows = -(-table.num_embeddings // parts)
        needed = problem.shard_bytes(table, rows, table.embedding_dim)
        where = "every device" if wide else "every device of a host"
        # held against the largest device: the last of them may hold fewer rows
        yield f"{kind.value} needs {needed} bytes on {where}, one has {largest}", needed - largest


def _column_shortfall(
    problem: ShardingProblem, table: EmbeddingTable, reach: Reach
) -> tuple[str, int]:
    """The widest piece on every device together, against the table."""
    rows, least = table.num_embeddings, table.constraints.min_column_width
    state = problem.shard_bytes(table, rows, 0)
    four = problem.shard_bytes(table, rows, COLUMN_MULTIPLE) - state
    widths = (np.maximum(reach.memory_bytes - state, 0) // four) * COLUMN_MULTIPLE
    widths[widths < least] = 0
    narrowest = problem.shard_bytes(table, rows, least)
    if not widths.any():
        return (
            f"column_wise its narrowest piece, {least} of {table.embedding_dim} columns, needs "
            f"{narrowest} bytes on a device of {reach.largest_bytes}",
            narrowest - reach.largest_bytes,
        )
    columns = sum(widths.tolist())
    return (
        f"column_wise its devices hold {columns} of {table.embedding_dim} columns",
        (table.embedding_dim - columns) // COLUMN_MULTIPLE * four,
    )


def _check_group(
    problem: ShardingProblem,
    options: SearchOptions,
    group: str,
    members: list[int],
    reaches: Reaches,
) -> None:
    tables = [problem.tables[i] for i in members]
    needed = sum(_whole_bytes(problem, table) for table in tables)
    common = set.intersection(*(set(reaches.of(table).devices.tolist()) for table in tables))
    largest = max((problem.cluster.shard_memory_bytes(d) for d in common), default=0)
    if needed > largest:
        raise InsufficientMemoryError(
            f"the {len(tables)} tables of colocation group {group!r:.80} need {needed} bytes on "
            f"one device and the largest that they may use has {largest}: {needed - largest} bytes "
            f"are missing. {advice(problem, options)}",
            missing_bytes=needed - largest,
        )


def _least_bytes(problem: ShardingProblem, options: SearchOptions, table: EmbeddingTable) -> int:
    """Memory of a table over all devices, at least."""
    if _types(problem, options, table) == (ShardingType.DATA_PARALLEL,):
        return problem.cluster.num_devices * problem.replica_bytes(table)
    return _whole_bytes(problem, table)


def _types(
    problem: ShardingProblem, options: SearchOptions, table: EmbeddingTable
) -> tuple[ShardingType, ...]:
    """Ways to cut; on a single device each leaves a table whole, data-parallel no copy."""
    if problem.cluster.num_devices == 1:
        return (ShardingType.TABLE_WISE,)
    return allowed_sharding_types(table, options, problem.cluster)


def _whole_bytes(problem: ShardingProblem, table: EmbeddingTable) -> int:
    return problem.shard_bytes(table, table.num_embeddings, table.embedding_dim)


def _total(problem: ShardingProblem) -> int:
    cluster = problem.cluster
    return sum(cluster.shard_memory_bytes(device) for device in range(cluster.num_devices))


def _least_device(problem: ShardingProblem) -> int:
    cluster = problem.cluster
    return min(cluster.shard_memory_bytes(device) for device in range(cluster.num_devices))


def _devices(reach: Reach) -> str:
    shown = ", ".join(map(str, reach.devices[:8].tolist()))
    return f"{shown} and {len(reach.devices) - 8} more" if len(reach.devices) > 8 else shown
