"""How far plans lie above the lower bound that comes with them: writes the results file.

python -m tests.benchmarks.bench_gap
"""

from __future__ import annotations

from datetime import date
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track
from tests.benchmarks.machine import header, table
from tests.benchmarks.quality import Summary, tasks_of
from tests.benchmarks.sides import COLUMNS_ONLY, WITH_COPIES, WITH_ROWS, cost_model, search_options

import shardwright_server.planning as planning
from shardwright.domain import Algorithm, PlanRequest, ShardingProblem, ShardingType

RESULTS = Path(__file__).parent / "results"
COUNTS = {"10-60x4": 100, "20-120x8": 100, "400x32": 20, "1000x128": 10, "workloads": 99}
TYPES = {"columns": COLUMNS_ONLY, "rows (default)": WITH_ROWS, "copies": WITH_COPIES}


def gap_of(problem: ShardingProblem, types: tuple[ShardingType, ...]) -> float:
    """Cost of the plan over the bound, less 1."""
    options = search_options(Algorithm.LOCAL_SEARCH, types)
    result = planning.plan(PlanRequest(problem, options), cost_model(), deadline_s=None)
    if result.gap is None:
        raise ValueError("a plan without time limit comes with a bound")
    return result.gap


def main(
    tasks: Annotated[int, typer.Option(help="At most so many tasks of a group.")] = 1000,
    day: Annotated[str, typer.Option(help="Date in the file's name.")] = date.today().isoformat(),
    out: Annotated[Path, typer.Option(help="Folder of the results file.")] = RESULTS,
) -> None:
    """Plans every task and writes how the gaps spread."""
    rows, of_workloads = [], []
    for group, count in COUNTS.items():
        asked = list(islice(tasks_of(group), min(tasks, count)))
        gaps = {
            name: [gap_of(task.problem, types) for task in track(asked, description=group)]
            for name, types in TYPES.items()
        }
        for name, found in gaps.items():
            s = Summary.of(found)
            if s is not None:
                cells = (s.mean, s.median, s.least, s.most)
                rows.append([f"{group}, {name}", str(s.count), *map(_percent, cells)])
        if group == "workloads":
            for task, *of_task in zip(asked, *gaps.values(), strict=True):
                of_workloads.append([task.name.partition("/")[2], *map(_percent, of_task)])
    path = out / f"plan_gap_roofline-h100_{day}.md"
    lines = [
        *header("Gap between plans and their lower bounds", "python -m tests.benchmarks.bench_gap"),
        "Predicted cost of LOCAL_SEARCH's plan over `lower_bound_ms`, less 1: what the best plan",
        "there is could be cheaper at most. *Rows* are the default sharding types; *copies* are",
        "data-parallel tables, too.",
        "",
        *table(("tasks, sharding types", "tasks", "mean", "median", "least", "most"), rows),
        "## Published workloads, 8 devices of 80 GB",
        "",
        *table(("workload", *TYPES), of_workloads),
    ]
    path.write_text("\n".join(lines))
    typer.echo(path)


def _percent(value: float) -> str:
    return f"{100.0 * value:.1f} %"


if __name__ == "__main__":
    typer.run(main)
