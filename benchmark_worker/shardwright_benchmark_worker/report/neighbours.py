"""What a measurement should be, by those like it: rows far from it are suspects.

A regression of the logarithm of time on the logarithms of a few sizes, and their squares and
products, fitted so that outliers do not pull it (Huber's weights). It is no cost model, only good
enough to show what is wrong by a factor.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shardwright_benchmark_worker.report.bins import Histogram2D, LogBins
from shardwright_benchmark_worker.report.columns import Collectives, Operators

Array = npt.NDArray[Any]

FAR = 6.0
"""Robust standard deviations of rows of like time from which on a row is far off ..."""
FAR_FACTOR = 1.5
"""... if it also is this many times as long, or as short, as expected."""

_HUBER = 1.345
"""Huber's constant: 95 % efficient where errors are normal."""
_NORMAL = 1.4826
"""Standard deviation over median absolute deviation of a normal distribution."""
_LEAST_DEVIATION = 0.02
"""A row within some percent of its neighbours is never far, however alike they are."""
_BANDS = 12
_FINE_MS = LogBins(10, 8, -32, 40)
_SMALL_BYTES = 2.0**20
_SMALL_LOOKUPS = 2.0**14
"""Below such sizes launches and latencies are all the time there is, whatever the size."""
MIN_ROWS = 60
"""Fewer rows say too little about each other."""


def operator_sizes(operators: Operators) -> Array:
    """What a fused operator's time depends on, `[r, 12]`; the first 8 are logarithms of sizes."""
    o = operators
    logs = [
        np.log(o.gathered_bytes + _SMALL_BYTES),
        np.log(o.lookups + _SMALL_LOOKUPS),
        np.log(o.output_bytes + _SMALL_BYTES),
        np.log(o.weight_bytes + _SMALL_BYTES),
        np.log(o.distinct_rows + _SMALL_LOOKUPS),
        np.log(o.hottest),
        np.log(o.num_tables),
        np.log(o.batch),
    ]
    names = [o.optimizer == name for name in ("sgd", "adam", "adagrad")]
    return np.stack([*logs, *names, o.placement != "device"], axis=1).astype(np.float64)


def collective_sizes(collectives: Collectives) -> Array:
    """What a collective's time depends on, `[r, 4]`; the first 3 are logarithms of sizes."""
    c = collectives
    with np.errstate(divide="ignore", invalid="ignore"):
        hosts = c.world / c.per_host
        logs = [np.log(c.busiest_bytes + _SMALL_BYTES), np.log(c.world), np.log(hosts)]
    return np.stack([*logs, hosts > 1], axis=1).astype(np.float64)


NUM_OPERATOR_LOGS = 8
NUM_OPERATOR_SIZES = 12
NUM_COLLECTIVE_LOGS = 3
NUM_COLLECTIVE_SIZES = 4


