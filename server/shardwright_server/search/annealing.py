"""Simulated annealing of where units lie, on a quick stand-in for the computation model.

Climbs judge a move by linear prices and take it only if it is better at once. Which hot tables lie
together is found by neither: the second hot table on a device costs less than the first, and to
bring it there takes several moves, of which the first are for the worse. Annealing tries a million
moves and swaps on a `Surrogate`, which knows the first, and takes worse ones with a chance that
falls to zero. Between rounds the surrogate is fitted anew, to the devices it has led to as well: it
would else be led to where it promises too much. Climbs then judge the plan by the models.

How units are cut and what is spread stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit

from shardwright_costmodel.features import FloatArray
from shardwright_server.search.lane_book import LaneBook
from shardwright_server.search.lanes import NONE, Lanes, Slots, Units
from shardwright_server.search.lots import BoolArray
from shardwright_server.search.objective import costs_ms, largest, power, power_mean, transfer
from shardwright_server.search.pieces import Float64Array, IntArray
from shardwright_server.search.surrogate import DIRECTIONS, Fitter, Surrogate

_ROUNDS = (6, 7, 8, 9)
"""Squarings of the objective (`objective`) in each round, ever sharper."""
_HOT = 1.3e-3
"""First temperature, of the cost over devices: a move changes two of those."""
_ROWS, _MORE_ROWS = 1500, 700
"""Devices that are drawn for the first fit, and for each after it."""
_MOST_CHANGED = 4
"""Units that are changed for others in a device that is drawn, at most."""
_MEASURED = 5.0
"""Weight of a plan's own devices in a fit; that of drawn ones is 1."""
_ALONE, _ALIKE = 0.35, 0.8
"""Of moves, what share puts one unit elsewhere, and up to where it is changed for one as wide."""
_MOST_STEPS = 50_000
"""Moves between two looks at the clock."""
_RENEWED = 2048
"""Moves after which sums are made anew."""


