"""Everybody who is asked for a plan, and what an answer of theirs depends on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

from tests.benchmarks import annealing, torchrec_planner
from tests.benchmarks.answers import Answer, digest, read, write
from tests.benchmarks.greedy import SCORES, place_greedily, place_randomly
from tests.benchmarks.tasks import HARDWARE, ROWS, draw_task
from tests.benchmarks.truth import true_cost

import shardwright.domain as domain
import shardwright_costmodel.features as features
import shardwright_costmodel.runtime as runtime
import shardwright_server.planning as planning
import shardwright_server.search as search
from shardwright.domain import (
    Algorithm,
    DomainError,
    PlanRequest,
    SearchOptions,
    ShardingPlan,
    ShardingProblem,
    ShardingType,
)
from shardwright_costmodel.registry import DEFAULT_BUNDLES_URL, Registry
from shardwright_costmodel.runtime import OnnxCostModel

COLUMNS_ONLY = (ShardingType.TABLE_WISE, ShardingType.COLUMN_WISE)
WITH_ROWS = (*COLUMNS_ONLY, ShardingType.ROW_WISE, ShardingType.TABLE_ROW_WISE)
WITH_COPIES = (*WITH_ROWS, ShardingType.DATA_PARALLEL)

ANNEALING_S, LONG_ANNEALING_S = 60.0, 180.0
"""Of process time. The long one, with another seed, shows on a few tasks how far the other is from
having converged."""


@dataclass(frozen=True)
class Task:
    """A problem with a name that no other has, such as `10-60x4/17`."""

    name: str
    problem: ShardingProblem


@dataclass(frozen=True)
class Side:
    """Somebody who answers tasks.

    Attributes:
        name: A file name.
        key: Of everything that an answer to a task depends on besides the task.
        solve: Answers a task.
    """

    name: str
    key: Callable[[Task], str]
    solve: Callable[[Task], Answer]

    def answer(self, task: Task) -> Answer:
        """The kept answer, else a new one, which is kept."""
        kept = self.kept(task)
        if kept is None:
            kept = self.solve(task)
            write(task.name, self.name, self.key(task), task.problem, kept)
        return kept

    def kept(self, task: Task) -> Answer | None:
        """The kept answer."""
        return read(task.name, self.name, self.key(task), task.problem)


@lru_cache(maxsize=1)
def cost_model() -> OnnxCostModel:
    """The shipped bundle of the hardware of all tasks."""
    return OnnxCostModel.from_bundle(Registry(DEFAULT_BUNDLES_URL).load(HARDWARE, None))


def search_options(
    algorithm: Algorithm, types: tuple[ShardingType, ...] = WITH_ROWS
) -> SearchOptions:
    """Default settings but for algorithm and sharding types."""
    return SearchOptions(algorithm=algorithm, sharding_types=types)


def _ours(options: SearchOptions) -> Callable[[Task], Answer]:
    def solve(task: Task) -> Answer:
        begin_s = time.process_time()
        try:
            request = PlanRequest(task.problem, options)
            result = planning.plan(request, cost_model(), deadline_s=None)
        except DomainError as error:
            return Answer(None, time.process_time() - begin_s, note=str(error))
        return Answer(result.plan, time.process_time() - begin_s, result.cost_ms)

    return solve


def _search_key(_task: Task) -> str:
    return f"bundle {cost_model().id.version} code {_search_code()}"


@lru_cache(maxsize=1)
def _search_code() -> str:
    return digest(planning, search, features, runtime, domain)


def _annealing_key(seconds: float, task: Task) -> str:
    revision = annealing.schedule(task.problem).revision
    return f"revision {revision}, {seconds:g} s, costs {roofline_costs()}"


@lru_cache(maxsize=1)
def roofline_costs() -> str:
    """Of what the roofline answers, not of its sources: those grow things that change nothing."""
    costs = []
    for row in ROWS.values():
        problem = draw_task(row, 0)
        plan = place_randomly(problem, seed=0)
        if plan:
            costs.append(f"{true_cost(plan, problem).cost_ms:.6g}")
    return " ".join(costs)


def _torchrec_key(_task: Task) -> str:
    return torchrec_planner.version()


def _same(_task: Task) -> str:
    """Of what nothing here changes."""
    return "1"


def _timed(place: Callable[[Task], ShardingPlan | None]) -> Callable[[Task], Answer]:
    def solve(task: Task) -> Answer:
        begin_s = time.process_time()
        plan = place(task)
        note = "" if plan else "a table found no room"
        return Answer(plan, time.process_time() - begin_s, note=note)

    return solve


def _annealed(seconds: float, seed: int, in_rows: bool = False) -> Callable[[Task], Answer]:
    """Starts from the best plan of the rules of thumb and NEUROSHARD."""

    def solve(task: Task) -> Answer:
        starts = [SIDES[name].answer(task).plan for name in (*SCORES, "neuroshard")]
        known = [plan for plan in starts if plan]
        if not known:
            return Answer(None, 0.0, note="no plan to start from")
        start = min(known, key=lambda plan: true_cost(plan, task.problem).cost_ms)
        annealing.compile_kernel(task.problem, start)
        begin_s = time.process_time()
        plan = annealing.anneal(
            task.problem,
            start,
            seconds=seconds,
            seed=seed,
            in_rows=in_rows,
            clock=time.process_time,
        )
        return Answer(plan, time.process_time() - begin_s)

    return solve


def _greedily(score: str) -> Callable[[Task], Answer]:
    return _timed(lambda task: place_greedily(task.problem, score))


SIDES: Mapping[str, Side] = {
    side.name: side
    for side in (
        Side(
            "local_search", _search_key, _ours(search_options(Algorithm.LOCAL_SEARCH, COLUMNS_ONLY))
        ),
        Side("local_search_rows", _search_key, _ours(search_options(Algorithm.LOCAL_SEARCH))),
        Side(
            "local_search_all",
            _search_key,
            _ours(search_options(Algorithm.LOCAL_SEARCH, WITH_COPIES)),
        ),
        # its semantics are fixed, so that only the models can change its answers
        Side(
            "neuroshard",
            lambda _task: f"bundle {cost_model().id.version}",
            _ours(search_options(Algorithm.NEUROSHARD, COLUMNS_ONLY)),
        ),
        *(Side(score, _same, _greedily(score)) for score in SCORES),
        Side(
            "random", lambda _task: "1", _timed(lambda task: place_randomly(task.problem, seed=0))
        ),
        Side("annealing", partial(_annealing_key, ANNEALING_S), _annealed(ANNEALING_S, seed=0)),
        Side(
            "annealing_long",
            partial(_annealing_key, LONG_ANNEALING_S),
            _annealed(LONG_ANNEALING_S, seed=1),
        ),
        Side(
            "annealing_rows",
            partial(_annealing_key, ANNEALING_S),
            _annealed(ANNEALING_S, seed=0, in_rows=True),
        ),
        Side(
            "torchrec",
            lambda _task: torchrec_planner.version(),
            torchrec_planner.answer(COLUMNS_ONLY),
        ),
        Side(
            "torchrec_rows",
            lambda _task: torchrec_planner.version(),
            torchrec_planner.answer(WITH_ROWS),
        ),
    )
}
