"""Can device memory hold the tables at all, and if no plan was found, why."""

from __future__ import annotations

from shardwright.domain import (
    Cluster,
    EmbeddingTable,
    InsufficientMemoryError,
    SearchOptions,
    ShardingProblem,
)
from shardwright_server.search.pieces import Piece


def check_capacity(problem: ShardingProblem) -> None:
    """Checks what every column-wise plan needs, whatever the search.

    Raises:
        InsufficientMemoryError: When the tables exceed all memory together, or the narrowest
            legal piece of a table exceeds every device.
    """
    capacities = _capacities(problem.cluster)
    needed, available = problem.total_bytes, sum(capacities)
    if needed > available:
        raise InsufficientMemoryError(
            f"the tables need {needed} bytes (weights and {problem.optimizer.value} state) and "
            f"the {problem.cluster.num_devices} devices have {available} (memory less the "
            f"reservation): {needed - available} bytes are missing; "
            f"{_devices_needed(problem.cluster, needed - available)}",
            missing_bytes=needed - available,
        )
    largest = max(capacities)
    for table in problem.tables:
        width = _narrowest_width(table)
        piece_bytes = problem.shard_bytes(table, table.num_embeddings, width)
        if piece_bytes > largest:
            raise InsufficientMemoryError(
                f"table {table.name!r} fits on no device: its narrowest legal piece, {width} of "
                f"{table.embedding_dim} columns, needs {piece_bytes} bytes and the largest device "
                f"has {largest}: {piece_bytes - largest} bytes are missing; use devices with more "
                "memory, a smaller weight_dtype, an optimizer with less state or fewer rows"
                + _narrower(table),
                missing_bytes=piece_bytes - largest,
            )


def no_plan_error(
    problem: ShardingProblem, options: SearchOptions, misfit: Piece
) -> InsufficientMemoryError:
    """Explains a search that ended without a plan, though memory might hold the tables.

    Args:
        problem: The problem.
        options: The options it was searched with.
        misfit: The piece for which no device had room.
    """
    table = problem.tables[misfit.table]
    piece_bytes = problem.shard_bytes(table, table.num_embeddings, misfit.num_columns)
    capacities = _capacities(problem.cluster)
    largest = max(capacities)
    if piece_bytes > largest:
        why = f"and the largest device has {largest} bytes for shards"
    else:
        why = f"and no device had that much left (the largest has {largest} bytes in all)"
    return InsufficientMemoryError(
        f"no plan that fits was found by {options.algorithm.value} within "
        f"{options.max_column_splits} column splits: {misfit.num_columns} of "
        f"{table.embedding_dim} columns of table {table.name!r} need {piece_bytes} bytes, {why}; "
        f"all tables need {problem.total_bytes} bytes and all devices have {sum(capacities)}. "
        "Raise max_column_splits, beam_width and candidates, lower min_column_width, or give the "
        "job more or larger devices",
        missing_bytes=max(0, piece_bytes - largest),
    )


def _capacities(cluster: Cluster) -> list[int]:
    return [cluster.shard_memory_bytes(device) for device in range(cluster.num_devices)]


def _devices_needed(cluster: Cluster, missing_bytes: int) -> str:
    per_device = cluster.device_memory_bytes - cluster.reserved_memory_bytes
    devices = cluster.num_devices + -(-missing_bytes // per_device)
    return f"{devices} devices of {per_device} bytes for shards would hold them at best"


def _narrowest_width(table: EmbeddingTable) -> int:
    least = table.constraints.min_column_width
    return least if table.embedding_dim >= 2 * least else table.embedding_dim


def _narrower(table: EmbeddingTable) -> str:
    least = table.constraints.min_column_width
    return f", or lower its min_column_width ({least})" if least > 4 else ""
