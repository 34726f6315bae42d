"""The default search: cut, place, climb, repack and climb again (algorithm LOCAL_SEARCH).

1. `cuts`       Lots are cut in several ways, from as little as memory allows to ever finer; where
                they may be copied, with and without copies of the tiniest.
2. `placing`    All ways are placed greedily at once.
   `packing`    Where none fits into memory, memory alone decides.
3. `swarm`      climbs from the best of these plans in lockstep. Climbs that fall behind end. Where
                there are few climbs, they cut nothing before they have come to an end without.
4. `annealing`  Where there are few climbs, the best plan is annealed, and one climbs from there.
5. `repack`     Some devices of the latest plan are emptied and filled again in many ways; a swarm
                climbs from the best of them. So it goes on until a few times bring nothing.

The larger the problem, the fewer climbs and times; where memory is tight there are more of both,
and no climb ends early. The effort is bounded by a number of steps that follows from the problem,
never by the clock: the same request gives the same plan. Only a time budget or deadline ends it
earlier.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from shardwright.domain import SearchOptions, ShardingPlan
from shardwright_costmodel.features import FloatArray
from shardwright_server.search.annealing import Annealer
from shardwright_server.search.budget import Budget
from shardwright_server.search.capacity import no_room_error
from shardwright_server.search.cost import PlanEvaluator
from shardwright_server.search.cuts import Cuts, Cutter
from shardwright_server.search.lane_book import LaneBook
from shardwright_server.search.lanes import NONE, Lanes, Slots
from shardwright_server.search.lots import BoolArray, LotBook
from shardwright_server.search.objective import costs_ms
from shardwright_server.search.outcome import OnImprovement, SearchOutcome, run_to_end
from shardwright_server.search.packing import Misfit, pack
from shardwright_server.search.pieces import Float64Array, IntArray
from shardwright_server.search.placing import place
from shardwright_server.search.repack import Repacker
from shardwright_server.search.slopes import take_prices
from shardwright_server.search.swarm import Swarm

_MIN_GAIN = 1e-4
"""Relative; less is noise."""
_SHARES = (1.0, 0.6)
"""Of the average device: cutting pauses where no unit exceeds the first, ends at the second."""
_WAYS = 4
"""Ways to cut that are placed, of those passed on the way to each share."""
_MOST_CUTS = 1000
_MOST_LANE_CELLS = 10_000_000
"""Lots times devices times lanes, at most; bounds memory."""
_TIGHT_FILL = 0.8
"""Of all memory for shards: where tables take more, plans differ more, and effort pays. Giving up
climbs early costs 0.02 % where they take less, and 0.25 % where they take more, on average of 100
tasks for eight devices in columns."""


class _Effort(NamedTuple):
    """How long is searched.

    Attributes:
        swarm_moves: A swarm has the root of so many moves over those of one plan for climbs, at
            least one.
        most_climbs: At most so many.
        hope: See `Swarm`; where there are several climbs.
        patience: Swarms in a row that find nothing before the search ends, beside as many as were
            needed to find the last.
        patient_lots: Patience is at most so many lots over those there are.
        most_swarms: After the first.
    """

    swarm_moves: int
    most_climbs: int
    hope: float
    patience: int
    patient_lots: int
    most_swarms: int


_ROOMY = _Effort(2_100_000, 20, 0.06, 2, 250, 16)
_TIGHT = _Effort(4_000_000, 28, math.inf, 12, 500, 32)
_FIRST_CLIMBS, _LATER_CLIMBS = 3, 4
"""For each device, of the first swarm and of those after it, at most. On 100 tasks for four devices
four instead of three in those after it make plans 0.05 % cheaper on average, in columns, and five
0.06 %; in the first one more climbs bring nothing."""
_SHARE_APART = 0.5
"""Of the climbs of a swarm that begin with the spread lots there were, and of those that do not."""
_LATER_MOVES = 10_000_000
_LOTS_A_SWARM = 2
_REPACKED = 64
"""Swarms after the first: at most the root of so many moves over those of one plan, and one for so
many lots; and the ways to repack that each begins with."""
_LEAST_PATIENCE = 3
"""However many lots there are."""
_FIRST_SWARM_STEPS, _SWARM_STEPS = 100, 20
_CAPS = (1.05, 1.2, 1.5)
_FEW_CAPS = (1.05,)
_SEVERAL = 4
"""Caps on the sum of dims of a device, in multiples of the mean, and those where there are fewer
climbs: a single one hardly levels the dims of a hundred devices. On 24 tasks of 1000 tables for 128
devices 1.05 instead of 1.2 makes plans 0.3 % cheaper on average; single ones there and on eight of
500 and 700 tables are 4 % cheaper or 2 % dearer; on 56 of 400 for 32 it changes nothing."""
_ANNEALED_MOVES, _MOST_ANNEALED = 2500, 500
"""Moves that annealing tries for each lot, and lots, above which it tries none. On 24 tasks of 400
tables for 32 devices it makes plans 0.1 % cheaper; on six of 1000 for 128, which have some eight
units on a device, it changed nothing."""
_MOST_SPREAD = 6
_LARGEST, _DEAREST = 5, 6
"""Ways to cut that a swarm of several climbs begins with, too: column cuts with 1 to 6 of the
dearest lots spread instead; and 0 to 4 halvings of the largest units in memory, each with 0 to 5 of
the dearest. Measured on 100 tasks for eight devices: without halvings 6 plans cost over 0.5 % more
than NEUROSHARD's, one of them 9 %; with them none."""


