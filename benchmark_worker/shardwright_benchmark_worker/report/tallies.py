"""What a report counts of fused operators and of collectives, piece by piece of the parts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from shardwright_benchmark_worker.report.bins import Histogram, Histogram2D, LogBins, Reservoir
from shardwright_benchmark_worker.report.columns import Collectives, Operators
from shardwright_benchmark_worker.report.neighbours import (
    NUM_COLLECTIVE_LOGS,
    NUM_COLLECTIVE_SIZES,
    NUM_OPERATOR_LOGS,
    NUM_OPERATOR_SIZES,
    Neighbourhood,
    collective_sizes,
    operator_sizes,
)

Array = npt.NDArray[Any]

DRIFT_PERCENT = 15.0
"""From this drift of the reference kernel on, a device was throttled or shared: the default of
`--max-drift-percent`."""

OCTAVES = LogBins(2, 1, 0, 40)
TIMES_MS = LogBins(10, 4, -16, 20)
FINE_BYTES = LogBins(2, 2, 0, 90)
FINE_MS = LogBins(10, 8, -32, 40)
NOISE_PERCENT = LogBins(10, 4, -8, 12)
ROWS = LogBins(10, 1, 0, 10)
POOLING = LogBins(10, 3, -9, 12)
IMBALANCE = LogBins(2, 2, 0, 16)
SKEW_MS = LogBins(10, 2, -6, 6)
DRIFT = LogBins(2, 1, -5, 8)

SAMPLE = 20_000
"""Rows behind scatter plots and regressions."""
_MAX_TABLES = 4096
_WORST_PARTS = 20


def _by_bytes() -> tuple[Histogram2D, Histogram2D]:
    return Histogram2D(FINE_BYTES, FINE_MS), Histogram2D(FINE_BYTES, FINE_MS)


@dataclass
class Noise:
    """How noisy times are, by their size.

    Attributes:
        spread: Time in ms by the distance from p10 to p90 in percent of the median.
        ci: Time by the half width of the median's confidence interval, in percent.
        exact: Rows whose repetitions agree to the last digit, as modelled ones do.
    """

    spread: Histogram2D = field(default_factory=lambda: Histogram2D(TIMES_MS, NOISE_PERCENT))
    ci: Histogram2D = field(default_factory=lambda: Histogram2D(TIMES_MS, NOISE_PERCENT))
    exact: int = 0

    def add(self, times_ms: Array, spread_percent: Array, ci_percent: Array) -> None:
        """Counts rows, all `[r]`; those without a number are left out."""
        for histogram, percent in ((self.spread, spread_percent), (self.ci, ci_percent)):
            there = np.isfinite(times_ms) & (times_ms > 0) & np.isfinite(percent) & (percent > 0)
            histogram.add(times_ms[there], percent[there])
        self.exact += int((spread_percent == 0).sum())


@dataclass
class Drift:
    """How far the reference kernel was from its time at the start.

    Attributes:
        sizes: Absolute drift in percent.
        recorded: Rows that say.
        flagged: Rows at `DRIFT_PERCENT` or more.
        parts: Flagged rows and worst drift by part, the worst parts only.
    """

    sizes: Histogram = field(default_factory=lambda: Histogram(DRIFT))
    recorded: int = 0
    flagged: int = 0
    parts: dict[str, tuple[int, float]] = field(default_factory=dict)

    def add(self, part: str, drift_percent: Array) -> None:
        """Counts rows of a part; those of one part come one after another."""
        drift = drift_percent[np.isfinite(drift_percent)]
        self.sizes.add(np.abs(drift))
        self.recorded += len(drift)
        far = drift[np.abs(drift) >= DRIFT_PERCENT]
        self.flagged += len(far)
        if len(far):
            self._flag(part, len(far), float(far[np.abs(far).argmax()]))

    def _flag(self, part: str, rows: int, worst: float) -> None:
        if part not in self.parts and len(self.parts) >= 2 * _WORST_PARTS:
            ordered = sorted(self.parts.items(), key=lambda item: -item[1][0])
            self.parts = dict(ordered[:_WORST_PARTS])
        before, worst_before = self.parts.get(part, (0, 0.0))
        self.parts[part] = (before + rows, max(worst_before, worst, key=abs))


@dataclass
class OperatorTally:
    """Fused operators. Attributes count tables where they say so, otherwise operators."""

    count: int = 0
    tables: int = 0
    infeasible: int = 0
    unusable: int = 0
    num_tables: Array = field(default_factory=lambda: np.zeros(_MAX_TABLES + 1, np.int64))
    batch: Histogram = field(default_factory=lambda: Histogram(OCTAVES))
    gathered_bytes: Histogram = field(default_factory=lambda: Histogram(OCTAVES))
    dim: Histogram = field(default_factory=lambda: Histogram(OCTAVES))
    rows: Histogram = field(default_factory=lambda: Histogram(ROWS))
    pooling: Histogram = field(default_factory=lambda: Histogram(POOLING))
    rows_by_dim: Histogram2D = field(default_factory=lambda: Histogram2D(ROWS, OCTAVES))
    batch_by_pooling: Histogram2D = field(default_factory=lambda: Histogram2D(OCTAVES, POOLING))
    weight_bytes: Histogram = field(default_factory=lambda: Histogram(OCTAVES))
    infeasible_bytes: Histogram = field(default_factory=lambda: Histogram(OCTAVES))
    dtypes: Counter[str] = field(default_factory=Counter)
    optimizers: Counter[str] = field(default_factory=Counter)
    placements: Counter[str] = field(default_factory=Counter)
    times: tuple[Histogram, Histogram] = field(
        default_factory=lambda: (Histogram(TIMES_MS), Histogram(TIMES_MS))
    )
    noise: tuple[Noise, Noise] = field(default_factory=lambda: (Noise(), Noise()))
    by_bytes: tuple[Histogram2D, Histogram2D] = field(default_factory=_by_bytes)
    drift: Drift = field(default_factory=Drift)
    sample: Reservoir = field(default_factory=lambda: Reservoir(SAMPLE, NUM_OPERATOR_SIZES + 2))
    """Sizes (`operator_sizes`), then forward and backward ms."""

    def add(self, part: str, operators: Operators) -> None:
        """Counts operators of a part."""
        o = operators
        self.count += len(o.batch)
        self.tables += len(o.dim)
        self.infeasible += int((~o.feasible).sum())
        self.num_tables += np.bincount(
            np.minimum(o.num_tables, _MAX_TABLES), minlength=_MAX_TABLES + 1
        )
        for histogram, values in (
            (self.batch, o.batch),
            (self.gathered_bytes, o.gathered_bytes),
            (self.dim, o.dim),
            (self.rows, o.rows),
            (self.pooling, o.pooling),
            (self.weight_bytes, o.weight_bytes),
            (self.infeasible_bytes, o.weight_bytes[~o.feasible]),
        ):
            histogram.add(_known(values))
        self.rows_by_dim.add(o.rows, o.dim)
        self.batch_by_pooling.add(o.batch_of_table, o.pooling)
        self.dtypes.update(o.dtype.tolist())
        self.optimizers.update(o.optimizer.tolist())
        self.placements.update(o.placement.tolist())
        self._add_times(part, o)

    def _add_times(self, part: str, o: Operators) -> None:
        good = usable(o)
        self.unusable += int((o.feasible & ~good).sum())
        for i in range(2):
            self.times[i].add(o.times_ms[good, i])
            self.by_bytes[i].add(o.gathered_bytes[good], o.times_ms[good, i])
            self.noise[i].add(o.times_ms[good, i], o.spread_percent[good, i], o.ci_percent[good, i])
        self.drift.add(part, o.drift_percent)
        self.sample.add(np.concatenate([operator_sizes(o), o.times_ms], axis=1)[good])

    def neighbourhoods(self) -> tuple[Neighbourhood | None, ...]:
        """What forward and backward times should be."""
        rows = self.sample.rows
        return tuple(
            Neighbourhood.fit(rows[:, :-2], rows[:, i - 2], NUM_OPERATOR_LOGS) for i in range(2)
        )


@dataclass
class CollectiveTally:
    """All-to-alls, all-reduces or reduce-scatters."""

    count: int = 0
    unusable: int = 0
    shapes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """World size and devices per host."""
    batch: Histogram = field(default_factory=lambda: Histogram(OCTAVES))
    busiest_bytes: Histogram = field(default_factory=lambda: Histogram(OCTAVES))
    imbalance: Histogram = field(default_factory=lambda: Histogram(IMBALANCE))
    skew_ms: Histogram = field(default_factory=lambda: Histogram(SKEW_MS))
    times: tuple[Histogram, Histogram] = field(
        default_factory=lambda: (Histogram(TIMES_MS), Histogram(TIMES_MS))
    )
    noise: tuple[Noise, Noise] = field(default_factory=lambda: (Noise(), Noise()))
    by_bytes: tuple[Histogram2D, Histogram2D] = field(default_factory=_by_bytes)
    drift: Drift = field(default_factory=Drift)
    sample: Reservoir = field(default_factory=lambda: Reservoir(SAMPLE, NUM_COLLECTIVE_SIZES + 2))
    """Sizes (`collective_sizes`), then times; NaN where there is no second."""

    def add(self, part: str, collectives: Collectives) -> None:
        """Counts collectives of a part."""
        c = collectives
        self.count += len(c.world)
        shapes = np.stack([c.world, c.per_host], axis=1).astype(np.int64)
        for shape, count in zip(*np.unique(shapes, axis=0, return_counts=True), strict=True):
            self.shapes[(int(shape[0]), int(shape[1]))] += int(count)
        for histogram, values in (
            (self.batch, c.batch),
            (self.busiest_bytes, c.busiest_bytes),
            (self.imbalance, c.imbalance),
            (self.skew_ms, c.skew_ms),
        ):
            histogram.add(_known(values))
        good = usable(c)
        self.unusable += int((~good & (c.world > 1)).sum())
        for i in range(c.times_ms.shape[1]):
            self.times[i].add(c.times_ms[good, i])
            self.by_bytes[i].add(c.busiest_bytes[good], c.times_ms[good, i])
            self.noise[i].add(c.times_ms[good, i], c.spread_percent[good], c.ci_percent[good, i])
        self.drift.add(part, c.drift_percent)
        times = np.full((len(c.world), 2), np.nan)
        times[:, : c.times_ms.shape[1]] = c.times_ms
        self.sample.add(np.concatenate([collective_sizes(c), times], axis=1)[good])

    def neighbourhoods(self) -> tuple[Neighbourhood | None, ...]:
        """What the times should be; of all-to-alls forward and backward."""
        rows = self.sample.rows
        there = [i for i in (-2, -1) if len(rows) and np.isfinite(rows[0, i])]
        return tuple(
            Neighbourhood.fit(rows[:, :-2], rows[:, i], NUM_COLLECTIVE_LOGS) for i in there
        )


def usable(rows: Operators | Collectives) -> Array:
    """Rows whose times are all finite and above 0, `[r]` bool; one device alone moves nothing."""
    good = np.all(np.isfinite(rows.times_ms) & (rows.times_ms > 0), axis=1)
    if isinstance(rows, Operators):
        return np.asarray(good & rows.feasible)
    return np.asarray(good & (rows.world > 1))


def _known(values: Array) -> Array:
    return values[np.isfinite(values)]
