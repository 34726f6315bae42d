"""First plans: cut lots placed greedily, several ways in lockstep.

Units go by falling cost alone, each to the device whose computation is cheapest with it, as in
NeuroShard's greedy search; a lane is one set of cuts under one cap on the sum of dims. Unlike
there a cap is a wish: where it leaves no device, memory alone decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from shardwright.domain import ShardingType
from shardwright_server.search.assignment import Assignment
from shardwright_server.search.cuts import Cuts
from shardwright_server.search.greedy import Greedy, Start
from shardwright_server.search.lots import LotBook, Spread


@dataclass(frozen=True)
class Lane:
    """One way to place.

    Attributes:
        cuts: How each lot is cut.
        cap: Wished limit on a device's sum of dims, as a multiple of the mean.
    """

    cuts: Cuts
    cap: float


def construct(
    book: LotBook, lanes: Sequence[Lane], count: int, on_step: Callable[[], None]
) -> list[Assignment]:
    """Places every lane; returns the cheapest that fit into memory, all cut in different ways.

    Args:
        book: The lots.
        lanes: What to place.
        count: Assignments to return, at most.
        on_step: Called before each step; may raise to stop.
    """
    greedy = place_all(book, lanes, on_step)
    found: list[int] = []
    for lane in greedy.by_cost():
        if len(found) < count and all(lanes[lane].cuts is not lanes[i].cuts for i in found):
            found.append(lane)
    return [greedy.assignment(lane) for lane in found]


def place_all(book: LotBook, lanes: Sequence[Lane], on_step: Callable[[], None]) -> Greedy:
    """Places every lane."""
    return Greedy(book, [_start(book, lane) for lane in lanes], on_step)


def _start(book: LotBook, lane: Lane) -> Start:
    """Nothing lies anywhere but spread lots; units go by falling cost alone."""
    pairs = [
        (lot, kind) for lot, cut in enumerate(lane.cuts) if not cut.spread for kind in cut.kinds
    ]
    units = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    order = np.argsort(-book.catalog.compute_ms[units[1]], kind="stable")
    nothing = np.empty((3, 0), dtype=np.int64)
    return Start(spread_lots(book, lane.cuts), nothing, units[:, order], lane.cap)


def spread_lots(book: LotBook, cuts: Cuts) -> dict[int, Spread]:
    """The spread lots of cuts; those on one host go to the host with the least so far."""
    spreads: dict[int, Spread] = {}
    host_ms = np.zeros(book.num_devices // book.devices_per_host)
    for lot, cut in enumerate(cuts):
        if cut.spread is None:
            continue
        host = 0
        if cut.spread is ShardingType.TABLE_ROW_WISE:
            hosts = np.array(book.lots[lot].hosts)
            host = int(hosts[host_ms[hosts].argmin()])
            host_ms[host] += book.catalog.compute_ms[cut.kinds[0]]
        spreads[lot] = book.spread(lot, cut.spread, host)
    return spreads
