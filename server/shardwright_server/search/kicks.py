"""Kicks: larger changes from which a climb starts anew.

A switch cuts one lot in another way: in more column pieces or fewer, in rows, in copies or not at
all. A shake moves or swaps a few units at random.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from shardwright.domain import ShardingType
from shardwright_costmodel.features import FloatArray
from shardwright_server.search.assignment import Assignment, Unit
from shardwright_server.search.lots import LotBook, Spread, even_widths
from shardwright_server.search.pieces import IntArray

_PARTS = (1, 2, 3, 4, 8)
_MOST_SLOW_LOTS = 16
_MOST_CUT_LOTS = 8
"""Lots of the slowest device, and of those cut or spread, that are looked at: bound the work."""
_SHAKEN_UNITS = 3
_ATTEMPTS = 30


@dataclass(frozen=True)
class Switch:
    """Another way to cut one lot.

    Attributes:
        lot: The lot.
        spread: How it is spread; None: it has units.
        units: Its units; none when spread.
    """

    lot: int
    spread: Spread | None
    units: tuple[Unit, ...] = ()

    def applied(self, assignment: Assignment) -> Assignment:
        """The assignment with this switch."""
        spreads = {lot: s for lot, s in assignment.spreads.items() if lot != self.lot}
        if self.spread is not None:
            spreads[self.lot] = self.spread
        return assignment.rebuilt(spreads, self.units, {self.lot})


def switches(assignment: Assignment) -> list[Switch]:
    """Other ways to cut lots of the slowest device, and lots that are cut already; all fit memory.

    The most promising first, by what a plan costs at best that is cut so, as in `cuts`: a climb
    levels the devices, but no device computes less than the largest unit alone.
    """
    book = assignment.book
    found = [switch for lot in _lots_to_switch(assignment) for switch in _of_lot(assignment, lot)]
    if not found:
        return []
    loads = [_load(assignment, switch) for switch in found]
    encodings = np.array([encoding for encoding, _, _ in loads])
    flat = np.maximum(encodings, 0.0).reshape(-1, encodings.shape[2])
    average_ms = book.evaluator.compute_ms(flat).reshape(len(found), -1).mean(axis=1)
    largest_ms = np.array([_largest_unit_ms(assignment, switch) for switch in found])
    means = np.array([dims.mean() for _, dims, _ in loads])
    transfers_ms = book.evaluator.transfer_ms(means, means, means).sum(axis=1)
    judged = np.maximum(average_ms, largest_ms) + transfers_ms
    fits = [bool((used <= book.evaluator.memory_bytes).all()) for _, _, used in loads]
    return [found[i] for i in np.argsort(judged, kind="stable") if fits[i]]


def _lots_to_switch(assignment: Assignment) -> list[int]:
    """Lots of the slowest device, spread lots, cut lots; the dearest of each."""
    arrival_ms = assignment.compute_ms + assignment.costs.backward_comm_ms[0]
    here = assignment.lots[assignment.devices == int(arrival_ms.argmax())]
    units = np.bincount(assignment.lots, minlength=len(assignment.book.lots))
    spread = np.array(list(assignment.spreads), dtype=np.int64)
    whole_ms = assignment.book.catalog.compute_ms[assignment.book.wholes]
    found: list[int] = []
    for lots, most in (
        (here, _MOST_SLOW_LOTS),
        (spread, _MOST_CUT_LOTS),
        (np.flatnonzero(units > 1), _MOST_CUT_LOTS),
    ):
        found += lots[np.argsort(-whole_ms[lots], kind="stable")[:most]].tolist()
    return list(dict.fromkeys(found))


def _of_lot(assignment: Assignment, lot: int) -> list[Switch]:
    present = assignment.spreads.get(lot)
    spreads = _spreads(assignment.book, lot, assignment)
    found = [Switch(lot, spread) for spread in spreads if spread != present]
    return found + [Switch(lot, None, units) for units in _recut(assignment, lot)]


def _largest_unit_ms(assignment: Assignment, switch: Switch) -> float:
    others = assignment.kinds[assignment.lots != switch.lot].tolist()
    spreads = [s.kind for lot, s in assignment.spreads.items() if lot != switch.lot]
    mine = [unit.kind for unit in switch.units] + ([switch.spread.kind] if switch.spread else [])
    return float(assignment.book.catalog.compute_ms[[*others, *spreads, *mine]].max())


def _load(assignment: Assignment, switch: Switch) -> tuple[FloatArray, IntArray, IntArray]:
    """Encodings, sums of dims and memory of all devices after a switch."""
    catalog = assignment.book.catalog
    encodings, dims = assignment.encodings.copy(), assignment.dims.copy()
    used_bytes = assignment.used_bytes.copy()

    def change(kind: int, devices: slice | int, sign: int) -> None:
        encodings[devices] += sign * catalog.encodings[kind]
        dims[devices] += sign * catalog.num_columns[kind]
        used_bytes[devices] += sign * catalog.memory_bytes[kind]

    for unit in np.flatnonzero(assignment.lots == switch.lot).tolist():
        change(int(assignment.kinds[unit]), int(assignment.devices[unit]), -1)
    for spread, sign in ((assignment.spreads.get(switch.lot), -1), (switch.spread, 1)):
        if spread is not None:
            change(spread.kind, slice(spread.first, spread.first + spread.count), sign)
    for placed in switch.units:
        change(placed.kind, placed.device, 1)
    return encodings, dims, used_bytes


def _spreads(book: LotBook, lot: int, assignment: Assignment) -> list[Spread]:
    """Ways to spread a lot; over the hosts with the least computation."""
    found = []
    for kind in book.lots[lot].spreads:
        hosts: list[int] = [0]
        if kind is ShardingType.TABLE_ROW_WISE:
            host_ms = assignment.compute_ms.reshape(-1, book.devices_per_host).max(axis=1)
            able = np.array(book.lots[lot].hosts)
            hosts = able[np.argsort(host_ms[able], kind="stable")[:2]].tolist()
        found += [book.spread(lot, kind, host) for host in hosts]
    return found


def _recut(assignment: Assignment, lot: int) -> list[tuple[Unit, ...]]:
    """A lot in other numbers of units, on the devices with the least computation."""
    book, facts = assignment.book, assignment.book.lots[lot]
    present = int((assignment.lots == lot).sum())
    devices = np.argsort(assignment.compute_ms, kind="stable")
    devices = devices[book.allowed[lot, devices]]
    found = []
    for parts in _PARTS:
        if parts == present or parts > len(devices):
            continue
        if not (facts.whole if parts == 1 else facts.cut):
            continue
        widths = [facts.columns] if parts == 1 else even_widths(facts.columns, parts)
        if widths[-1] < facts.min_width:
            continue
        kinds = book.units((lot, width) for width in widths)
        placed = zip(kinds, devices.tolist(), strict=False)
        found.append(tuple(Unit(lot, kind, device) for kind, device in placed))
    return found


def shake(assignment: Assignment, drawn: random.Random) -> Assignment:
    """Moves or swaps a few units at random, the first of them from the slowest device."""
    book, devices = assignment.book, assignment.devices.copy()
    memory_bytes = book.catalog.memory_bytes[assignment.kinds]
    free_bytes = book.evaluator.memory_bytes - assignment.used_bytes
    slowest = int(assignment.compute_ms.argmax())
    shaken = 0
    for _ in range(_ATTEMPTS):
        among = np.flatnonzero(devices == slowest) if not shaken else np.arange(len(devices))
        if not len(among):
            break
        unit = int(among[int(drawn.random() * len(among))])
        other = int(drawn.random() * len(devices))
        swap = drawn.random() < 0.5
        source = int(devices[unit])
        target = int(devices[other]) if swap else int(drawn.random() * book.num_devices)
        coming = int(memory_bytes[other]) if swap else 0
        more = int(memory_bytes[unit]) - coming
        lots = assignment.lots
        if source == target or more > free_bytes[target] or -more > free_bytes[source]:
            continue
        if not _may_lie(book, lots, devices, unit, target):
            continue
        if swap and not _may_lie(book, lots, devices, other, source):
            continue
        devices[unit] = target
        if swap:
            devices[other] = source
        free_bytes[target] -= more
        free_bytes[source] += more
        shaken += 1
        if shaken == _SHAKEN_UNITS:
            break
    triples = zip(
        assignment.lots.tolist(), assignment.kinds.tolist(), devices.tolist(), strict=True
    )
    return Assignment(book, [Unit(*triple) for triple in triples], assignment.spreads)


def _may_lie(book: LotBook, lots: IntArray, devices: IntArray, unit: int, device: int) -> bool:
    """Whether constraints allow it and no other unit of the lot lies there."""
    lot = int(lots[unit])
    return bool(book.allowed[lot, device]) and not ((lots == lot) & (devices == device)).any()
