"""Counts of bounded size: they hold a million rows as easily as ten."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LogBins:
    """Bins of equal ratio: bin i goes from base^(i / per) to less than base^((i + 1) / per).

    Attributes:
        base: 2 or 10.
        per: Bins to a factor of `base`.
        first: Index of the first bin; what is below falls into it.
        last: Index of the last bin; what is above falls into it.
    """

    base: float
    per: int
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def places(self, values: Array) -> Array:
        """Bin of each value, counted from 0; values must not be NaN."""
        with np.errstate(divide="ignore"):
            logs = np.log(np.maximum(values, 0.0)) / np.log(self.base) * self.per
        # powers of the base are meant to open their bin, whatever the logarithm's rounding
        floors = np.floor(np.maximum(logs, self.first) + 1e-9)
        return np.asarray(np.minimum(floors, self.last) - self.first, dtype=np.int64)

    def edges(self) -> Array:
        """`[len(self) + 1]` limits of the bins."""
        return np.asarray(
            self.base ** (np.arange(self.first, self.last + 2, dtype=np.float64) / self.per)
        )


@dataclass
class Histogram:
    """How many values fell into each bin."""

    bins: LogBins
    counts: Array = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros(len(self.bins), dtype=np.int64)

    def add(self, values: Array) -> None:
        """Counts values, none of them NaN."""
        self.counts += np.bincount(self.bins.places(values), minlength=len(self.bins))

    def filled(self) -> tuple[Array, Array]:
        """Edges and counts from the first bin with a value to the last."""
        there = np.flatnonzero(self.counts)
        if not len(there):
            return self.bins.edges()[:1], self.counts[:0]
        return (
            self.bins.edges()[there[0] : there[-1] + 2],
            self.counts[there[0] : there[-1] + 1],
        )


@dataclass
class Histogram2D:
    """How many pairs of values fell into each cell."""

    x: LogBins
    y: LogBins
    counts: Array = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((len(self.x), len(self.y)), dtype=np.int64)

    def add(self, x: Array, y: Array) -> None:
        """Counts pairs, none of them NaN."""
        cells = self.x.places(x) * len(self.y) + self.y.places(y)
        self.counts += np.bincount(cells, minlength=self.counts.size).reshape(self.counts.shape)

    def filled(self) -> tuple[Array, Array, Array]:
        """Edges of x, edges of y, and counts, cut to where there is something."""
        columns, rows = (np.flatnonzero(self.counts.sum(axis=axis)) for axis in (1, 0))
        if not len(columns):
            return self.x.edges()[:1], self.y.edges()[:1], self.counts[:0, :0]
        return (
            self.x.edges()[columns[0] : columns[-1] + 2],
            self.y.edges()[rows[0] : rows[-1] + 2],
            self.counts[columns[0] : columns[-1] + 1, rows[0] : rows[-1] + 1],
        )

    def quantiles_of_y(self, share: float) -> tuple[Array, Array]:
        """Middles of the bins of x that hold something, and the quantile of their y.

        Quantiles are those of bins: as fine as the bins of y are.
        """
        there = np.flatnonzero(self.counts.sum(axis=1))
        edges = self.x.edges()
        middles = np.sqrt(edges[:-1] * edges[1:])[there]
        rising = np.cumsum(self.counts[there], axis=1)
        found = (rising >= share * rising[:, -1:]).argmax(axis=1)
        edges = self.y.edges()
        return middles, np.sqrt(edges[:-1] * edges[1:])[found]


class Reservoir:
    """A uniform sample of rows, of bounded size (Vitter's algorithm R, one block at a time).

    Args:
        size: Most rows kept.
        width: Columns of a row.
        seed: Of the draw: the same rows in the same order give the same sample.
    """

    def __init__(self, size: int, width: int, seed: int = 0) -> None:
        self._rows = np.empty((size, width))
        self._seen = 0
        self._random = np.random.default_rng(seed)

    def add(self, rows: Array) -> None:
        """Offers `[n, width]` rows."""
        size = len(self._rows)
        room = max(0, min(size - self._seen, len(rows)))
        self._rows[self._seen : self._seen + room] = rows[:room]
        later = rows[room:]
        order = np.arange(self._seen + room, self._seen + len(rows))
        places = self._random.integers(0, order + 1)
        kept = np.flatnonzero(places < size)
        # of several rows that draw one place the last stays, as one after another
        self._rows[places[kept]] = later[kept]
        self._seen += len(rows)

    @property
    def rows(self) -> Array:
        """The sample, `[m, width]`."""
        return self._rows[: min(self._seen, len(self._rows))]
