"""Ways to cut tables, many tables at a time, with the encodings of all pieces."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from numba import njit

from shardwright_costmodel.features import FloatArray
from shardwright_server.search.pieces import Float64Array, IntArray

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Spread:
    """Tables that lie with equal pieces on a number of devices.

    Attributes:
        tables: `[n] int64`.
        encodings: `[n, 1, e] float32`, of one piece.
        devices: Pieces.
        copies: Whether the pieces are copies.
    """

    tables: IntArray
    encodings: FloatArray
    devices: int
    copies: bool

    @property
    def allowed(self) -> BoolArray:
        """`[n, 1] bool`: all."""
        return np.ones((len(self.tables), 1), dtype=bool)

    def least(self, sums: Float64Array, allowed: BoolArray) -> Float64Array:
        """Weighted sums over the devices; infinite where not allowed.

        Args:
            sums: `[n, 1]`, of one piece.
            allowed: `[n, 1]`.

        Returns:
            `[n]`.
        """
        return np.asarray(np.where(allowed[:, 0], self.devices * sums[:, 0], np.inf))

    def of(self, rows: BoolArray) -> Spread:
        """Some of the tables."""
        return replace(self, tables=self.tables[rows], encodings=self.encodings[rows])


@dataclass(frozen=True)
class Columns:
    """Tables of equal width that lie whole or in column pieces.

    Attributes:
        tables: `[n] int64`.
        encodings: `[n, widths, e] float32`, of pieces.
        widths: `[widths] int64`, in units, rising; the last is the whole table's.
        allowed: `[n, widths] bool`.
    """

    tables: IntArray
    encodings: FloatArray
    widths: IntArray
    allowed: BoolArray

    def pieces(
        self, values: npt.NDArray[np.floating], allowed: BoolArray
    ) -> npt.NDArray[np.floating]:
        """Values of pieces `[n, widths, v]` by width in units `[n, units, v]`; else infinite."""
        shape = len(values), int(self.widths[-1]), values.shape[2]
        pieces = np.full(shape, np.inf, dtype=values.dtype)
        pieces[:, self.widths - 1] = np.where(allowed[:, :, None], values, np.inf)
        return pieces

    def least(self, sums: Float64Array, allowed: BoolArray) -> Float64Array:
        """Least weighted sums over all cuts; infinite where none is allowed.

        Args:
            sums: `[n, widths]`, of single pieces.
            allowed: `[n, widths]`.

        Returns:
            `[n]`.
        """
        pieces = self.pieces(sums[:, :, None], allowed)
        return np.asarray((cut_rods(pieces) if len(self.widths) > 1 else pieces)[:, -1, 0])

    def of(self, rows: BoolArray) -> Columns:
        """Some of the tables."""
        return replace(
            self,
            tables=self.tables[rows],
            encodings=self.encodings[rows],
            allowed=self.allowed[rows],
        )


Way = Spread | Columns


def cut_rods(pieces: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Least sum of each channel over all ways to make up each width of allowed pieces.

    Args:
        pieces: `[n, units, e]`, entry u - 1 for a piece of width u; infinite: not allowed.

    Returns:
        `[n, units, e]`, entry u - 1 for pieces of total width u.
    """
    cheapest = pieces.copy()
    _cut_rods(cheapest)
    return cheapest


@njit(cache=True)
def _cut_rods(cheapest: npt.NDArray[np.floating]) -> None:
    """In place."""
    n, widths, e = cheapest.shape
    for i in range(n):
        for units in range(2, widths + 1):
            for narrow in range(1, units // 2 + 1):
                for channel in range(e):
                    together = cheapest[i, narrow - 1, channel]
                    together += cheapest[i, units - narrow - 1, channel]
                    if together < cheapest[i, units - 1, channel]:
                        cheapest[i, units - 1, channel] = together


@njit(cache=True)
def least_from(cheapest: npt.NDArray[np.floating], shares: IntArray) -> npt.NDArray[np.floating]:
    """The least of what is at least so wide.

    Args:
        cheapest: `[n, units, e]`, entry u - 1 for width u.
        shares: `[n] int64`, the least width of each, 1 to units.

    Returns:
        `[n, e]`.
    """
    found = cheapest[:, -1].copy()
    for i in range(len(found)):
        for units in range(shares[i], cheapest.shape[1]):
            for channel in range(found.shape[1]):
                found[i, channel] = min(found[i, channel], cheapest[i, units - 1, channel])
    return found