@dataclass(frozen=True)
class Neighbourhood:
    """A fitted regression, and how far rows of like time lie from it.

    Attributes:
        num_logs: The first so many sizes also enter by their squares and products.
        middle: Of each regressor.
        scale: Of each regressor.
        coefficients: Of regressors, the constant last.
        band_edges: `[bands - 1]` expected log times between bands.
        band_middle: `[bands]` median residual.
        band_deviation: `[bands]` robust standard deviation of residuals.
    """

    num_logs: int
    middle: Array
    scale: Array
    coefficients: Array
    band_edges: Array
    band_middle: Array
    band_deviation: Array

    @classmethod
    def fit(cls, sizes: Array, times_ms: Array, num_logs: int) -> Neighbourhood | None:
        """Fits to a sample of rows; None when there are too few.

        Args:
            sizes: `[m, k]`.
            times_ms: `[m]`, above 0.
            num_logs: Leading columns of `sizes` that are logarithms.
        """
        if len(times_ms) < MIN_ROWS:
            return None
        raw, log_ms = _regressors(sizes, num_logs), np.log(times_ms)
        middle, scale = raw.mean(axis=0), raw.std(axis=0)
        scale = np.where(scale > 1e-9, scale, np.inf)
        coefficients = _huber(_design(raw, middle, scale), log_ms)
        expected = _design(raw, middle, scale) @ coefficients
        bands = max(1, min(_BANDS, len(log_ms) // 40))
        edges = np.quantile(expected, np.arange(1, bands) / bands)
        band = np.searchsorted(edges, expected)
        residuals = log_ms - expected
        middles = np.array([np.median(residuals[band == b]) for b in range(bands)])
        distances = np.abs(residuals - middles[band])
        deviations = np.array([np.median(distances[band == b]) for b in range(bands)])
        deviations = np.maximum(_NORMAL * deviations, _LEAST_DEVIATION)
        return cls(num_logs, middle, scale, coefficients, edges, middles, deviations)

    def expected_ms(self, sizes: Array) -> tuple[Array, Array]:
        """Expected times `[r]` of rows, and the standard deviation of their logarithms `[r]`."""
        raw = _regressors(sizes, self.num_logs)
        expected = _design(raw, self.middle, self.scale) @ self.coefficients
        band = np.searchsorted(self.band_edges, expected)
        return np.exp(expected + self.band_middle[band]), self.band_deviation[band]


def _regressors(sizes: Array, num_logs: int) -> Array:
    logs = sizes[:, :num_logs]
    first, second = np.triu_indices(num_logs)
    return np.concatenate([sizes, logs[:, first] * logs[:, second]], axis=1)


def _design(raw: Array, middle: Array, scale: Array) -> Array:
    standard = np.clip((raw - middle) / scale, -4.0, 4.0)
    return np.concatenate([standard, np.ones((len(raw), 1))], axis=1)


def _huber(design: Array, target: Array, rounds: int = 12) -> Array:
    """Iteratively reweighted least squares, with a breath of ridge against equal columns."""
    weights: Array = np.ones(len(target))
    ridge = 1e-6 * len(target) * np.eye(design.shape[1])
    ridge[-1, -1] = 0.0
    coefficients = np.zeros(design.shape[1])
    for _ in range(rounds):
        weighted = design * weights[:, None]
        coefficients = np.linalg.solve(weighted.T @ design + ridge, weighted.T @ target)
        distance = np.abs(target - design @ coefficients)
        deviation = max(_NORMAL * float(np.median(distance)), 1e-9)
        weights = np.minimum(1.0, _HUBER * deviation / np.maximum(distance, 1e-12))
    return coefficients


@dataclass(frozen=True, order=True)
class Suspect:
    """A row far from its neighbours.

    Attributes:
        deviations: How far, in standard deviations of its neighbours.
        part: Name of its part.
        row: In the part, from 0.
        quantity: Which time.
        time_ms: As recorded.
        expected_ms: By its neighbours.
        what: The row in words.
    """

    deviations: float
    part: str
    row: int
    quantity: str
    time_ms: float
    expected_ms: float
    what: str


class Worst:
    """The farthest rows seen so far, and how many were far.

    Args:
        size: Most suspects kept.
    """

    def __init__(self, size: int = 20) -> None:
        self._size = size
        self._heap: list[Suspect] = []
        self.far = 0
        self.seen = 0
        self.times = Histogram2D(_FINE_MS, _FINE_MS)
        """Expected by recorded time of everything looked at."""

    def add(self, suspects: list[Suspect], far: int, expected_ms: Array, times_ms: Array) -> None:
        """Offers suspects, and says how many rows were far, and what all the times are."""
        for suspect in suspects:
            heapq.heappush(self._heap, suspect)
            if len(self._heap) > self._size:
                heapq.heappop(self._heap)
        self.far += far
        self.seen += len(times_ms)
        self.times.add(expected_ms, times_ms)

    def suspects(self) -> list[Suspect]:
        """The farthest first."""
        return sorted(self._heap, reverse=True)
