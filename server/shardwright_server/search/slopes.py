"""Slopes: how computation changes with each channel, and units' prices by it."""

from __future__ import annotations

import numpy as np

from shardwright_server.search.lane_book import LaneBook
from shardwright_server.search.lanes import Lanes
from shardwright_server.search.pieces import IntArray

_STEP = 0.1
"""Of the differences that slopes are taken by, relative."""


def take_slopes(book: LaneBook, lanes: Lanes, chosen: IntArray) -> None:
    """Sets prices of some lanes, by differences around what their devices hold."""
    sums = book.sums(lanes, chosen)
    steps = _STEP * np.maximum(sums, sums.mean(axis=1, keepdims=True)) + np.float32(1e-6)
    rows = np.repeat(sums[:, :, None], sums.shape[2], axis=2)
    diagonal = np.arange(sums.shape[2])
    rows[:, :, diagonal, diagonal] += steps
    slopes = (book.compute_ms(rows) - lanes.compute_ms[chosen][:, :, None]) / steps
    lanes.prices[chosen] = book.units.encodings @ slopes.astype(np.float32).transpose(0, 2, 1)
