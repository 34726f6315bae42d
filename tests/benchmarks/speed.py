"""Times searches in a process of its own, on one core.

A parent asks for a list of tasks and one side; the child pins itself to a core, loads the cost
model, answers one task unmeasured and then all of them, several times over and for some seconds
unless that takes long, and prints one JSON object. Processor time counts: all runs on one
thread, and on a shared machine the wall clock shows the neighbours too. Neighbours lengthen
processor time as well, by up to half as they come and go, and nothing shortens it: so of the passes
the least counts.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from tests.benchmarks.sides import cost_model
from tests.benchmarks.tasks import ROWS, draw_task, sized_task, workload
from tests.server.search.reference import Reference

from shardwright.domain import (
    Algorithm,
    DomainError,
    PlanRequest,
    SearchOptions,
    ShardingProblem,
)
from shardwright_server import planning

_PASSES, _LEAST_S = 6, 15.0
"""Over all tasks: at least so many and for so long."""
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

LOCAL_SEARCH, NEUROSHARD, REFERENCE = "LOCAL_SEARCH", "NEUROSHARD", "sequential reference"
SIDES = (LOCAL_SEARCH, NEUROSHARD, REFERENCE)

_MOST_S = {LOCAL_SEARCH: 120.0, NEUROSHARD: 40.0, REFERENCE: 40.0}
"""No pass after the first that would go on for longer."""


@dataclass(frozen=True)
class Timing:
    """Of one side on some tasks.

    Attributes:
        cpu_s: Processor time of each task, the least of all passes.
        wall_s: Wall clock of each task, the least of all passes.
        first_cpu_s: Processor time of each task in the first pass.
        passes: Over all tasks.
        plans: How many tasks got a plan.
        peak_bytes: Most resident memory of the process.
        idle_bytes: The same before the first task, interpreter and cost model loaded.
    """

    cpu_s: list[float]
    wall_s: list[float]
    first_cpu_s: list[float]
    passes: int
    plans: int
    peak_bytes: int
    idle_bytes: int


def time_apart(side: str, tasks: Sequence[str], timeout_s: float) -> Timing | None:
    """Times tasks by name in a process of its own; None when it does not end in time."""
    command = [sys.executable, "-m", "tests.benchmarks.speed", side, *tasks]
    try:
        done = subprocess.run(
            command,
            env=os.environ | _ONE_THREAD,
            capture_output=True,
            timeout=timeout_s,
            check=True,
        )
    except subprocess.TimeoutExpired:
        return None
    return Timing(**json.loads(done.stdout))


def named_task(name: str) -> ShardingProblem:
    """`row/index`, `workloads/name` or `sized/tables/devices`."""
    kind, _, rest = name.partition("/")
    if kind == "workloads":
        return workload(rest)
    if kind == "sized":
        tables, _, devices = rest.partition("/")
        return sized_task(int(tables), int(devices), seed=20261102)
    return draw_task(ROWS[kind], int(rest))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _search(side: str) -> Callable[[ShardingProblem], bool]:
    """Answers whether a plan was found."""
    if side == REFERENCE:
        model = cost_model()
        return lambda problem: Reference(problem, model, SearchOptions()).search() is not None
    options = SearchOptions(algorithm=Algorithm[side])

    def search(problem: ShardingProblem) -> bool:
        try:
            planning.plan(PlanRequest(problem, options), cost_model(), deadline_s=None)
        except DomainError:
            return False
        return True

    return search


def measure(side: str, tasks: Sequence[str]) -> Timing:
    """Times tasks here."""
    problems = [named_task(name) for name in tasks]
    _search(LOCAL_SEARCH)(sized_task(10, 2, seed=0))  # first calls of libraries
    search = _search(side)
    idle_bytes = _peak_bytes()
    cpu_s: list[list[float]] = []
    wall_s: list[list[float]] = []
    begin_s = time.perf_counter()
    elapsed_s = 0.0
    while len(cpu_s) < _PASSES or elapsed_s < _LEAST_S:
        plans, before_s = 0, elapsed_s
        cpu_s.append([])
        wall_s.append([])
        for problem in problems:
            cpu_begin_s, wall_begin_s = time.process_time(), time.perf_counter()
            plans += search(problem)
            cpu_s[-1].append(time.process_time() - cpu_begin_s)
            wall_s[-1].append(time.perf_counter() - wall_begin_s)
        elapsed_s = time.perf_counter() - begin_s
        if 2.0 * elapsed_s - before_s > _MOST_S[side]:  # with another such pass
            break
    least_cpu_s, least_wall_s = (list(map(min, zip(*p, strict=True))) for p in (cpu_s, wall_s))
    peak_bytes = _peak_bytes()
    return Timing(least_cpu_s, least_wall_s, cpu_s[0], len(cpu_s), plans, peak_bytes, idle_bytes)


def main() -> None:
    """The child."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    side, *tasks = sys.argv[1:]
    print(json.dumps(asdict(measure(side, tasks))))


if __name__ == "__main__":
    main()
