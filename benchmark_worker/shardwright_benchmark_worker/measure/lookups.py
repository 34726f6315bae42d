"""Lookups that meet a table's pooling factor and reuse histogram.

The number of distinct rows is lookups / (lookups per distinct row of the histogram), at most the
table's rows. They are divided over the 17 bins by the histogram's shares and, inside a bin, spread
evenly over its access counts. Counts are then scaled to the number of lookups exactly: by nearly
1, but for a table with too few rows for its histogram, whose rows are all hit harder. Distinct rows
are spread over the whole table, hot ones anywhere, and a batch's lookups come in random order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from shardwright.domain import REUSE_BINS
from shardwright_benchmark_worker.sampling import ComputeSample
from shardwright_benchmark_worker.sampling.reuse import mean_reuse

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Lookups:
    """The batch of a fused operator with `t` tables.

    Attributes:
        indices: `[lookups] int64`, rows, table after table, bag after bag.
        offsets: `[t * batch + 1] int64`, where each bag begins.
    """

    indices: torch.Tensor
    offsets: torch.Tensor


def draw_lookups(sample: ComputeSample, rng: np.random.Generator, device: torch.device) -> Lookups:
    """Draws the batch of a sample; the same generator state gives the same batch."""
    shuffler = torch.Generator(device=device).manual_seed(int(rng.integers(2**63)))
    indices, lengths = [], []
    for rows, pooling, histogram in zip(
        sample.num_embeddings.tolist(),
        sample.pooling_factor.tolist(),
        sample.reuse_histogram,
        strict=True,
    ):
        total = max(round(pooling * sample.global_batch_size), 1)
        counts = access_counts(histogram, rows, total, rng)
        ids = torch.from_numpy(_spread(rows, len(counts), rng)).to(device)
        repeats = torch.from_numpy(rng.permutation(counts)).to(device)
        table = torch.repeat_interleave(ids, repeats)
        order = torch.randperm(len(table), generator=shuffler, device=device)
        indices.append(table[order])
        lengths.append(_bag_lengths(total, sample.global_batch_size, rng))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
    return Lookups(torch.cat(indices), torch.from_numpy(offsets).to(device))


def access_counts(
    histogram: npt.NDArray[np.float64], num_rows: int, total: int, rng: np.random.Generator
) -> IntArray:
    """Accesses of every distinct row, in rising order; at least 1 each, `total` together.

    Args:
        histogram: `[17]`, sum 1.
        num_rows: Rows of the table, at least 1.
        total: Lookups, at least 1.
        rng: Breaks ties of rounding.
    """
    distinct = min(max(round(total / float(mean_reuse(histogram))), 1), num_rows, total)
    # systematic sampling: each bin gets its share of rows, rounded without bias
    edges = np.floor(np.cumsum(histogram) / histogram.sum() * distinct + rng.random())
    rows_in_bin = np.diff(np.minimum(edges, distinct), prepend=0).astype(np.int64)
    rows_in_bin[np.flatnonzero(histogram)[-1]] += distinct - rows_in_bin.sum()
    wanted = np.concatenate([_counts_in_bin(i, n) for i, n in enumerate(rows_in_bin)])
    # one access each is certain; the rest is shared out in proportion, rounded without bias
    spare = np.maximum(wanted - 1.0, 1e-9)
    edges = np.floor(np.cumsum(spare) * ((total - distinct) / spare.sum()) + rng.random())
    edges[-1] = total - distinct
    return np.asarray(1 + np.diff(np.minimum(edges, total - distinct), prepend=0), dtype=np.int64)


def _counts_in_bin(index: int, num_rows: int) -> npt.NDArray[np.float64]:
    """Access counts spread evenly over the whole numbers of a bin; the last one ends at 65536."""
    low, high = (1, 1) if index == 0 else (2 ** (index - 1) + 1, 2**index)
    assert index < REUSE_BINS
    place = (np.arange(num_rows) + 0.5) / max(num_rows, 1)
    return low + np.floor(place * (high - low + 1))


def _spread(num_rows: int, distinct: int, rng: np.random.Generator) -> IntArray:
    """Distinct row numbers, one from each of `distinct` equal stretches of the table."""
    edges = np.arange(distinct + 1, dtype=np.int64) * num_rows // distinct
    width = np.diff(edges)
    return np.asarray(edges[:-1] + np.floor(rng.random(distinct) * width), dtype=np.int64)


def _bag_lengths(total: int, batch_size: int, rng: np.random.Generator) -> IntArray:
    """Lookups of each sample: all the floor or ceiling of the pooling factor, `total` together."""
    lengths = np.full(batch_size, total // batch_size, dtype=np.int64)
    lengths[rng.choice(batch_size, total % batch_size, replace=False, shuffle=False)] += 1
    return lengths
