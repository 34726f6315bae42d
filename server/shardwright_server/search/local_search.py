"""The default search: cut, place, climb, and climb again from nearby (algorithm LOCAL_SEARCH)."""

from __future__ import annotations

import random

from shardwright.domain import SearchOptions, StoppedBy
from shardwright_server.search.assignment import Assignment
from shardwright_server.search.budget import Budget, OutOfTime
from shardwright_server.search.capacity import no_room_error
from shardwright_server.search.climb import MIN_GAIN, Climber
from shardwright_server.search.construct import Lane, construct
from shardwright_server.search.cost import PlanEvaluator
from shardwright_server.search.cuts import Cutter, Cuts
from shardwright_server.search.kicks import shake, switches
from shardwright_server.search.lots import LotBook
from shardwright_server.search.outcome import OnImprovement, SearchOutcome
from shardwright_server.search.packing import Misfit, pack

_SHARES = (1.0, 0.6)
_CAPS = (1.1, 1.5)


def search_locally(
    evaluator: PlanEvaluator,
    options: SearchOptions,
    budget: Budget,
    on_improvement: OnImprovement | None = None,
) -> SearchOutcome:
    search = _LocalSearch(evaluator, options, budget, on_improvement)
    try:
        search.run()
        stopped_by = StoppedBy.COMPLETED
    except OutOfTime as stop:
        stopped_by = stop.stopped_by
    assert search.best is not None
    return SearchOutcome(search.best.to_plan(), stopped_by)


class _LocalSearch:
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
        self._random = random.Random(options.seed)
        self._on_improvement = on_improvement
        self.best: Assignment | None = None
        self.steps = 0
        self._climber: Climber | None = None

    def run(self) -> None:
        self.starts = starts = self._starts()
        self.start_ms = [a.cost_ms for a in starts]
        self._keep(starts[0])
        self.trace = []
        self._climb(starts[0], 10**6)
        self.trace.append(("climb", self.steps, self.best.cost_ms))
        tried: set = set()
        limit = self.limit
        while self.steps < limit:
            best = self.best
            improved = False
            for candidate in switches(best):
                key = tuple(sorted((l, s.kind, s.first) for l, s in candidate.spreads.items()))
                if key in tried or self.steps > limit:
                    continue
                tried.add(key)
                if self._climb(candidate, 12):
                    self.trace.append(("switch", self.steps, self.best.cost_ms))
                    improved = True
                    break
            if improved:
                continue
            for _ in range(4):
                if self.steps > limit:
                    break
                if self._climb(shake(self.best, self._random), 12):
                    self.trace.append(("shake", self.steps, self.best.cost_ms))
                    break

    limit = 40

    def _starts(self) -> list[Assignment]:
        book = self._book
        ways: list[Cuts] = []
        for columns_only in (True, False):
            cutter = Cutter(book, columns_only=columns_only)
            ways.append(list(cutter.cuts))
            most_cuts = 4 * book.num_devices + len(book.lots)
            ways += [cutter.refine(share, most_cuts) for share in _SHARES]
        distinct = [cuts for i, cuts in enumerate(ways) if cuts not in ways[:i]]
        lanes = [Lane(cuts, cap) for cuts in distinct for cap in _CAPS]
        starts = construct(book, lanes, 2, self._budget.check)
        if not starts:
            packed = pack(book, self._options.seed, self._budget.check)
            if isinstance(packed, Misfit):
                raise no_room_error(book.evaluator.problem, self._options, book.lots[packed.lot].tables, packed.columns)
            starts = [packed]
        return starts

    def _climb(self, assignment: Assignment, most_steps: int) -> bool:
        if self._climber is None:
            climber = Climber(assignment.copy(), self._budget.check)
        else:
            climber = self._climber.restarted(assignment)
        self.steps += climber.climb(most_steps)
        if self._keep(climber.assignment):
            self._climber = climber
            return True
        if self._climber is None:
            self._climber = climber
        return False

    def _keep(self, assignment: Assignment) -> bool:
        if self.best is not None and assignment.cost_ms > (1.0 - MIN_GAIN) * self.best.cost_ms:
            return False
        self.best = assignment
        self._budget.plan_found = True
        if self._on_improvement:
            self._on_improvement(assignment.to_plan())
        return True
