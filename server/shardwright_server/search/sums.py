"""Compiled loops that add up what devices hold."""

from __future__ import annotations

from numba import njit

from shardwright_costmodel.features import FloatArray
from shardwright_server.search.lanes import NONE, Lanes, Spreads, Units
from shardwright_server.search.pieces import IntArray


@njit(cache=True)
def add(sums: FloatArray, addend: FloatArray) -> None:
    """Channel by channel; plain loops compile in a fraction of the time of array expressions."""
    for i in range(len(sums)):
        sums[i] += addend[i]


@njit(cache=True)
def sum_up(
    units: Units, spreads: Spreads, lanes: Lanes, sums: FloatArray, all_reduce_bytes: IntArray
) -> None:
    """Fills what follows from slots and spreads.

    Args:
        units: Of the problem.
        spreads: Of the problem.
        lanes: `k` lanes; `base`, `used_bytes` and `dims`, all zeros, and `closed` are filled.
        sums: `[k, w, e] float32`, filled with what devices hold.
        all_reduce_bytes: `[k] int64`, zeros, filled: dense gradients of data-parallel lots.
    """
    for lane in range(len(lanes.lots)):
        for way in lanes.spreads[lane]:
            if way == NONE:
                continue
            kind = spreads.kinds[way]
            all_reduce_bytes[lane] += spreads.all_reduce_bytes[way]
            for d in range(spreads.first[way], spreads.first[way] + spreads.devices[way]):
                add(lanes.base[lane, d], units.encodings[kind])
                lanes.used_bytes[lane, d] += units.memory_bytes[kind]
                lanes.dims[lane, d] += units.columns[kind]
        for lot in range(lanes.closed.shape[1]):
            for d in range(lanes.closed.shape[2]):
                lanes.closed[lane, lot, d] = not units.allowed[lot, d]
        for u in range(lanes.devices.shape[1]):
            d, kind = lanes.devices[lane, u], lanes.kinds[lane, u]
            if d != NONE:
                lanes.used_bytes[lane, d] += units.memory_bytes[kind]
                lanes.dims[lane, d] += units.columns[kind]
                lanes.closed[lane, lanes.lots[lane, u], d] = True
    device_sums(units, lanes, sums)


@njit(cache=True)
def device_sums(units: Units, lanes: Lanes, sums: FloatArray) -> None:
    """What devices hold, `[k, w, e]`, is filled in; summed in the order of the slots."""
    for lane in range(len(lanes.lots)):
        for d in range(sums.shape[1]):
            for i in range(sums.shape[2]):
                sums[lane, d, i] = lanes.base[lane, d, i]
        for u in range(lanes.devices.shape[1]):
            d = lanes.devices[lane, u]
            if d != NONE:
                add(sums[lane, d], units.encodings[lanes.kinds[lane, u]])
