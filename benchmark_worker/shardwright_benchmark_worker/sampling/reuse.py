"""Reuse histograms: what a bin stands for, and how a histogram changes with the batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

from shardwright.domain import REUSE_BINS

FloatArray = npt.NDArray[np.float64]

MAX_SHIFT = 12
"""Histograms are rescaled by at most 2**MAX_SHIFT either way."""

_EXACT_MEAN = 256.0
"""Above it, distributions are taken as normal."""
_LOG_FACTORIAL: FloatArray = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, 1024.0)))])

BIN_COUNTS: FloatArray = np.array([1.0] + [0.75 * 2**i + 0.5 for i in range(1, REUSE_BINS)])
"""`[17]`, the access count a bin stands for: the mean of the whole numbers in (2^(i-1), 2^i]. The
open last bin is treated like (32768, 65536]."""


def mean_reuse(reuse_histogram: npt.ArrayLike) -> FloatArray:
    """Lookups per distinct row, `[..., 17] -> [...]`; the scale of a histogram does not matter."""
    histogram = np.asarray(reuse_histogram, dtype=np.float64)
    return np.asarray(histogram @ BIN_COUNTS / histogram.sum(axis=-1))


def rescale(reuse_histogram: FloatArray, factor: FloatArray) -> FloatArray:
    """Histograms of a batch `factor` times as large.

    Of a smaller batch: each access is kept with probability `factor`, and rows without any drop
    out. Of a larger one: a row accessed c times is accessed Poisson(c (factor - 1)) times more;
    rows that the first batch never touched are unknown to its histogram, so none are added.
    Computed for powers of two and interpolated between them.

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
    rate = lookups / num_rows
    accessed = _in_bins(0, rate, rate, _poisson)
    return np.asarray(accessed / accessed.sum())


@lru_cache(maxsize=1)
def _shift_matrices() -> FloatArray:
    """`[2 * MAX_SHIFT + 1, 17, 17]`: where a row of bin i goes when the batch grows by 2**shift."""
    shifts = range(-MAX_SHIFT, MAX_SHIFT + 1)
    return np.array([[_moved(i, 2.0**shift) for i in range(REUSE_BINS)] for shift in shifts])


def _moved(bin_index: int, factor: float) -> FloatArray:
    """`[17]`, mean over the access counts c of a bin."""
    low, high = (1, 1) if bin_index == 0 else (2 ** (bin_index - 1) + 1, 2**bin_index)
    counts = np.unique(np.rint(np.linspace(low, high, 8))).astype(int).tolist()
    if factor == 1.0:
        return np.asarray(np.eye(REUSE_BINS)[bin_index])
    if factor > 1.0:
        more = factor - 1.0
        moved = [_in_bins(c, c * more, c * more, _poisson) for c in counts]
    else:
        moved = [
            _in_bins(0, c * factor, c * factor * (1 - factor), partial(_binomial, c, factor))
            for c in counts
        ]
    return np.asarray(np.mean(moved, axis=0))


def _in_bins(
    base: int, mean: float, variance: float, probabilities: Callable[[float], FloatArray]
) -> FloatArray:
    """`[17]`, probability that `base` plus a random number of accesses is in each bin, not 0."""
    if mean > _EXACT_MEAN:
        # so large a number of accesses is never 0
        ends = [2**i + 0.5 - base - mean for i in range(REUSE_BINS - 1)]
        cdf = [0.5 * math.erfc(-end / math.sqrt(2 * variance)) for end in ends]
        accessed = np.maximum(np.diff([0.0, *cdf, 1.0]), 0.0)
    else:
        pmf = probabilities(mean)
        counts = base + np.arange(len(pmf))
        bins = np.ceil(np.log2(np.maximum(counts, 1))).astype(np.int64)
        weights = np.where(counts > 0, pmf, 0.0)
        accessed = np.bincount(np.minimum(bins, REUSE_BINS - 1), weights, minlength=REUSE_BINS)
    # rates can underflow: then a row that is accessed at all is accessed once
    accessed[0] = max(accessed[0], 1e-300)
    return np.asarray(accessed, dtype=np.float64)


def _poisson(mean: float) -> FloatArray:
    counts = np.arange(len(_LOG_FACTORIAL))
    log_mean = math.log(max(mean, 1e-300))
    return np.asarray(np.exp(counts * log_mean - mean - _LOG_FACTORIAL))


def _binomial(trials: int, chance: float, mean: float) -> FloatArray:
    if trials >= len(_LOG_FACTORIAL):
        return _poisson(mean)
    counts = np.arange(trials + 1)
    log_choose = _LOG_FACTORIAL[trials] - _LOG_FACTORIAL[counts] - _LOG_FACTORIAL[trials - counts]
    log_chances = counts * math.log(chance) + (trials - counts) * math.log1p(-chance)
    return np.asarray(np.exp(log_choose + log_chances))
