"""The default search: cut, place, climb, repack and climb again (algorithm LOCAL_SEARCH).

1. `cuts`       Lots are cut in several ways, from as little as memory allows to ever finer.
2. `construct`  All ways are placed greedily in lockstep; the cheapest plans are kept.
   `packing`    Where none fits into memory, memory alone decides.
3. `swarm` climbs from the best of these plans in lockstep. Then, a few times, some devices of the
   latest plan are emptied and filled again in many ways (`repack`), of which the best are climbed
   from in a swarm. The larger the problem, the fewer climbs in a swarm and times.
4. Problems of thousands of tables: `climb` betters the plans by single moves. Then one lot is cut
   in another way, or a few units change places at random (`kicks`); the climb begins again from
   there, and what is cheaper by more than noise is kept.

The effort is bounded by a number of steps that follows from the problem's size, never by the
clock: the same request gives the same plan. Only a time budget or deadline ends it earlier.
"""

from __future__ import annotations

import math
import random

import numpy as np

from shardwright.domain import SearchOptions, ShardingPlan
from shardwright_server.search.assignment import Assignment
from shardwright_server.search.budget import Budget
from shardwright_server.search.capacity import no_room_error
from shardwright_server.search.climb import MIN_GAIN, Climber
from shardwright_server.search.construct import Lane, construct, place_all
from shardwright_server.search.cost import PlanEvaluator
from shardwright_server.search.cuts import Cuts, Cutter
from shardwright_server.search.greedy import Greedy, Start
from shardwright_server.search.kernels import cost_ms
from shardwright_server.search.kicks import Switch, shake, switches
from shardwright_server.search.lane_book import LaneBook, Slots
from shardwright_server.search.lanes import NONE, Lanes
from shardwright_server.search.lots import LotBook
from shardwright_server.search.outcome import OnImprovement, SearchOutcome, run_to_end
from shardwright_server.search.packing import pack
from shardwright_server.search.pieces import IntArray
from shardwright_server.search.repack import Repacker
from shardwright_server.search.swarm import Swarm

_SHARES = (1.0, 0.6)
"""Of the average device: cutting pauses where no unit exceeds the first, ends at the second."""
_WAYS = 4
"""Ways to cut that are placed, of those passed on the way to each share."""
_CAPS = (1.02, 1.1, 1.5)
"""On the sum of dims of a device, in multiples of the mean."""
_MOST_LANE_CELLS = 10_000_000
_LEAST_CELLS = 100
"""Lots times devices (counted as this many at least) times lanes, at most; bounds memory, time."""
_MOST_CUTS = 1000
_LEAST_STEPS = 96
_FEW_DEVICES = 8
_FREE_LOTS = 20
_FULL_EFFORT = 40
_EXPONENT = 0.8
_MOST_STEPS = 400
"""Steps: two for each lot beyond the free ones, but no less than `_LEAST_STEPS` over the number of
devices (eight where there are more), and no more than `_FULL_EFFORT` plus the number of lots to the
`_EXPONENT`, nor `_MOST_STEPS`. Measured on 47 tasks of 10 to 36 tables: a third more steps makes
plans 0.2 % cheaper."""
_FIRST_CLIMB = 3
"""The first climb may take so many times these steps."""
_STARTS = 2
"""Greedy plans from which a climb begins."""
_CLIMB_STEPS = 12
"""A climb after a kick, or from another start, ends here if it was not better before."""
_SHAKES = 2
"""For each switch."""

