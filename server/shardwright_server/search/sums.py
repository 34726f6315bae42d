"""Compiled loops that add up what devices hold."""

from __future__ import annotations

from numba import njit

from shardwright_costmodel.features import FloatArray
from shardwright_server.search.lanes import NONE, Lanes, Spreads, Units


@njit(cache=True)
def add(sums: FloatArray, addend: FloatArray) -> None:
    """Channel by channel; plain loops compile in a fraction of the time of array expressions."""
    for i in range(len(sums)):
        sums[i] += addend[i]


@njit(cache=True)
def sum_up(units: Units, spreads: Spreads, lanes: Lanes) -> None:
    """Fills `base`, `used_bytes`, `dims`, all zeros, and `closed` by slots and spreads."""
    for lane in range(len(lanes.lots)):
        for way in lanes.spreads[lane]:
            if way == NONE:
                continue
            kind = spreads.kinds[way]
            for d in range(spreads.first[way], spreads.first[way] + spreads.devices[way]):
                add(lanes.base[lane, d], units.encodings[kind])
                lanes.used_bytes[lane, d] += units.memory_bytes[kind]
                lanes.dims[lane, d] += units.columns[kind]
        for u in range(lanes.devices.shape[1]):
            d, kind = lanes.devices[lane, u], lanes.kinds[lane, u]
            if d != NONE:
                lanes.used_bytes[lane, d] += units.memory_bytes[kind]
                lanes.dims[lane, d] += units.columns[kind]
                lanes.closed[lane, lanes.lots[lane, u], d] = True


@njit(cache=True)
def device_sums(units: Units, lanes: Lanes, sums: FloatArray) -> None:
    """What devices hold, `[k, w, e]`, filled with zeros; summed in the order of the slots."""
    for lane in range(len(lanes.lots)):
        for d in range(sums.shape[1]):
            add(sums[lane, d], lanes.base[lane, d])
        for u in range(lanes.devices.shape[1]):
            d = lanes.devices[lane, u]
            if d != NONE:
                add(sums[lane, d], units.encodings[lanes.kinds[lane, u]])
