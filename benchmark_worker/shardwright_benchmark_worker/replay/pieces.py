"""What each rank holds of a plan, and how its pooled outputs travel.

Every rank pools its shards for the whole batch and sends each rank that one's part of the batch, as
TorchRec does. The output of a row shard is a partial sum: the receiver adds the sums of all row
shards of a table. That moves the bytes of the reduce-scatter that TorchRec uses for them, in the
same all-to-all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shardwright.domain import Shard, ShardingType, WeightDtype
from shardwright_benchmark_worker.replay.files import PlannedJob

_DTYPE_ORDER = tuple(WeightDtype)


@dataclass(frozen=True)
class Piece:
    """A shard on its rank.

    Attributes:
        table: Index of its table in the problem.
        shard: The rectangle.
        in_rows: Whether the other rows of the table are elsewhere: pooled outputs are partial sums.
        offset: Its first column in the pooled output of its rank.
    """

    table: int
    shard: Shard
    in_rows: bool
    offset: int


def rank_pieces(job: PlannedJob, rank: int) -> tuple[Piece, ...]:
    """Shards of a rank by weight dtype, then table; without data-parallel copies and empty rows.

    A fused operator has one weight dtype, so a rank's pooled output is that of fp32 shards, then
    that of the others.
    """
    index = {table.name: i for i, table in enumerate(job.problem.tables)}
    held = [
        shard
        for shard in job.result.plan.shards
        if shard.device == rank
        and shard.num_rows
        and job.types[shard.table] is not ShardingType.DATA_PARALLEL
    ]

    def place(shard: Shard) -> tuple[int, int, int]:
        dtype = job.problem.tables[index[shard.table]].weight_dtype
        return _DTYPE_ORDER.index(dtype), index[shard.table], shard.column_offset

    pieces, offset = [], 0
    for shard in sorted(held, key=place):
        table = index[shard.table]
        in_rows = shard.num_rows != job.problem.tables[table].num_embeddings
        pieces.append(Piece(table, shard, in_rows, offset))
        offset += shard.num_columns
    return tuple(pieces)


def width(pieces: Sequence[Piece]) -> int:
    """Columns of the pooled output of a rank."""
    return sum(piece.shard.num_columns for piece in pieces)


def copied_tables(job: PlannedJob) -> tuple[int, ...]:
    """Indices of the data-parallel tables, of which every rank holds a copy."""
    return tuple(
        i
        for i, table in enumerate(job.problem.tables)
        if job.types[table.name] is ShardingType.DATA_PARALLEL
    )


@dataclass(frozen=True)
class PartialSum:
    """Pooled outputs that arrive from one rank and are added to those of another.

    Attributes:
        rank: Where they come from.
        offset: Their first column among those of `rank`.
        num_columns: Width.
        into_rank: The first rank with rows of the table.
        into_offset: Their first column among those of `into_rank`.
    """

    rank: int
    offset: int
    num_columns: int
    into_rank: int
    into_offset: int


def partial_sums(by_rank: Sequence[Sequence[Piece]]) -> tuple[PartialSum, ...]:
    """The additions that make whole outputs of row-wise tables, given the pieces of every rank."""
    first: dict[int, tuple[int, int]] = {}
    sums = []
    for rank, pieces in enumerate(by_rank):
        for piece in pieces:
            if not piece.in_rows:
                continue
            into_rank, into_offset = first.setdefault(piece.table, (rank, piece.offset))
            if into_rank != rank:
                sums.append(
                    PartialSum(rank, piece.offset, piece.shard.num_columns, into_rank, into_offset)
                )
    return tuple(sums)


def local_batches(global_batch_size: int, world_size: int) -> list[int]:
    """Samples of each rank; they differ by one where the batch does not divide."""
    ends = [global_batch_size * (rank + 1) // world_size for rank in range(world_size)]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