_MOST_MOVES = 2_500_000
"""Moves of one plan (`_moves`) of a problem that is searched in swarms."""
_SWARM_MOVES = 900_000
_MOST_SWARM = 12
"""Climbs of a swarm: the root of so many moves over those of one plan, at least one."""
_ROUND_MOVES = 700_000
_MOST_ROUNDS = 16
_PATIENCE = 3
_REPACKED = 48
"""Swarms after the first: so many moves over those of one plan, and at most one for each third lot;
fewer where so many in a row find nothing better; and ways to repack that each begins with. On 100
tasks for eight devices the mean distance to the best plans known halves from the fourth round to
the tenth; patience costs 0.03 %, and spares a third of the time."""
_FIRST_SWARM_STEPS, _SWARM_STEPS = 60, 20
_SWARM_CAPS = (1.05, 1.2, 1.5)
_FEW_CAPS = (1.2,)
_SEVERAL = 4
"""Caps where there are fewer climbs: they level dims sooner than they mend what a close cap costs.
"""
_LARGEST, _DEAREST = 5, 6
"""Ways to cut that a swarm of several climbs begins with, too: 0 to 4 halvings of the largest units
in memory, each with 0 to 5 of the dearest. Measured on 100 tasks for eight devices: without them 6
plans cost over 0.5 % more than NEUROSHARD's, one of them 9 %; with them none."""


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
    """One run of the search.

    Attributes:
        best: The best plan so far; there from the first step of a climb on.
    """

    best: Assignment

    def __init__(
        self,
        evaluator: PlanEvaluator,
        options: SearchOptions,
        budget: Budget,
        on_improvement: OnImprovement | None,
    ) -> None:
        self._book = LotBook(evaluator, options)
        self._options = options
        self._budget = budget
        self._on_improvement = on_improvement
        self._random = random.Random(options.seed)
        self._steps_left = _steps(len(self._book.lots), self._book.num_devices)

    def run(self) -> None:
        """Searches to the end; `best` holds a plan unless this raises another than OutOfTime."""
        if self._moves() <= _MOST_MOVES and self._run_swarms():
            return
        first, *others = self._starts()
        self._keep(first)
        self._climber = Climber(first.copy(), self._budget.check)
        self._climb(self._climber, _FIRST_CLIMB * self._steps_left)
        for start in others:
            self._climb_from(start)
        tried: set[Switch] = set()
        queue = switches(self.best)
        while self._steps_left > 0:
            queue = [switch for switch in queue if switch not in tried]
            better = False
            if queue:
                tried.add(queue[0])
                better = self._climb_from(queue[0].applied(self.best))
            for _ in range(_SHAKES):
                better = better or self._climb_from(shake(self.best, self._random))
            if better:
                queue = switches(self.best)

    def _moves(self) -> int:
        """Moves of a plan, roughly: swaps of two units, and parts of a unit to any device."""
        lots = len(self._book.lots)
        return lots * (lots + 5 * self._book.num_devices)

    def _run_swarms(self) -> bool:
        """Climbs in swarms from greedy plans, then from repacked ones; False where none fits."""
        book, check = self._book, self._budget.check
        few = self._num_climbs() < _SEVERAL
        ways = self._ways() if few else _distinct([*self._ways(), *self._halvings()])
        caps = _FEW_CAPS if few else _SWARM_CAPS
        lanes = [Lane(cuts, cap) for cuts in ways for cap in caps]
        firsts = [place_all(book, lanes, check)]
        if all(firsts[0].starts[lane].spreads for lane in firsts[0].by_cost()):
            # greedy plans that fit, if any, have spread lots: one that packs memory may need none
            packed = pack(book, self._options.seed, check)
            if isinstance(packed, Assignment):
                firsts.append(Greedy(book, [Start.of(packed)], check))
        lane_book = LaneBook(book)
        repacker = Repacker(lane_book, self._options.seed)
        # what comes last, the packed one, is gone on from even where it is dearer: tight plans end
        # cheaper, now and then by a third
        for first in firsts:
            if placed := first.by_cost():
                latest = self._swarm(lane_book, lane_book.placed(first, placed), _FIRST_SWARM_STEPS)
        if not self._budget.plan_found:
            return False
        rounds, patience = _ROUND_MOVES // self._moves(), _PATIENCE
        for _ in range(min(rounds, _MOST_ROUNDS, len(book.lots) // 3)):
            check()
            before = self.best
            repacked = repacker.ways(lane_book.lanes(latest), _REPACKED)
            if len(repacked.lots):
                latest = self._swarm(lane_book, repacked, _SWARM_STEPS)
            patience = patience - 1 if self.best is before else _PATIENCE
            if not patience:
                break
        return True

    def _swarm(self, lane_book: LaneBook, placed: Slots, steps: int) -> Slots:
        """Climbs from the best of some assignments; returns the best that it came to."""
        lanes = lane_book.lanes(placed)
        self._book.evaluator.plans_evaluated += len(lanes.lots)
        chosen = self._chosen(lanes)
        if not self._budget.plan_found:
            self._keep(lane_book.assignment(placed, int(chosen[0])))
        swarm = Swarm(lane_book, lane_book.some(lanes, chosen))
        try:
            swarm.climb(steps, self._budget.check)
        finally:  # out of time, too
            best = int(swarm.cost_ms.argmin())
            self._keep(swarm.assignment(best))
        return swarm.best.chosen([best])

    def _num_climbs(self) -> int:
        """Climbs of a swarm."""
        most = math.isqrt(_SWARM_MOVES // self._moves())
        return max(1, min(_MOST_SWARM, len(self._book.lots), most))

    def _chosen(self, lanes: Lanes) -> IntArray:
        """The cheapest lanes, of different costs; half of them without any spread lot, if any."""
        most = self._num_climbs()
        costs_ms = np.array([cost_ms(lanes, lane) for lane in range(len(lanes.lots))])
        _, order = np.unique(costs_ms, return_index=True)
        whole = (lanes.spreads[order] == NONE).all(axis=1)
        first = np.concatenate([order[whole][: most // 2], order])
        chosen = first[np.sort(np.unique(first, return_index=True)[1])][:most]
        return np.asarray(chosen[np.argsort(costs_ms[chosen], kind="stable")])

    def plan(self) -> ShardingPlan:
        """The best plan so far."""
        return self.best.to_plan()

    def _starts(self) -> list[Assignment]:
        """The cheapest greedy plans; where none is without spread lots, a packed one before them.

        Raises:
            InsufficientMemoryError: When none was found.
        """
        book = self._book
        lanes = [Lane(cuts, cap) for cuts in self._ways() for cap in _CAPS]
        cells = len(book.lots) * max(book.num_devices, _LEAST_CELLS)
        most_lanes = max(1, _MOST_LANE_CELLS // cells)
        found = construct(book, lanes[:most_lanes], _STARTS, self._budget.check)
        if any(not start.spreads for start in found):
            return found
        packed = pack(book, self._options.seed, self._budget.check)
        if isinstance(packed, Assignment):
            return [packed, *found]
        if not found:
            problem, tables = book.evaluator.problem, book.lots[packed.lot].tables
            raise no_room_error(problem, self._options, tables, packed.columns)
        return found

    def _ways(self) -> list[Cuts]:
        """Distinct ways to cut the lots, with and without spreading them."""
        most_cuts = min(_MOST_CUTS, 4 * self._book.num_devices + len(self._book.lots))
        ways: list[Cuts] = []
        families = (True, False) if any(lot.spreads for lot in self._book.lots) else (True,)
        for columns_only in families:
            cutter = Cutter(self._book, columns_only=columns_only)
            ways.append(list(cutter.cuts))
            for share in _SHARES:
                ways += _spaced(cutter.refine(share, most_cuts), _WAYS)
            if not columns_only:
                ways.append(cutter.all_spread())
        return _distinct(ways)

    def _halvings(self) -> list[Cuts]:
        """Lots halved, from not at all to some of the largest and some of the dearest."""
        return Cutter(self._book, columns_only=True).halvings(_LARGEST, _DEAREST)

    def _climb_from(self, assignment: Assignment) -> bool:
        """Climbs from a kicked assignment; whether that led to a better plan."""
        if self._steps_left <= 0:
            return False
        return self._climb(self._climber.restarted(assignment), _CLIMB_STEPS)

    def _climb(self, climber: Climber, most_steps: int) -> bool:
        try:
            self._steps_left -= climber.climb(most_steps)
        finally:  # out of time, too
            better = self._keep(climber.assignment)
        if better:
            self._climber = climber
        return better

    def _keep(self, assignment: Assignment) -> bool:
        """Keeps an assignment that is better by more than noise."""
        if self._budget.plan_found and assignment.cost_ms > (1.0 - MIN_GAIN) * self.best.cost_ms:
            return False
        self.best = assignment
        self._budget.plan_found = True
        if self._on_improvement is not None:
            self._on_improvement(assignment.to_plan())
        return True


def _steps(num_lots: int, num_devices: int) -> int:
    most = min(_MOST_STEPS, _FULL_EFFORT + num_lots**_EXPONENT)
    by_lots = int(min(2 * (num_lots - _FREE_LOTS), most))
    return max(_LEAST_STEPS // min(num_devices, _FEW_DEVICES), by_lots)


def _distinct(ways: list[Cuts]) -> list[Cuts]:
    return [cuts for i, cuts in enumerate(ways) if cuts not in ways[:i]]


def _spaced(ways: list[Cuts], count: int) -> list[Cuts]:
    """So many of some ways, evenly spaced, the last among them."""
    if len(ways) <= count:
        return ways
    return [ways[(i + 1) * len(ways) // count - 1] for i in range(count)]
