"""Reuse histograms: what a bin stands for, and how a histogram changes with the batch."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from shardwright.domain import REUSE_BINS

FloatArray = npt.NDArray[np.float64]

MAX_SHIFT = 20
"""Histograms are rescaled by at most 2**MAX_SHIFT either way."""

BIN_COUNTS: FloatArray = np.array([1.0] + [0.75 * 2**i + 0.5 for i in range(1, REUSE_BINS)])
"""`[17]`, the access count a bin stands for: the mean of the whole numbers in (2^(i-1), 2^i]. The
open last bin is treated like (32768, 65536]."""


def mean_reuse(reuse_histogram: npt.ArrayLike) -> FloatArray:
    """Lookups per distinct row, `[..., 17] -> [...]`; the scale of a histogram does not matter."""
    histogram = np.asarray(reuse_histogram, dtype=np.float64)
    return np.asarray(histogram @ BIN_COUNTS / histogram.sum(axis=-1))


def rescale(reuse_histogram: FloatArray, factor: FloatArray) -> FloatArray:
    """Histograms of a batch `factor` times as large.

    A row's accesses are Poisson with a rate that grows with the batch; rows that are not accessed
    at all drop out. Rows that the first batch never touched are unknown to its histogram, so none
    are added. Computed for powers of two and interpolated between them.

    Args:
        reuse_histogram: `[n, 17]`, each row of sum 1.
        factor: `[n]`, above 0; clipped to 2**-MAX_SHIFT .. 2**MAX_SHIFT.

    Returns:
        `[n, 17] float64`, each row of sum 1.
    """
    shift = np.clip(np.log2(factor), -MAX_SHIFT, MAX_SHIFT - 1e-9)
    below = np.floor(shift).astype(np.int64)
    part = (shift - below)[:, None]
    matrices = _shift_matrices()
    low = np.einsum("nij,ni->nj", matrices[below + MAX_SHIFT], reuse_histogram)
    high = np.einsum("nij,ni->nj", matrices[below + MAX_SHIFT + 1], reuse_histogram)
    mixed = low / low.sum(axis=1, keepdims=True) * (1 - part)
    mixed += high / high.sum(axis=1, keepdims=True) * part
    return np.asarray(mixed)


def uniform_histogram(num_rows: float, lookups: float) -> FloatArray:
    """The expected histogram of a table whose rows are all equally popular, `[17]`, sum 1."""
    accessed = _accessed_by_bin(lookups / num_rows)
    return np.asarray(accessed / accessed.sum())


@lru_cache(maxsize=1)
def _shift_matrices() -> FloatArray:
    """`[2 * MAX_SHIFT + 1, 17, 17]`: where a row of bin i goes when the batch grows by 2**shift."""
    matrices = [
        [_accessed_by_bin(count * 2.0**shift) for count in BIN_COUNTS]
        for shift in range(-MAX_SHIFT, MAX_SHIFT + 1)
    ]
    matrices[MAX_SHIFT] = list(np.eye(REUSE_BINS))
    return np.array(matrices)


def _accessed_by_bin(rate: float) -> FloatArray:
    """`[17]`, probability that a row of Poisson `rate` is accessed and falls into each bin."""
    edges = [_poisson_cdf(2**i, rate) for i in range(REUSE_BINS - 1)]
    accessed = np.maximum(np.diff([_poisson_cdf(0, rate), *edges, 1.0]), 0.0)
    # rates can underflow: then a row that is accessed at all is accessed once
    accessed[0] = max(accessed[0], 1e-300)
    return np.asarray(accessed)


def _poisson_cdf(count: int, rate: float) -> float:
    if rate > 64:
        # normal approximation with continuity correction
        return 0.5 * math.erfc((rate - count - 0.5) / math.sqrt(2 * rate))
    if count > rate + 12 * math.sqrt(rate) + 40:
        return 1.0
    term = math.exp(-rate)
    total = term
    for k in range(1, count + 1):
        term *= rate / k
        total += term
    return min(total, 1.0)