class Annealer:
    """Anneals lanes of a problem.

    Args:
        lane_book: Of the problem.
        seed: Where chance comes from.
    """

    def __init__(self, lane_book: LaneBook, seed: int) -> None:
        self._lane_book = lane_book
        self._rng = np.random.default_rng(seed)

    def anneal(self, lanes: Lanes, num_moves: int, on_step: Callable[[], None]) -> Slots:
        """Where the units of a lane might lie better; not judged by the models yet.

        Args:
            lanes: One lane.
            num_moves: That are tried.
            on_step: Called now and then; may raise to stop.
        """
        book = self._lane_book
        slots = Slots.of(lanes).chosen([0])
        held = np.flatnonzero(slots.devices[0] != NONE)
        if len(held) == 0 or book.book.num_devices == 1:
            return slots
        state = _State.of(book.units, lanes, held)
        encodings = book.units.encodings[lanes.kinds[0, held]]
        fitter = Fitter(book.compute_ms, self._rng)
        heat_ms = _HOT * float(costs_ms(lanes)[0]) / book.book.num_devices
        for number, squarings in enumerate(_ROUNDS):
            on_step()
            sums = _sums_of(lanes.base[0], encodings, state.devices)
            fitter.add(self._drawn(sums, encodings, state.devices, number == 0), 1.0)
            fitter.add(sums, _MEASURED)
            surrogate = fitter.fit()
            if surrogate is None:
                break
            state = state.priced(sums, encodings, surrogate)
            for begin in range(0, num_moves // len(_ROUNDS), _MOST_STEPS):
                on_step()
                steps = min(_MOST_STEPS, num_moves // len(_ROUNDS) - begin)
                done = (number + begin * len(_ROUNDS) / num_moves) / len(_ROUNDS)
                temperature_ms = heat_ms * (1.0 - done) ** 2
                _walk(
                    book.units,
                    lanes,
                    state,
                    surrogate,
                    squarings,
                    temperature_ms,
                    steps,
                    self._rng,
                )
        slots.devices[0, held] = state.devices
        return slots

    def _drawn(
        self, sums: FloatArray, encodings: FloatArray, devices: IntArray, first: bool
    ) -> FloatArray:
        """Devices as they are, but for a few units changed for others, `[n, e]`."""
        count, w, n = _ROWS if first else _MORE_ROWS, len(sums), len(devices)
        order = np.argsort(devices, kind="stable")
        start = np.searchsorted(devices[order], np.arange(w + 1))
        on = np.arange(count) % w
        rows, changed = sums[on], self._rng.integers(_MOST_CHANGED + 1, size=count)
        for number in range(_MOST_CHANGED):
            these = np.flatnonzero((changed > number) & (np.diff(start)[on] > 0))
            place = self._rng.random(len(these)) * np.diff(start)[on[these]]
            goes = order[start[on[these]] + place.astype(np.int64)]
            comes = self._rng.integers(n, size=len(these))
            rows[these] += encodings[comes] - encodings[goes]
        return np.maximum(rows, np.float32(0.0))


class _State(NamedTuple):
    """Where units lie and what devices hold; compiled loops change it in place.

    Attributes:
        lots: `[n] int64`, of units.
        devices: `[n] int64`.
        memory_bytes: `[n] int64`.
        columns: `[n] int64`.
        rates_ms: `[n] float64`, what units add to computation along a straight line.
        along: `[n, DIRECTIONS] float64`, what they add along the surrogate's directions.
        by_columns: `[n] int64`, units by their columns.
        first: `[n] int64`, where in it those as wide as a unit begin.
        alike: `[n] int64`, how many of them there are.
        closed: `[lots, w] bool`, as `Lanes.closed`.
        used_bytes: `[w] int64`.
        dims: `[w] int64`.
        straight_ms: `[w] float64`, sums of `rates_ms`.
        sums_along: `[w, DIRECTIONS] float64`, where devices lie.
    """

    lots: IntArray
    devices: IntArray
    memory_bytes: IntArray
    columns: IntArray
    rates_ms: Float64Array
    along: Float64Array
    by_columns: IntArray
    first: IntArray
    alike: IntArray
    closed: BoolArray
    used_bytes: IntArray
    dims: IntArray
    straight_ms: Float64Array
    sums_along: Float64Array

    @classmethod
    def of(cls, units: Units, lanes: Lanes, held: IntArray) -> _State:
        """A lane's, without prices yet; its `held` slots have units."""
        kinds = lanes.kinds[0, held]
        columns, none = units.columns[kinds], np.zeros(0)
        by_columns = np.argsort(columns, kind="stable")
        first = np.searchsorted(columns[by_columns], columns)
        return cls(
            lots=lanes.lots[0, held],
            devices=lanes.devices[0, held],
            memory_bytes=units.memory_bytes[kinds],
            columns=columns,
            rates_ms=none,
            along=np.zeros((0, 0)),
            by_columns=by_columns,
            first=first,
            alike=np.searchsorted(columns[by_columns], columns, side="right") - first,
            closed=lanes.closed[0].copy(),
            used_bytes=lanes.used_bytes[0].copy(),
            dims=lanes.dims[0].copy(),
            straight_ms=none,
            sums_along=np.zeros((0, 0)),
        )

    def priced(self, sums: FloatArray, encodings: FloatArray, surrogate: Surrogate) -> _State:
        """The same by a surrogate; `sums` is what devices hold, `[w, e]`."""
        return self._replace(
            rates_ms=encodings @ surrogate.rates,
            along=encodings @ surrogate.directions,
            straight_ms=sums @ surrogate.rates,
            sums_along=sums @ surrogate.directions - surrogate.middle,
        )


def _sums_of(base: FloatArray, encodings: FloatArray, devices: IntArray) -> FloatArray:
    """What devices hold, `[w, e]`."""
    sums = base.copy()
    np.add.at(sums, devices, encodings)
    return sums


@njit(cache=True)
def _bent_ms(
    curve: Float64Array, begin: float, step: float, bends: Float64Array, along: Float64Array
) -> float:
    """What a surrogate adds to a straight line."""
    place = (along[0] - begin) / step
    left = min(max(int(place), 0), len(curve) - 2)
    found = curve[left] + (place - left) * (curve[left + 1] - curve[left])
    for i in range(DIRECTIONS):
        for j in range(DIRECTIONS):
            found += bends[i, j] * along[i] * along[j]
    return float(found)


@njit(cache=True)
def _walk(
    units: Units,
    lanes: Lanes,
    state: _State,
    surrogate: Surrogate,
    squarings: int,
    temperature_ms: float,
    steps: int,
    rng: np.random.Generator,
) -> None:
    """Tries so many moves at one temperature; changes the state.

    The objective is that of climbs, with the logarithm of its sums of powers for their root: the
    same for small changes.

    Args:
        units: Of the problem.
        lanes: One lane, for its transfers.
        state: See there.
        surrogate: Of computation.
        squarings: Of the objective.
        temperature_ms: A move for the worse by so much is taken with a chance of 1 / e.
        steps: Moves tried.
        rng: Where chance comes from.
    """
    lots, devices = state.lots, state.devices
    columns, memory_bytes = state.columns, state.memory_bytes
    rates_ms, along, closed = state.rates_ms, state.along, state.closed
    used_bytes, dims, by_columns = state.used_bytes, state.dims, state.by_columns
    straight_ms, sums_along = state.straight_ms, state.sums_along
    curve, begin, step = surrogate.curve, surrogate.begin, surrogate.step
    bends, transfers_ms, mean_dims = surrogate.bends, lanes.transfers_ms[0], lanes.mean_dims[0]
    left_along, with_it_along = np.empty(DIRECTIONS), np.empty(DIRECTIONS)
    room_bytes, n, w = units.room_bytes, len(devices), len(dims)
    compute_ms, of_compute, of_dims = np.empty(w), np.empty(w), np.empty(w)
    slowest_ms, widest, total, dims_total, rate, dims_rate = 1.0, 1.0, 1.0, 1.0, 0.0, 0.0
    for d in range(w):
        compute_ms[d] = straight_ms[d] + _bent_ms(curve, begin, step, bends, sums_along[d])
    for number in range(steps):
        if number % _RENEWED == 0:
            slowest_ms, widest = max(largest(compute_ms), 1e-9), float(max(largest(dims), 1))
            total, dims_total = 0.0, 0.0
            for d in range(w):
                of_compute[d] = power(compute_ms[d] / slowest_ms, squarings)
                of_dims[d] = power(dims[d] / widest, squarings)
                total += of_compute[d]
                dims_total += of_dims[d]
            root = 0.5**squarings
            rate = root * power_mean(slowest_ms, total, w, squarings)
            soft = power_mean(widest, dims_total, w, squarings)
            rise_ms = transfer(transfers_ms, mean_dims, soft + 1.0)
            rise_ms -= transfer(transfers_ms, mean_dims, soft - 1.0)
            dims_rate = root * soft * rise_ms / 2.0
        u, v = int(rng.random() * n), NONE
        s, draw = devices[u], rng.random()
        if draw < _ALONE:
            t = int(rng.random() * w)
        else:
            if draw < _ALIKE:
                v = by_columns[state.first[u] + int(rng.random() * state.alike[u])]
            else:
                v = int(rng.random() * n)
            t = devices[v]
        if t == s or closed[lots[u], t]:
            continue
        bytes_, wide, more_ms = memory_bytes[u], columns[u], rates_ms[u]
        if v != NONE:
            if closed[lots[v], s]:
                continue
            bytes_ -= memory_bytes[v]
            wide -= columns[v]
            more_ms -= rates_ms[v]
        if used_bytes[t] + bytes_ > room_bytes[t] or used_bytes[s] - bytes_ > room_bytes[s]:
            continue
        for i in range(DIRECTIONS):
            more = along[u, i] - along[v, i] if v != NONE else along[u, i]
            left_along[i], with_it_along[i] = sums_along[s, i] - more, sums_along[t, i] + more
        left_ms = straight_ms[s] - more_ms + _bent_ms(curve, begin, step, bends, left_along)
        with_it_ms = straight_ms[t] + more_ms
        with_it_ms += _bent_ms(curve, begin, step, bends, with_it_along)
        left = power(left_ms / slowest_ms, squarings)
        with_it = power(with_it_ms / slowest_ms, squarings)
        new_total = total - of_compute[s] - of_compute[t] + left + with_it
        narrower, wider, new_dims_total = of_dims[s], of_dims[t], dims_total
        if wide != 0:
            narrower = power((dims[s] - wide) / widest, squarings)
            wider = power((dims[t] + wide) / widest, squarings)
            new_dims_total += narrower + wider - of_dims[s] - of_dims[t]
        change_ms = rate * math.log(max(new_total, 1e-300) / total)
        if wide != 0:
            change_ms += dims_rate * math.log(max(new_dims_total, 1e-300) / dims_total)
        if change_ms > 0.0 and rng.random() >= math.exp(-change_ms / temperature_ms):
            continue
        total, dims_total = max(new_total, 1e-300), max(new_dims_total, 1e-300)
        of_compute[s], of_compute[t], of_dims[s], of_dims[t] = left, with_it, narrower, wider
        compute_ms[s], compute_ms[t] = left_ms, with_it_ms
        straight_ms[s] -= more_ms
        straight_ms[t] += more_ms
        sums_along[s], sums_along[t] = left_along, with_it_along
        used_bytes[s] -= bytes_
        used_bytes[t] += bytes_
        dims[s] -= wide
        dims[t] += wide
        closed[lots[u], s], closed[lots[u], t] = False, True
        devices[u] = t
        if v != NONE:
            closed[lots[v], t], closed[lots[v], s] = False, True
            devices[v] = s
