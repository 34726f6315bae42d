"""Judges kept answers by the truth, and compares sides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from tests.benchmarks.costs import Costs, Judged
from tests.benchmarks.sides import SIDES, Task, roofline_costs
from tests.benchmarks.tasks import ROWS, draw_task, workload, workload_names
from tests.benchmarks.tight import NUM_TASKS, tight_task
from tests.benchmarks.truth import true_cost

from shardwright.domain import DomainError

COLUMN_SIDES = (
    "local_search",
    "neuroshard",
    "annealing",
    "annealing_long",
    "torchrec",
    "dim",
    "size",
    "lookup",
    "size_lookup",
    "random",
)
"""Sides that cut tables in columns or not at all."""

ROW_SIDES = ("local_search_rows", "annealing_rows", "torchrec_rows")
"""Sides that may cut tables in rows, too."""

COPY_SIDES = ("local_search_all",)
"""Sides that may copy tables, too, for data-parallel training: all that there is."""

ALL_SIDES = (*COLUMN_SIDES, *ROW_SIDES, *COPY_SIDES)


def rivals(side: str) -> tuple[str, ...]:
    """Sides of no more sharding types than a side has."""
    if side in COLUMN_SIDES:
        return COLUMN_SIDES
    return (*COLUMN_SIDES, *ROW_SIDES) if side in ROW_SIDES else ALL_SIDES


Judgement = Mapping[str, Mapping[str, Judged]]
"""By task name, then by side; only what was asked."""


def tasks_of(group: str) -> Iterator[Task]:
    """The tasks of a group, in order; endless for a row of tasks."""
    if group == "tight":
        for index in range(NUM_TASKS):
            yield Task(f"tight/{index}", tight_task(index).problem)
    elif group == "workloads":
        for name in workload_names():
            yield Task(f"workloads/{name}", workload(name))
    else:
        index = 0
        while True:
            yield Task(f"{group}/{index}", draw_task(ROWS[group], index))
            index += 1


def judge(tasks: Iterable[Task], costs: Costs, sides: Sequence[str] = tuple(SIDES)) -> Judgement:
    """Judges what was answered, and looks the rest up in `costs`; puts there what it judged."""
    found: dict[str, dict[str, Judged]] = {}
    for task in tasks:
        of_task = {side: _judge(task, side, costs) for side in sides}
        found[task.name] = {side: one for side, one in of_task.items() if one is not None}
    return found


def is_known(task: Task, side: str, costs: Costs) -> bool:
    """Whether a side need not be asked: its answer is kept, or what that was worth."""
    return (
        SIDES[side].kept(task) is not None
        or costs.get(task.name, side, _cost_key(task, side)) is not None
    )


def _cost_key(task: Task, side: str) -> str:
    """Of everything that the cost of an answer depends on."""
    return f"{SIDES[side].key(task)}, truth {roofline_costs()}"


def _judge(task: Task, side: str, costs: Costs) -> Judged | None:
    key, answer = _cost_key(task, side), SIDES[side].kept(task)
    if answer is None:
        return costs.get(task.name, side, key)
    true_ms, note = None, answer.note
    if answer.plan is not None:
        try:
            true_ms = true_cost(answer.plan, task.problem).cost_ms
        except DomainError as error:  # a plan that breaks a rule is no plan
            note = f"illegal: {error}"
    judged = Judged(true_ms, answer.predicted_ms, answer.cpu_s, note)
    costs.put(task.name, side, key, judged)
    return judged


@dataclass(frozen=True)
class Summary:
    """Of relative differences, as fractions.

    Attributes:
        count: Tasks.
        mean: Mean.
        median: Median.
        spread: Standard deviation.
        least: Smallest.
        most: Largest.
    """

    count: int
    mean: float
    median: float
    spread: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary | None:
        """None of nothing."""
        if not values:
            return None
        v = np.array(values)
        return cls(len(v), *map(float, (v.mean(), np.median(v), v.std(), v.min(), v.max())))


def cost(of_task: Mapping[str, Judged], side: str) -> float | None:
    """True cost of a side's plan; None where it was not asked or found none."""
    return of_task[side].true_ms if side in of_task else None


def best_ms(of_task: Mapping[str, Judged], sides: Sequence[str]) -> float | None:
    """The best true cost that any of the sides found."""
    found = [c for side in sides if (c := cost(of_task, side)) is not None]
    return min(found) if found else None


def over_best(judgement: Judgement, side: str, rivals: Sequence[str]) -> list[float]:
    """cost / best - 1 of a side on the tasks where it has a plan; best over `rivals` and itself."""
    return [
        own / best - 1.0
        for of_task in judgement.values()
        if (own := cost(of_task, side)) is not None
        and (best := best_ms(of_task, (*rivals, side))) is not None
    ]


def against(judgement: Judgement, side: str, other: str) -> list[float]:
    """cost / cost of the other - 1 on the tasks where both have a plan."""
    return [
        own / theirs - 1.0
        for of_task in judgement.values()
        if (own := cost(of_task, side)) is not None and (theirs := cost(of_task, other)) is not None
    ]


def worse_by(judgement: Judgement, side: str, other: str, margin: float) -> tuple[int, int, int]:
    """How often a side's plan is worse by more than a margin.

    Returns:
        Tasks where both have a plan; those where it is worse; and of these those where it is so by
        the model's own prediction: there the search fell short, in the others the model.
    """
    compared = worse = foreseen = 0
    for of_task in judgement.values():
        own, theirs = of_task.get(side), of_task.get(other)
        if own is None or theirs is None or own.true_ms is None or theirs.true_ms is None:
            continue
        compared += 1
        if own.true_ms > (1.0 + margin) * theirs.true_ms:
            worse += 1
            foreseen += (own.predicted_ms or 0.0) > (theirs.predicted_ms or 0.0)
    return compared, worse, foreseen


def bias(judgement: Judgement, side: str) -> list[float]:
    """predicted / true - 1 of the plans that a side chose."""
    return [
        one.predicted_ms / one.true_ms - 1.0
        for of_task in judgement.values()
        if (one := of_task.get(side)) and one.true_ms is not None and one.predicted_ms is not None
    ]


def feasible(judgement: Judgement, side: str) -> tuple[int, int]:
    """Tasks with a plan, and tasks asked."""
    asked = [of_task[side] for of_task in judgement.values() if side in of_task]
    return sum(one.true_ms is not None for one in asked), len(asked)


def with_side(judgement: Judgement, side: str) -> Judgement:
    """Only the tasks that a side was asked."""
    return {name: of_task for name, of_task in judgement.items() if side in of_task}


@cache
def group_names() -> tuple[str, ...]:
    """Every group of tasks."""
    return (*ROWS, "workloads", "tight")
