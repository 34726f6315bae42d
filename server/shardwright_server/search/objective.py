"""What a lane aims at: its cost, with the slowest device and the largest sum of dims softened.

    (mean_d compute_d ^ p) ^ (1 / p) + transfer of (mean_d dims_d ^ p) ^ (1 / p)

For large p that is the cost; for smaller p a move between two devices that do not decide counts
too, if it leaves them less to do or to send.

numba compiles these loops, and those of `proposals`, `taking`, `sums` and `repack`, when they are
first called with new types, and keeps the result on disk where it may (`NUMBA_CACHE_DIR`). They are
sequential and without fast math: the same lanes give the same moves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from shardwright_costmodel.features import FloatArray
from shardwright_server.search.lanes import Lanes
from shardwright_server.search.pieces import Float64Array, IntArray
from shardwright_server.search.transfer_curves import END

SOFT, SHARP, SHARPEST = 4, 8, 12
"""Objectives: p is 2 to so many squarings, 16, 256 or 4096. Softer ones took longer, and plans were
dearer by 0.2 % on 120 tasks. Without the sharpest, 32 devices of 400 tables are levelled to 0.3 %
of the cost only, and plans are 0.08 % dearer."""
_LEAST = 1e-300
"""Sums of powers below count as this."""


@njit(cache=True)
def power(x: float, squarings: int) -> float:
    """`x ** 2 ** squarings`, of x above 0; of others 0."""
    x = max(x, 0.0)
    for _ in range(squarings):
        x *= x
    return x


@njit(cache=True)
def largest(values: Float64Array | IntArray) -> Any:
    """Of at least one value; of their type."""
    found = values[0]
    for value in values:
        found = max(found, value)
    return found


@njit(cache=True)
def powers(values: Float64Array | IntArray, squarings: int, found: Float64Array) -> float:
    """Fills `found` with powers of values over the largest, `[w]`; returns their sum.

    Their mean is 1 where all values are 0.
    """
    most, total = float(largest(values)), 0.0
    for d in range(len(values)):
        found[d] = power(values[d] / most, squarings) if most > 0.0 else 1.0
        total += found[d]
    return total


@njit(cache=True)
def power_mean(most: float, total: float, count: int, squarings: int) -> float:
    """By the sum of powers over `most`, of so many values."""
    return float(most * (max(total, _LEAST) / count) ** (0.5**squarings))


@njit(cache=True)
def transfer(curve: FloatArray, mean_dims: float, widest: float) -> float:
    """Transfers, ms, by the largest sum of dims: straight between the points of a curve.

    Args:
        curve: `[POINTS] float32`, see `TransferCurves`.
        mean_dims: Where it begins.
        widest: Largest sum of dims.
    """
    steps = len(curve) - 1
    at = max(0.0, widest / mean_dims - 1.0) * (steps / (END - 1.0))
    step = min(int(at), steps - 1)
    return float(curve[step] + (at - step) * (curve[step + 1] - curve[step]))


@njit(cache=True)
def cost_ms(lanes: Lanes, lane: int) -> float:
    """What the plan costs, nearly: transfers are taken to follow the largest sum of dims alone."""
    slowest_ms, widest = largest(lanes.compute_ms[lane]), largest(lanes.dims[lane])
    transfer_ms = transfer(lanes.transfers_ms[lane], lanes.mean_dims[lane], widest)
    return float(slowest_ms + transfer_ms + lanes.all_reduce_ms[lane])


@njit(cache=True)
def objective_ms(lanes: Lanes, lane: int, squarings: int) -> float:
    """See the module."""
    w = lanes.dims.shape[1]
    slowest_ms, widest, found = (
        largest(lanes.compute_ms[lane]),
        largest(lanes.dims[lane]),
        np.empty(w),
    )
    soft_ms = power_mean(slowest_ms, powers(lanes.compute_ms[lane], squarings, found), w, squarings)
    soft = power_mean(widest, powers(lanes.dims[lane], squarings, found), w, squarings)
    transfer_ms = transfer(lanes.transfers_ms[lane], lanes.mean_dims[lane], soft)
    return float(soft_ms + transfer_ms + lanes.all_reduce_ms[lane])


@njit(cache=True)
def costs_ms(lanes: Lanes) -> Float64Array:
    """Of all lanes, `[k]`."""
    found = np.empty(len(lanes.dims))
    for lane in range(len(found)):
        found[lane] = cost_ms(lanes, lane)
    return found
