"""Packing: a plan that fits where memory is tight, whatever it costs.

What cannot be cut goes first, by falling size, each to the device that it fills best; what can be
cut follows, coarse columns before fine ones, whole where it fits and else in the widest pieces that
do. Where a whole lot finds no room, one other unit makes some by going elsewhere. That is tried
with more and more of the largest lots row-wise where that is allowed (row-wise lots take the same
of every device and leave no gaps), then in orders, with devices and row-wise lots, drawn at random.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from shardwright.domain import COLUMN_MULTIPLE, ShardingType
from shardwright_server.search.assignment import Assignment
from shardwright_server.search.lots import BoolArray, LotBook, Spread
from shardwright_server.search.pieces import IntArray

_MOST_ATTEMPTS = 400
_MOST_WORK = 400_000
"""Lots times devices over all attempts at random, at most."""


@dataclass(frozen=True)
class Misfit:
    """The lot that no device had room for.

    Attributes:
        lot: Index of the lot.
        columns: How many of its columns were left over.
    """

    lot: int
    columns: int


def pack(book: LotBook, seed: int, on_step: Callable[[], None]) -> Assignment | Misfit:
    """A plan that fits, or what did not in the first order.

    Args:
        book: The lots.
        seed: Of the orders.
        on_step: Called before each attempt; may raise to stop.
    """
    drawn = random.Random(seed)
    first: Misfit | None = None
    for to_spread, noise in _attempts(book, drawn):
        on_step()
        packer = _Packer(book, to_spread, drawn if noise else None)
        misfit = packer.pack(_order(book, drawn, noise))
        if misfit is None:
            return packer.assignment()
        first = first or misfit
    assert first is not None
    return first


def _attempts(book: LotBook, drawn: random.Random) -> Iterator[tuple[set[int], float]]:
    """Lots to spread, and the noise of the order."""
    able = [i for i, lot in enumerate(book.lots) if ShardingType.ROW_WISE in lot.spreads]
    able.sort(key=lambda lot: -_whole_bytes(book, lot))
    for count in _spread_counts(len(able)):
        yield set(able[:count]), 0.0
    random_attempts = _MOST_WORK // (len(book.lots) * book.num_devices)
    for attempt in range(min(_MOST_ATTEMPTS, max(8, random_attempts))):
        share = drawn.random()
        spread = {lot for lot in able if drawn.random() < share} if attempt % 2 else set()
        yield spread, 3.0 * drawn.random()


def _spread_counts(most: int) -> Iterator[int]:
    """0, 1, 2, 4 ... most."""
    count = 1
    yield 0
    while count < most:
        yield count
        count *= 2
    if most:
        yield most


def _order(book: LotBook, drawn: random.Random, noise: float) -> list[int]:
    """Lots in the order of packing; sizes are multiplied by up to 2 ** (+-noise)."""

    def key(lot: int) -> tuple[bool, float]:
        facts = book.lots[lot]
        size = _whole_bytes(book, lot)
        if facts.cut:
            size = size * facts.min_width // facts.columns
        # what few devices may hold goes before what all may
        reach = float(book.allowed[lot].mean())
        return facts.cut, -size / reach * 2.0 ** (noise * (2.0 * drawn.random() - 1.0))

    return sorted(range(len(book.lots)), key=key)


def _whole_bytes(book: LotBook, lot: int) -> int:
    return int(book.catalog.memory_bytes[book.unit(lot, book.lots[lot].columns)])


class _Packer:
    """One attempt; `drawn` draws devices for the pieces of a cut, None: those with most room."""

    def __init__(self, book: LotBook, to_spread: set[int], drawn: random.Random | None) -> None:
        self._book = book
        self._problem = book.evaluator.problem
        self._free_bytes: IntArray = book.evaluator.memory_bytes.copy()
        self._placed: dict[tuple[int, int], int] = {}  # (lot, device) to columns
        self.spreads: dict[int, Spread] = {}
        self._to_spread = to_spread
        self._drawn = drawn

    def pack(self, order: list[int]) -> Misfit | None:
        """Packs all lots; returns the first that does not fit."""
        for lot in order:
            facts = self._book.lots[lot]
            has_units = (facts.whole or facts.cut) and lot not in self._to_spread
            if not has_units and not self._spread(lot):
                return Misfit(lot, facts.columns)
        for lot in order:
            if lot in self.spreads:
                continue
            left = self._place(lot)
            if left is not None and not self._spread(lot):
                return Misfit(lot, left)
        return None

    def assignment(self) -> Assignment:
        """What was packed."""
        lots, devices = np.array(list(self._placed), dtype=np.int64).reshape(-1, 2).T
        widths = list(self._placed.values())
        kinds = self._book.units(zip(lots.tolist(), widths, strict=True))
        return Assignment(self._book, lots, np.array(kinds, dtype=np.int64), devices, self.spreads)

    def _bytes(self, lot: int, columns: int) -> int:
        facts = self._book.lots[lot]
        if columns == facts.columns:
            return _whole_bytes(self._book, lot)
        table = self._problem.tables[facts.tables[0]]
        return self._problem.shard_bytes(table, table.num_embeddings, columns)

    def _spread(self, lot: int) -> bool:
        """Spreads a lot in the first way that fits, over the host with the most room."""
        facts = self._book.lots[lot]
        for kind in facts.spreads:
            per_host = self._book.devices_per_host
            hosts = facts.hosts if kind is ShardingType.TABLE_ROW_WISE else (0,)
            host = max(
                hosts, key=lambda h: self._free_bytes[h * per_host : (h + 1) * per_host].min()
            )
            spread = self._book.spread(lot, kind, host)
            reach = slice(spread.first, spread.first + spread.devices)
            needed = int(self._book.catalog.memory_bytes[spread.kind])
            if (self._free_bytes[reach] >= needed).all():
                self._free_bytes[reach] -= needed
                self.spreads[lot] = spread
                return True
        return False

    def _place(self, lot: int) -> int | None:
        """Places a lot in units; the columns left over if it does not fit, then none is placed."""
        facts = self._book.lots[lot]
        if facts.whole and (
            self._put(lot, facts.columns) or (not facts.cut and self._put_by_eviction(lot))
        ):
            return None
        if not facts.cut:
            return facts.columns
        left = facts.columns
        while left:
            width = self._widest(lot, left)
            if not width:
                for device in range(self._book.num_devices):
                    self._take_back(lot, device)
                return left
            left -= width
        return None

    def _put(self, lot: int, columns: int) -> bool:
        """Puts a unit on the device that it fills best, the lowest on ties."""
        needed = self._bytes(lot, columns)
        left_bytes = np.where(self._open(lot), self._free_bytes - needed, -1)
        fits = np.flatnonzero(left_bytes >= 0)
        if not len(fits):
            return False
        self._lay(lot, int(fits[left_bytes[fits].argmin()]), columns)
        return True

    def _open(self, lot: int) -> BoolArray:
        """Devices that may take a unit of the lot and have none."""
        open_devices: BoolArray = self._book.allowed[lot].copy()
        for device in np.flatnonzero(open_devices):
            if (lot, int(device)) in self._placed:
                open_devices[device] = False
        return open_devices

    def _lay(self, lot: int, device: int, columns: int) -> None:
        self._free_bytes[device] -= self._bytes(lot, columns)
        self._placed[lot, device] = columns

    def _take_back(self, lot: int, device: int) -> None:
        columns = self._placed.pop((lot, device), None)
        if columns is not None:
            self._free_bytes[device] += self._bytes(lot, columns)

    def _widest(self, lot: int, left: int) -> int:
        """Places the widest unit of what is left that fits anywhere; its width, 0 for none."""
        facts = self._book.lots[lot]
        open_devices = np.flatnonzero(self._open(lot))
        if not len(open_devices):
            return 0
        device = int(open_devices[self._free_bytes[open_devices].argmax()])
        if self._drawn is not None and self._drawn.random() < 0.5:
            device = int(open_devices[int(self._drawn.random() * len(open_devices))])
        one, two = self._bytes(lot, 4), self._bytes(lot, 8)
        per_step, fixed = two - one, 2 * one - two
        steps = (int(self._free_bytes[device]) - fixed) // per_step if per_step else 0
        width = min(left, max(0, steps) * COLUMN_MULTIPLE)
        if width == facts.columns and not facts.whole:
            width -= facts.min_width
        if 0 < left - width < facts.min_width:
            width = left - facts.min_width
        width -= width % COLUMN_MULTIPLE
        if width < facts.min_width:
            if self._drawn is None:
                return 0
            # the device drawn may be full while others are not
            self._drawn, drawn = None, self._drawn
            width = self._widest(lot, left)
            self._drawn = drawn
            return width
        if width == left:  # the last unit goes where it fits best
            self._put(lot, width)
        else:
            self._lay(lot, device, width)
        return width

    def _put_by_eviction(self, lot: int) -> bool:
        """Puts a whole lot where one other unit makes room by going to a third device."""
        columns = self._book.lots[lot].columns
        needed = self._bytes(lot, columns)
        for (other, device), width in list(self._placed.items()):
            other_bytes = self._bytes(other, width)
            if not self._book.allowed[lot, device]:
                continue
            if self._free_bytes[device] + other_bytes < needed or other_bytes >= needed:
                continue
            elsewhere = self._open(other) & (self._free_bytes >= other_bytes)
            elsewhere[device] = False
            if elsewhere.any():
                devices = np.flatnonzero(elsewhere)
                self._take_back(other, device)
                self._lay(other, int(devices[self._free_bytes[devices].argmin()]), width)
                self._lay(lot, device, columns)
                return True
        return False
