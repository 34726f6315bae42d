"""Slopes: how computation changes with each channel, and units' prices by it."""

from __future__ import annotations

import numpy as np

from shardwright_costmodel.features import FloatArray
from shardwright_server.search.lane_book import LaneBook
from shardwright_server.search.lanes import Lanes

_STEP = 0.1
"""Of the differences that slopes are taken by, relative; and what a device holds at least where
they are taken, of the mean."""


def take_prices(book: LaneBook, lanes: Lanes) -> FloatArray:
    """As `prices_around` what devices hold on average of some lanes."""
    return prices_around(book, book.sums(lanes).mean(axis=0))


def prices_around(book: LaneBook, held: FloatArray) -> FloatArray:
    """What units add to the computation of devices, ms, `[ids + 1, d] float32`, by differences.

    Args:
        book: Of the problem.
        held: `[d, e] float32`, what the devices hold.
    """
    mean = held.mean(axis=0)
    around = np.maximum(held, _STEP * mean)
    steps = _STEP * np.maximum(held, mean) + np.float32(1e-6)
    e = held.shape[1]
    rows = np.repeat(around[:, None], e + 1, axis=1)  # the last as it is
    channels = np.arange(e)
    rows[:, channels, channels] += steps
    compute_ms = book.compute_ms(rows)
    slopes = (compute_ms[:, :e] - compute_ms[:, e:]) / steps
    prices: FloatArray = book.units.encodings @ slopes.astype(np.float32).T
    return prices
