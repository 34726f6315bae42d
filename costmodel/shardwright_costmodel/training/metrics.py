"""Accuracy of predictions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def mape_percent(truth: npt.ArrayLike, prediction: npt.ArrayLike) -> float:
    """Mean absolute percentage error; truths must be positive."""
    true, predicted = np.asarray(truth, np.float64), np.asarray(prediction, np.float64)
    return float(100.0 * np.mean(np.abs(predicted - true) / true))


def kendall_tau(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Kendall's rank correlation tau-b of two `[n]` arrays, 1 for the same order.

    Knight's method (JASA 61, 1966): sorted by the first, the discordant pairs are the inversions of
    the second. 0 when one of the two is constant: there is no order to agree with.
    """
    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    order = np.lexsort((y, x))
    x, y = x[order], y[order]
    pairs = len(x) * (len(x) - 1) // 2
    ties_x, ties_y = _tied_pairs(x[:, None]), _tied_pairs(np.sort(y)[:, None])
    ties_both = _tied_pairs(np.stack([x, y], axis=1))
    excess = pairs - ties_x - ties_y + ties_both - 2 * _inversions(y)
    scale = np.sqrt(float(pairs - ties_x)) * np.sqrt(float(pairs - ties_y))
    return float(excess / scale) if scale else 0.0


def _tied_pairs(ordered: Array) -> int:
    """Pairs of equal rows of a sorted `[n, k]` array."""
    starts = np.flatnonzero(np.r_[True, np.any(ordered[1:] != ordered[:-1], axis=1)])
    runs = np.diff(np.r_[starts, len(ordered)])
    return int(np.sum(runs * (runs - 1) // 2))


def _inversions(values: Array) -> int:
    """Pairs i < j with values[i] > values[j]: a bottom-up merge sort, each level vectorised."""
    size = 1 << max(0, len(values) - 1).bit_length()
    blocks = np.full(size, np.inf)
    blocks[: len(values)] = values
    count = 0
    half = 1
    while half < size:
        pairs = blocks.reshape(-1, 2 * half)
        order = np.argsort(pairs, axis=1, kind="stable")
        # a value of the right half is put after the left values that are not larger; the others
        # of its left half are inversions
        is_right = order >= half
        left_before = np.cumsum(~is_right, axis=1)
        count += int(np.sum((half - left_before) * is_right))
        blocks = np.take_along_axis(pairs, order, axis=1).ravel()
        half *= 2
    return count