def search_locally(
    evaluator: PlanEvaluator,
    options: SearchOptions,
    budget: Budget,
    on_improvement: OnImprovement | None = None,
) -> SearchOutcome:
    """Searches sharding types, column splits and placements; see the module.

    Raises:
        InsufficientMemoryError: When no plan was found that fits, saying which table did not.
        NoPlanInTimeError: When the deadline passes before a plan is found.
    """
    return run_to_end(_LocalSearch(evaluator, options, budget, on_improvement))


class _LocalSearch:
    """One run of the search."""

    def __init__(
        self,
        evaluator: PlanEvaluator,
        options: SearchOptions,
        budget: Budget,
        on_improvement: OnImprovement | None,
    ) -> None:
        self._book = LotBook(evaluator, options, budget.check)
        self._options = options
        self._budget = budget
        self._on_improvement = on_improvement
        # as swarms have it: transfers of the device with the largest sum of dims alone
        self._kept: list[Slots] = []
        tight = evaluator.problem.total_bytes > _TIGHT_FILL * evaluator.memory_bytes.sum()
        self._effort = _TIGHT if tight else _ROOMY
        self._best_ms = math.inf

    def run(self) -> None:
        """Searches to the end; there is a plan unless this raises another than OutOfTime."""
        # what comes last, the packed one, is gone on from even where it is dearer: tight plans end
        # cheaper, now and then by a third
        for lanes in self._first_lanes():
            latest = self._swarm(lanes, _FIRST_SWARM_STEPS)
        if self._has_few_climbs() and len(self._book.lots) <= _MOST_ANNEALED:
            latest = self._annealed(latest)
        repacker = Repacker(self._lane_book, self._options.seed)
        most_patience = max(_LEAST_PATIENCE, self._effort.patient_lots // len(self._book.lots))
        last_gain = 0
        for number in range(1, self._num_later_swarms() + 1):
            self._budget.check()
            before_ms, prices = self._best_ms, take_prices(self._lane_book, latest)
            repacked = repacker.ways(latest._replace(prices=prices), _REPACKED)
            if len(repacked.lots):
                lanes = self._lane_book.lanes(repacked)
                latest = self._swarm(lanes, _SWARM_STEPS, latest, prices)
            if self._best_ms < before_ms:
                last_gain = number
            elif number - last_gain >= min(most_patience, self._effort.patience + last_gain):
                break

    def _first_lanes(self) -> list[Lanes]:
        """Placed lanes, and a packed one where none of them is without spread lots.

        Raises:
            InsufficientMemoryError: When nothing was found that fits.
        """
        ways = self._ways()
        self._lane_book = LaneBook(self._book)
        caps = _FEW_CAPS if self._has_few_climbs() else _CAPS
        cells = len(self._book.lots) * self._book.num_devices
        most_ways = max(1, _MOST_LANE_CELLS // (cells * len(caps)))
        self._budget.check()
        placed = place(self._lane_book, ways[:most_ways], caps)
        found = [placed] if len(placed.lots) else []
        if not (placed.spreads == NONE).all(axis=1).any():
            packed = pack(self._book, self._options.seed, self._budget.check)
            self._lane_book = LaneBook(self._book)  # with the widths that were met
            if not isinstance(packed, Misfit):
                found.append(self._lane_book.slots(packed))
            elif not found:
                problem, tables = self._book.evaluator.problem, self._book.lots[packed.lot].tables
                raise no_room_error(problem, self._options, tables, packed.columns)
        return [self._lane_book.lanes(slots) for slots in found]

    def _swarm(
        self, lanes: Lanes, steps: int, root: Lanes | None = None, prices: FloatArray | None = None
    ) -> Lanes:
        """Climbs from the best of some lanes; returns the best that it came to.

        Args:
            lanes: Where to begin.
            steps: At most.
            root: What they were made of by repacking.
            prices: As `Lanes.prices`; None: those of the best lanes.
        """
        self._book.evaluator.plans_evaluated += len(lanes.lots)
        chosen = self._chosen(lanes, root)
        begin = self._lane_book.some(lanes, chosen)
        prices = take_prices(self._lane_book, begin) if prices is None else prices
        hope = self._effort.hope if len(chosen) >= _SEVERAL else math.inf
        best = begin._replace(prices=prices)
        # a hot table that is cut while devices are far from level is not joined again later
        for whole in (True, False) if root is None and self._has_few_climbs() else (False,):
            swarm = Swarm(self._lane_book, best, hope, whole=whole)
            if not self._budget.plan_found:
                self._keep(swarm)
            try:
                swarm.climb(steps, self._best_ms, self._budget.check)
            finally:  # out of time, too
                self._keep(swarm)
            best = swarm.best
        return self._lane_book.some(best, np.array([swarm.cost_ms.argmin()]))

    def _annealed(self, latest: Lanes) -> Lanes:
        """A lane after annealing and climbing, or as it was where that is cheaper."""
        annealer = Annealer(self._lane_book, self._options.seed)
        num_moves = _ANNEALED_MOVES * len(self._book.lots)
        slots = annealer.anneal(latest, num_moves, self._budget.check)
        found = self._swarm(self._lane_book.lanes(slots), _FIRST_SWARM_STEPS)
        return found if costs_ms(found)[0] < costs_ms(latest)[0] else latest

    def _num_moves(self) -> int:
        """Moves of a plan, roughly: swaps of two units, and parts of a unit to any device."""
        lots = len(self._book.lots)
        return lots * (lots + 5 * self._book.num_devices)

    def _num_climbs(self, first: bool = True) -> int:
        """Climbs of the first swarm, or of one after it."""
        most = math.isqrt(self._effort.swarm_moves // self._num_moves())
        of_device = _FIRST_CLIMBS if first else _LATER_CLIMBS
        return max(1, min(most, self._effort.most_climbs, of_device * self._book.num_devices))

    def _has_few_climbs(self) -> bool:
        """Whether the problem is so large that the first swarm has but a few climbs."""
        return self._num_climbs() < _SEVERAL

    def _num_later_swarms(self) -> int:
        """Swarms after the first, at most."""
        most = math.isqrt(_LATER_MOVES // self._num_moves())
        return min(most, self._effort.most_swarms, len(self._book.lots) // _LOTS_A_SWARM)

    def _chosen(self, lanes: Lanes, root: Lanes | None) -> IntArray:
        """The cheapest lanes, of different costs; some with the root's spread lots, some without.

        Without a root some are without any spread lot. Greedy plans say little of what a climb
        makes of other ways to spread; where there are few climbs, what they say is not asked.
        """
        most = self._num_climbs(first=root is None)
        few = root is None and most < _SEVERAL
        found_ms = self._levelled_ms(lanes) if few else costs_ms(lanes)
        spreads = NONE if root is None else root.spreads
        alike = (lanes.spreads == spreads).all(axis=1)
        return _cheapest(found_ms, alike, most, int(_SHARE_APART * most))

    def _levelled_ms(self, lanes: Lanes) -> Float64Array:
        """What lanes would cost, all devices levelled as far as their largest units allow."""
        book = self._lane_book
        kinds = np.where(lanes.devices != NONE, lanes.kinds, NONE)
        largest_ms = book.units.compute_ms[kinds].max(axis=1)
        if lanes.base.any():  # what is spread lies beside the largest unit, too
            average = book.sums(lanes).mean(axis=1)
            without = np.maximum(average - lanes.base.mean(axis=1), 0.0)
            largest_ms += np.maximum(book.compute_ms(average) - book.compute_ms(without), 0.0)
        compute_ms = np.maximum(lanes.compute_ms.mean(axis=1), largest_ms)
        return np.asarray(compute_ms + lanes.transfers_ms[:, 0] + lanes.all_reduce_ms)

    def plan(self) -> ShardingPlan:
        """The best plan so far, by what those cost exactly that nearly were the best."""
        kept = Slots.joined(self._kept)
        best = int(self._lane_book.exact_ms(kept).argmin())
        return self._lane_book.assignment(kept, best).to_plan()

    def _ways(self) -> list[Cuts]:
        """Distinct ways to cut the lots, with and without spreading them."""
        most_cuts = min(_MOST_CUTS, 4 * self._book.num_devices + len(self._book.lots))
        cutter = Cutter(self._book, self._budget.check)
        ways = [list(cutter.cuts)]
        spreads = any(lot.spreads for lot in self._book.lots)
        families = [(True, False), *([(False, False)] if spreads else [])]
        families += [(columns_only, True) for columns_only, _ in families if cutter.copies]
        for columns_only, copies in families:
            cutter.begin(columns_only=columns_only, copies=copies)
            ways.append(list(cutter.cuts))
            for share in _SHARES:
                ways += _spaced(cutter.refine(share, most_cuts), _WAYS)
                if columns_only and not self._has_few_climbs():
                    ways += cutter.spreadings(cutter.cuts, _MOST_SPREAD)
            if not columns_only:
                ways.append(cutter.all_spread())
        if not self._has_few_climbs():
            ways += cutter.halvings(_LARGEST, _DEAREST)
        # what lies on devices says how it is cut
        return list({tuple(cut.kinds for cut in cuts): cuts for cuts in reversed(ways)}.values())[
            ::-1
        ]

    def _keep(self, swarm: Swarm) -> None:
        """Keeps the cheapest plan of a swarm if it is better by more than noise."""
        lane = int(swarm.cost_ms.argmin())
        if swarm.cost_ms[lane] > (1.0 - _MIN_GAIN) * self._best_ms:
            return
        self._best_ms = float(swarm.cost_ms[lane])
        self._kept.append(Slots.of(swarm.best).chosen([lane]))
        self._budget.plan_found = True
        if self._on_improvement is not None:
            self._on_improvement(self._lane_book.assignment(self._kept[-1], 0).to_plan())


@njit(cache=True)
def _cheapest(costs_ms: Float64Array, alike: BoolArray, most: int, share: int) -> IntArray:
    """The cheapest of different costs, at most so many, the cheapest first.

    Args:
        costs_ms: `[k] float64`.
        alike: `[k] bool`; the first of either kind come before the others.
        most: How many.
        share: How many of each kind come first.
    """
    order = np.argsort(costs_ms, kind="mergesort")
    taken = np.zeros(len(order), dtype=np.bool_)
    count, of_kind = 0, np.zeros(2, dtype=np.int64)
    for limit in (share, len(order)):
        before_ms = -np.inf
        for i in range(len(order)):
            lane = order[i]
            kind = int(alike[lane])
            new = costs_ms[lane] > before_ms and not taken[i]
            if new and of_kind[kind] < limit and count < most:
                taken[i] = True
                of_kind[kind] += 1
                count += 1
            before_ms = costs_ms[lane]
    return order[taken]


def _spaced(ways: list[Cuts], count: int) -> list[Cuts]:
    """So many of some ways, evenly spaced, the last among them."""
    if len(ways) <= count:
        return ways
    return [ways[(i + 1) * len(ways) // count - 1] for i in range(count)]
