"""The default search: cut, place, climb, kick and climb again (algorithm LOCAL_SEARCH).

1. `cuts`       Lots are cut in several ways, from as little as memory allows to ever finer.
2. `construct`  All ways are placed greedily in lockstep; the cheapest plans are kept.
   `packing`    Where none fits into memory, memory alone decides.
3. `climb`      Single moves improve them until none helps. Where the problem is small and
                constraints allow it, NEUROSHARD's plan (`beam`) is one more start: no answer is
                worse by the cost models.
4. `kicks`      One lot is cut in another way, or a few units change places at random; the climb
                begins again from there, and what is cheaper by more than noise is kept.

The effort is bounded by a number of steps that follows from the problem's size, never by the
clock: the same request gives the same plan. Only a time budget or deadline ends it earlier.
"""

from __future__ import annotations

import random

from shardwright.domain import SearchOptions, StoppedBy
from shardwright_server.search.assignment import Assignment
from shardwright_server.search.beam import beam_plan
from shardwright_server.search.budget import Budget, OutOfTime
from shardwright_server.search.capacity import no_room_error
from shardwright_server.search.climb import MIN_GAIN, Climber
from shardwright_server.search.construct import Lane, construct
from shardwright_server.search.cost import PlanEvaluator
from shardwright_server.search.cuts import Cuts, Cutter
from shardwright_server.search.kicks import Switch, shake, switches
from shardwright_server.search.lots import LotBook
from shardwright_server.search.outcome import OnImprovement, SearchOutcome
from shardwright_server.search.packing import Misfit, pack

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
_MOST_BEAM_CELLS = 1000
"""Lots times devices up to which NEUROSHARD's plan is a start: beyond, it takes seconds."""
_CLIMB_STEPS = 12
"""A climb after a kick, or from another start, ends here if it was not better before."""
_SHAKES = 2
"""For each switch."""


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
    search = _LocalSearch(evaluator, options, budget, on_improvement)
    try:
        search.run()
        stopped_by = StoppedBy.COMPLETED
    except OutOfTime as stop:
        stopped_by = stop.stopped_by
    return SearchOutcome(search.best.to_plan(), stopped_by)


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
        first, *others = self._starts()
        self._keep(first)
        self._climber = Climber(first.copy(), self._budget.check)
        self._climb(self._climber, _FIRST_CLIMB * self._steps_left)
        for start in others:
            self._climb_from(start)
        self._climb_from_neuroshard()
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

    def _starts(self) -> list[Assignment]:
        """The cheapest greedy plans, or one that fits.

        Raises:
            InsufficientMemoryError: When none was found.
        """
        book = self._book
        lanes = [Lane(cuts, cap) for cuts in self._ways() for cap in _CAPS]
        cells = len(book.lots) * max(book.num_devices, _LEAST_CELLS)
        most_lanes = max(1, _MOST_LANE_CELLS // cells)
        found = construct(book, lanes[:most_lanes], _STARTS, self._budget.check)
        if found:
            return found
        packed = pack(book, self._options.seed, self._budget.check)
        if isinstance(packed, Misfit):
            problem, tables = book.evaluator.problem, book.lots[packed.lot].tables
            raise no_room_error(problem, self._options, tables, packed.columns)
        return [packed]

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
        return [cuts for i, cuts in enumerate(ways) if cuts not in ways[:i]]

    def _climb_from_neuroshard(self) -> None:
        """Takes NEUROSHARD's plan if it is better, and climbs from there."""
        book = self._book
        if len(book.lots) * book.num_devices > _MOST_BEAM_CELLS or not self._is_neuroshards():
            return
        plan = beam_plan(book.evaluator, self._options, self._budget)
        if plan is not None and self._keep(Assignment.of_columns(book, plan)):
            self._climber = self._climber.restarted(self.best.copy())
            self._climb(self._climber, _CLIMB_STEPS)

    def _is_neuroshards(self) -> bool:
        """Whether constraints allow all that NEUROSHARD does: tables whole or cut, anywhere."""
        return bool(self._book.allowed.all()) and all(
            len(lot.tables) == 1 and lot.whole and (lot.cut or lot.columns < 2 * lot.min_width)
            for lot in self._book.lots
        )

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


def _spaced(ways: list[Cuts], count: int) -> list[Cuts]:
    """So many of some ways, evenly spaced, the last among them."""
    if len(ways) <= count:
        return ways
    return [ways[(i + 1) * len(ways) // count - 1] for i in range(count)]
