"""The lookups of a rank's shards: one batch of the whole job, of which each shard sees its part.

Every rank draws the same batch of each table it has a part of (by seed, batch and table), so column
shards see the same lookups, row shards those of their rows, and copies those of their samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from shardwright.domain import EmbeddingTable, ShardingProblem
from shardwright_benchmark_worker.measure.lookups import Lookups, draw_lookups
from shardwright_benchmark_worker.replay.pieces import Piece
from shardwright_benchmark_worker.sampling import ComputeSample
from shardwright_costmodel.features import zipf_reuse_histogram

_STREAM = 5


def draw_table(
    problem: ShardingProblem, table: int, seed: int, number: int, device: torch.device
) -> Lookups:
    """The lookups of a whole table in batch `number`; the same on every rank."""
    wanted = problem.tables[table]
    sample = ComputeSample(
        index=table,
        global_batch_size=problem.global_batch_size,
        optimizer=problem.optimizer,
        weight_dtype=wanted.weight_dtype,
        num_embeddings=np.array([wanted.num_embeddings]),
        embedding_dim=np.array([wanted.embedding_dim]),
        pooling_factor=np.array([wanted.pooling_factor]),
        reuse_histogram=_histogram(wanted, problem.global_batch_size)[None],
    )
    rng = np.random.default_rng(np.random.SeedSequence((seed, _STREAM, number, table)))
    return draw_lookups(sample, rng, device)


def _histogram(table: EmbeddingTable, batch_size: int) -> npt.NDArray[np.float64]:
    if table.reuse_histogram is None:
        return zipf_reuse_histogram(table.num_embeddings, table.pooling_factor * batch_size)
    histogram = np.asarray(table.reuse_histogram, dtype=np.float64)
    return np.asarray(histogram / histogram.sum())


def rows_of(lookups: Lookups, first: int, count: int) -> Lookups:
    """The lookups of one table that hit rows `first` to `first + count`, counted from `first`."""
    indices = lookups.indices
    hit = (indices >= first) & (indices < first + count)
    before = torch.zeros(len(indices) + 1, dtype=torch.int64, device=indices.device)
    torch.cumsum(hit, dim=0, out=before[1:])
    return Lookups(indices[hit] - first, before[lookups.offsets])


def samples_of(lookups: Lookups, first: int, count: int) -> Lookups:
    """The lookups of one table in samples `first` to `first + count`."""
    offsets = lookups.offsets[first : first + count + 1]
    begin, end = int(offsets[0]), int(offsets[-1])
    return Lookups(lookups.indices[begin:end].clone(), offsets - begin)


def together(tables: Sequence[Lookups]) -> Lookups:
    """One operator's lookups: table after table, at least one."""
    offsets, begin = [], 0
    for table in tables:
        offsets.append(table.offsets[:-1] + begin)
        begin += len(table.indices)
    end = torch.tensor([begin], device=tables[0].offsets.device)
    return Lookups(torch.cat([t.indices for t in tables]), torch.cat([*offsets, end]))


def piece_lookups(whole: Lookups, piece: Piece) -> Lookups:
    """What a shard sees of its table's lookups."""
    if not piece.in_rows:
        return whole
    return rows_of(whole, piece.shard.row_offset, piece.shard.num_rows)
