"""Kicks: larger changes from which a climb starts anew.

A switch gives one lot of the slowest device another sharding type, or gathers a spread lot again;
a shake moves or swaps a few units at random.
"""

from __future__ import annotations

import random

import numpy as np

from shardwright.domain import ShardingType
from shardwright_server.search.assignment import Assignment, Unit
from shardwright_server.search.lots import LotBook, Spread, even_widths
from shardwright_server.search.pieces import IntArray

_SHAKEN_UNITS = 3
_ATTEMPTS = 30


def switches(assignment: Assignment) -> list[Assignment]:
    """Other sharding types for lots of the slowest device and for spread lots; all fit memory.

    The most promising first: those with the least computation on the average device, and
    transfers, as a climb levels the devices.
    """
    book = assignment.book
    arrival_ms = assignment.compute_ms + assignment.costs.backward_comm_ms[0]
    slowest = int(arrival_ms.argmax())
    found: list[Assignment] = []
    for lot in dict.fromkeys(assignment.lots[assignment.devices == slowest].tolist()):
        for spread in _spreads(book, lot, assignment):
            found.append(assignment.rebuilt({**assignment.spreads, lot: spread}, [], {lot}))
    for lot, present in assignment.spreads.items():
        rest = {other: s for other, s in assignment.spreads.items() if other != lot}
        for spread in _spreads(book, lot, assignment):
            if spread != present:
                found.append(assignment.rebuilt({**rest, lot: spread}, [], set()))
        for units in _gathered(assignment, lot):
            found.append(assignment.rebuilt(rest, units, set()))
    fitting = [a for a in found if a.fits()]
    return sorted(fitting, key=lambda a: float(a.compute_ms.mean() + a.transfer_ms))


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


def _gathered(assignment: Assignment, lot: int) -> list[list[Unit]]:
    """A spread lot in one, two or four units on the devices with the least computation."""
    book, facts = assignment.book, assignment.book.lots[lot]
    devices = np.argsort(assignment.compute_ms, kind="stable")
    devices = devices[book.allowed[lot, devices]]
    found = []
    for parts in (1, 2, 4):
        if not (facts.whole if parts == 1 else facts.cut) or parts > len(devices):
            continue
        widths = [facts.columns] if parts == 1 else even_widths(facts.columns, parts)
        if widths[-1] < facts.min_width:
            continue
        kinds = book.units((lot, width) for width in widths)
        found.append([Unit(lot, k, int(d)) for k, d in zip(kinds, devices, strict=False)])
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
    triples = zip(assignment.lots.tolist(), assignment.kinds.tolist(), devices.tolist(), strict=True)
    return Assignment(book, [Unit(*triple) for triple in triples], assignment.spreads)


def _may_lie(book: LotBook, lots: IntArray, devices: IntArray, unit: int, device: int) -> bool:
    """Whether constraints allow it and no other unit of the lot lies there."""
    lot = int(lots[unit])
    return bool(book.allowed[lot, device]) and not ((lots == lot) & (devices == device)).any()
