"""Transfers by the largest sum of dims, for many assignments at once."""

from __future__ import annotations

import numpy as np
from numba import njit

from shardwright_costmodel.features import FloatArray
from shardwright_server.search.cost import PlanEvaluator
from shardwright_server.search.pieces import Float64Array, IntArray

POINTS = 17
END = 3.0
"""A curve has so many points, from the mean of dims to this multiple of it, evenly spaced; it is
straight between them and beyond."""
_MEANS = 25
"""Means of dims for which a cluster of one host gets curves, evenly spaced in logarithms; between
them curves are interpolated."""


class TransferCurves:
    """Curves of a problem.

    Args:
        evaluator: Of the problem.
    """

    def __init__(self, evaluator: PlanEvaluator) -> None:
        self._evaluator = evaluator
        self._num_hosts = evaluator.problem.cluster.num_hosts
        self._known: dict[tuple[float, float], FloatArray] = {}
        self._grid: FloatArray | None = None
        total = max(1, sum(table.embedding_dim for table in evaluator.problem.tables))
        # from everything copied or cut in columns to everything cut in rows
        num_devices = evaluator.problem.cluster.num_devices
        self._grid_means = total / num_devices * num_devices ** np.linspace(0.0, 1.0, _MEANS)

    def of(self, dims: IntArray) -> tuple[FloatArray, Float64Array]:
        """Curves of assignments with sums of dims `[k, w]`, while the means do not change.

        Returns:
            Forward and backward transfer, `[k, POINTS] float32`, ms, of the device with the largest
            sum of dims; and the mean of dims of each assignment, `[k]`, at least 1.
        """
        means = np.maximum(1.0, dims.mean(axis=1))
        if self._num_hosts == 1 and self._grid_means[0] <= means.min():
            return self._interpolated(means), means
        hosts = dims.reshape(len(dims), self._num_hosts, -1)
        facts = list(zip(means.tolist(), hosts.mean(axis=2).max(axis=1).tolist(), strict=True))
        new = [fact for fact in dict.fromkeys(facts) if fact not in self._known]
        if new:
            self._known.update(zip(new, self._curves(*np.array(new).T), strict=True))
        return np.array([self._known[fact] for fact in facts]), means

    def _interpolated(self, means: Float64Array) -> FloatArray:
        if self._grid is None:
            self._grid = self._curves(self._grid_means, self._grid_means)
        curves = np.empty((len(means), POINTS), dtype=np.float32)
        _interpolate(self._grid_means, self._grid, means, curves)
        return curves

    def _curves(self, means: Float64Array, fullest: Float64Array) -> FloatArray:
        """Curves by means of dims and means of the fullest host, `[n]` each, `[n, POINTS]`."""
        points = means[:, None] * np.linspace(1.0, END, POINTS)
        ms = self._evaluator.transfer_ms(
            points.ravel(), np.repeat(means, POINTS), np.repeat(fullest, POINTS)
        )
        # more to transfer never takes less time, whatever the model makes of it
        return np.maximum.accumulate(ms.sum(axis=1).reshape(points.shape), axis=1).astype(
            np.float32
        )


@njit(cache=True)
def _interpolate(
    grid_means: Float64Array, grid: FloatArray, means: Float64Array, curves: FloatArray
) -> None:
    """Fills curves, `[k, POINTS]`, from those of a grid of means, `[m, POINTS]`."""
    for row in range(len(means)):
        step = min(max(np.searchsorted(grid_means, means[row]), 1), len(grid_means) - 1) - 1
        span = grid_means[step + 1] - grid_means[step]  # 0 on a single device
        share = np.float32(min((means[row] - grid_means[step]) / span, 1.0) if span else 0.0)
        for point in range(curves.shape[1]):
            low, high = grid[step, point], grid[step + 1, point]
            curves[row, point] = low + share * (high - low)
