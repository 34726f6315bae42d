"""Repacking: a few devices are emptied and filled again, many ways in lockstep.

Each way takes the units off the slowest device and some others, cuts a few of the lots that were
there in another way, and places all of it greedily again. Changes of several lots at once lead out
of the optima that single moves end in, above all where memory is tight.
"""

from __future__ import annotations

import random

import numpy as np

from shardwright.domain import ShardingType
from shardwright_server.search.assignment import Assignment
from shardwright_server.search.greedy import Start
from shardwright_server.search.lots import BoolArray, LotBook, Spread, even_widths
from shardwright_server.search.pieces import Float64Array, IntArray

_CAPS = (1.05, 1.15, 1.3, 1.6)
"""On the sum of dims of a device, in multiples of the mean."""
_NOISES = (0.0, 0.15, 0.5)
"""Of the costs by which units are ordered."""
_MOST_EMPTIED = 5
_MOST_RECUT = 3
"""Devices emptied and lots cut in another way, at most."""


class Repacker:
    """Draws ways to repack assignments.

    Args:
        book: The lots.
        drawn: Where chance comes from.
    """

    def __init__(self, book: LotBook, drawn: random.Random) -> None:
        self._book = book
        self._drawn = drawn

    def starts(self, assignment: Assignment, count: int) -> list[Start]:
        """So many ways; some may be alike."""
        return [self._start(assignment) for _ in range(count)]

    def _start(self, a: Assignment) -> Start:
        """One way."""
        emptied = self._emptied(a)
        gone = emptied[a.devices]
        recut = self._lots_to_recut(a, gone)
        widths: dict[int, list[int]] = {}
        spreads = a.spreads
        for lot in recut:
            if lot in a.spreads:
                facts = self._book.lots[lot]
                if facts.whole or facts.cut:
                    spreads = {other: s for other, s in spreads.items() if other != lot}
                    widths[lot] = even_widths(facts.columns, facts.least_units)
                continue
            if self._draw(2):
                gone = gone | (a.lots == lot)
            spread, parts = self._other_cut(a, lot, gone)
            if spread is not None:
                gone = gone | (a.lots == lot)
                spreads = {**spreads, lot: spread}
                widths[lot] = []
            elif parts:
                widths[lot] = parts
        units = self._units(a, gone, widths)
        kept = np.stack([a.lots[~gone], a.kinds[~gone], a.devices[~gone]])
        return Start(spreads, kept, units, _CAPS[self._draw(len(_CAPS))])

    def _draw(self, count: int) -> int:
        """A number below `count`."""
        return int(self._drawn.random() * count)

    def _emptied(self, a: Assignment) -> BoolArray:
        """`[w] bool`: the slowest device and some others."""
        w = len(a.dims)
        arrival = a.compute_ms + a.costs.backward_comm_ms[0]
        emptied = np.zeros(w, dtype=bool)
        emptied[int(arrival.argmax())] = True
        count = 2 + self._draw(min(w, _MOST_EMPTIED) - 1)
        while emptied.sum() < min(count, w):
            emptied[self._draw(w)] = True
        return emptied

    def _lots_to_recut(self, a: Assignment, gone: BoolArray) -> list[int]:
        """Some lots of the emptied devices, dear or large ones rather, and perhaps a spread one."""
        here = np.flatnonzero(gone)
        if not len(here):
            return []
        catalog = self._book.catalog
        by = catalog.compute_ms if self._draw(3) else catalog.memory_bytes
        order = here[np.argsort(-by[a.kinds[here]], kind="stable")]
        found: dict[int, None] = {}
        for _ in range(self._draw(_MOST_RECUT + 1)):
            # the largest are the likeliest
            rank = int(len(order) * self._drawn.random() ** 2)
            found[int(a.lots[order[rank]])] = None
        if a.spreads and not self._draw(4):
            found[list(a.spreads)[self._draw(len(a.spreads))]] = None
        return list(found)

    def _other_cut(
        self, a: Assignment, lot: int, gone: BoolArray
    ) -> tuple[Spread | None, list[int]]:
        """Another cut of what a lot has on the emptied devices: how it is spread, or widths."""
        book = self._book
        facts = book.lots[lot]
        mine = gone & (a.lots == lot)
        columns = book.catalog.num_columns[a.kinds[mine]]
        kept = int((a.lots == lot).sum()) - len(columns)
        if facts.spreads and not self._draw(3):
            kind = facts.spreads[self._draw(len(facts.spreads))]
            host = 0
            if kind is ShardingType.TABLE_ROW_WISE:
                host = facts.hosts[self._draw(len(facts.hosts))]
            return book.spread(lot, kind, host), []
        if not facts.cut:
            return None, []
        now = len(columns)
        parts = (now + 1, now + 1, 2 * now, max(1, now - 1), 1)[self._draw(5)]
        parts = min(parts, int(book.allowed[lot].sum()) - kept)
        if parts + kept < facts.least_units or parts < 1:
            return None, []
        widths = even_widths(int(columns.sum()), parts)
        if widths[-1] < facts.min_width:
            return None, []
        return None, widths

    def _units(self, a: Assignment, gone: BoolArray, widths: dict[int, list[int]]) -> IntArray:
        """Lots and ids of all units to place, by falling cost or size, with noise."""
        stays = gone & ~np.isin(a.lots, list(widths))
        wanted = [(lot, width) for lot, some in widths.items() for width in some]
        lots = np.concatenate([a.lots[stays], np.array([lot for lot, _ in wanted], np.int64)])
        kinds = np.concatenate([a.kinds[stays], np.array(self._book.units(wanted), np.int64)])
        catalog = self._book.catalog
        size = catalog.compute_ms if self._draw(4) else catalog.memory_bytes.astype(np.float64)
        noise = _NOISES[self._draw(len(_NOISES))]
        key: Float64Array = size[kinds]
        if noise:
            key = key * np.array([1.0 + noise * (self._drawn.random() - 0.5) for _ in kinds])
        order = np.argsort(-key, kind="stable")
        return np.stack([lots[order], kinds[order]])
