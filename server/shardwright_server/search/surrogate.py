"""A quick stand-in for the computation model near one plan, for what asks it millions of times.

    computation ~ rates . x + curve(z_0) + z . bends z        z = directions . (x - middle)

of what a device holds, `x`. Along most directions computation grows nearly as a sum does; along a
few it does not: the hottest row of a batch is worked off while others are, so the second hot table
on a device costs less than the first. Those are the directions along which slopes change most near
the plan (the active subspace of the slopes: Constantine, "Active Subspaces", SIAM 2015). The curve
along the first is straight between knots, and all of it is fitted by least squares to what the
model predicts of devices like the plan's. On tasks of 400 tables for 32 devices what it misses is
0.06 % of a plan's cost, of a device that it was not fitted to; rates alone miss 0.5 %.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from shardwright_costmodel.features import FloatArray
from shardwright_server.search.pieces import Float64Array

_NEAR = 0.06
"""Devices that take longer or shorter than the middle one by more, relative, are left out."""
_SLOPES, _STEP = 48, 0.05
"""Devices at which slopes are taken, by steps of so many times the mean."""
DIRECTIONS = 3
_KNOTS, _POINTS = 24, 200
"""Of the curve when it is fitted, as evenly as devices lie, and evenly spaced in the end."""
_RIDGE = 1e-3
_LEAST_ROWS = 4
"""Rows that a fit needs for each of its coefficients."""


class Surrogate(NamedTuple):
    """See the module.

    Attributes:
        rates: `[e] float64`, ms of each channel.
        directions: `[e, DIRECTIONS] float64`.
        middle: `[DIRECTIONS] float64`, where they are zero.
        curve: `[POINTS] float64`, ms, straight between its points and beyond them.
        begin: Where its first point lies along the first direction.
        step: From one point to the next.
        bends: `[DIRECTIONS, DIRECTIONS] float64`, symmetric.
    """

    rates: Float64Array
    directions: Float64Array
    middle: Float64Array
    curve: Float64Array
    begin: float
    step: float
    bends: Float64Array


class Fitter:
    """Fits surrogates to ever more devices.

    Args:
        predict_ms: The model: `[n, e] float32 -> [n] float64`.
        rng: Where slopes are taken.
    """

    def __init__(
        self, predict_ms: Callable[[FloatArray], Float64Array], rng: np.random.Generator
    ) -> None:
        self._predict_ms, self._rng = predict_ms, rng
        self._rows: list[FloatArray] = []
        self._ms: list[Float64Array] = []
        self._weights: list[Float64Array] = []
        self._directions: Float64Array | None = None

    def add(self, rows: FloatArray, weight: float) -> None:
        """Adds devices, `[n, e]`, that count so much each."""
        self._rows.append(rows)
        self._ms.append(self._predict_ms(rows))
        self._weights.append(np.full(len(rows), weight))

    def fit(self) -> Surrogate | None:
        """By all devices so far; None where too few of them are alike."""
        rows, ms = np.concatenate(self._rows).astype(np.float64), np.concatenate(self._ms)
        middle_ms = float(np.median(ms))
        near = np.abs(ms - middle_ms) <= _NEAR * middle_ms
        rows, ms, weights = rows[near], ms[near], np.concatenate(self._weights)[near]
        e = rows.shape[1]
        if len(rows) < _LEAST_ROWS * (1 + e + _KNOTS):
            return None
        mean, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-9
        if self._directions is None:
            self._directions = self._steepest(rows, mean, spread)
        along = (rows - mean) @ self._directions
        knots = np.unique(np.quantile(along[:, 0], np.linspace(0.0, 1.0, _KNOTS)))
        if len(knots) < 2:
            return None
        first, second = np.triu_indices(DIRECTIONS)
        hats = _hats(along[:, 0], knots)[:, 1:]
        products = along[:, first] * along[:, second]
        scale = products.std(axis=0) + 1e-9
        terms = np.concatenate(
            [np.ones((len(rows), 1)), (rows - mean) / spread, hats, products / scale], axis=1
        )
        weighted = terms.T * weights
        found = np.linalg.solve(weighted @ terms + _RIDGE * np.eye(terms.shape[1]), weighted @ ms)
        rates, heights = found[1 : 1 + e] / spread, found[1 + e : 1 + e + hats.shape[1]]
        points = np.linspace(knots[0], knots[-1], _POINTS)
        bends = np.zeros((DIRECTIONS, DIRECTIONS))
        bends[first, second] = found[1 + e + hats.shape[1] :] / scale
        return Surrogate(
            rates=rates,
            directions=self._directions,
            middle=mean @ self._directions,
            curve=np.interp(points, knots, np.append(0.0, heights)) + found[0] - mean @ rates,
            begin=float(points[0]),
            step=float(points[1] - points[0]),
            bends=(bends + bends.T) / 2.0,
        )

    def _steepest(
        self, rows: Float64Array, mean: Float64Array, spread: Float64Array
    ) -> Float64Array:
        """The directions along which slopes change most, in channels over how they spread."""
        e = len(mean)
        steps = _STEP * np.maximum(mean, 1e-6)
        around = np.repeat(rows[self._rng.integers(len(rows), size=_SLOPES), None], e + 1, axis=1)
        channels = np.arange(e)
        around[:, channels, channels] += steps  # the last as it is
        ms = self._predict_ms(around.reshape(-1, e).astype(np.float32)).reshape(_SLOPES, e + 1)
        slopes = (ms[:, :e] - ms[:, e:]) / steps * spread
        slopes -= slopes.mean(axis=0)
        steepest = np.linalg.eigh(slopes.T @ slopes)[1][:, : -DIRECTIONS - 1 : -1]
        directions = np.zeros((e, DIRECTIONS))  # of a model of fewer channels some lead nowhere
        directions[:, : steepest.shape[1]] = steepest / spread[:, None]
        return directions


def _hats(values: Float64Array, knots: Float64Array) -> Float64Array:
    """Weights of knots by which values are interpolated, `[n, knots]`."""
    right = np.clip(np.searchsorted(knots, values), 1, len(knots) - 1)
    share = (values - knots[right - 1]) / (knots[right] - knots[right - 1])
    hats, rows = np.zeros((len(values), len(knots))), np.arange(len(values))
    hats[rows, right - 1], hats[rows, right] = 1.0 - share, share
    return hats
