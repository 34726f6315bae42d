"""How good plans are, by the ground truth: asks every side, judges, writes the results file.

python -m tests.benchmarks.bench_quality solve    fills the cache of answers, best left alone
python -m tests.benchmarks.bench_quality report   judges what the cache holds and writes
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track
from tests.benchmarks.costs import Costs
from tests.benchmarks.quality import ALL_SIDES, group_names, is_known, judge, tasks_of
from tests.benchmarks.quality_report import report_lines
from tests.benchmarks.sides import SIDES, Task
from tests.benchmarks.tight import NUM_TASKS

RESULTS = Path(__file__).parent / "results"
TODAY = date.today().isoformat()
GROUPS = list(group_names())

_SIDES = list(ALL_SIDES)
_GREEDY = ("dim", "size", "lookup", "size_lookup", "random")
_OURS = ("local_search", "local_search_rows", "local_search_all", "neuroshard")

COUNTS: dict[str, dict[str, int]] = {
    "10-60x4": {
        **dict.fromkeys((*_GREEDY, *_OURS, "torchrec", "torchrec_rows"), 100),
        "annealing": 20,
        "annealing_long": 1,
        "annealing_rows": 4,
    },
    "20-120x8": {
        **dict.fromkeys((*_GREEDY, *_OURS, "torchrec", "torchrec_rows"), 100),
        "annealing": 20,
        "annealing_long": 1,
        "annealing_rows": 4,
    },
    "400x32": {
        **dict.fromkeys((*_GREEDY, *_OURS), 100),
        "annealing": 20,
        "annealing_rows": 5,
        "torchrec": 100,
    },
    "1000x128": {
        **dict.fromkeys((*_GREEDY, *_OURS), 100),
        "annealing": 20,
        "torchrec": 100,
    },
    "workloads": dict.fromkeys((*_GREEDY, *_OURS, "annealing_rows", "annealing_long"), 99)
    | {"torchrec": 99, "torchrec_rows": 99},
    "tight": dict.fromkeys((*_OURS, *_GREEDY), NUM_TASKS),
}
"""Tasks that each side is asked in each group: fewer where an answer takes minutes."""

app = typer.Typer(add_completion=False, help=__doc__)


_Out = Annotated[Path, typer.Option(help="Where results are kept.")]


@app.command()
def solve(
    group: Annotated[list[str], typer.Option(help="Groups of tasks.")] = GROUPS,
    side: Annotated[list[str], typer.Option(help="Sides.")] = _SIDES,
    tasks: Annotated[int, typer.Option(help="At most so many tasks of a group.")] = 1000,
    out: _Out = RESULTS,
) -> None:
    """Asks the sides what neither their kept answers nor the kept costs tell yet."""
    costs = Costs.read(out)
    for task, name in track(list(_questions(group, side, tasks)), description="answers"):
        if not is_known(task, name, costs):
            SIDES[name].answer(task)


@app.command()
def report(
    group: Annotated[list[str], typer.Option(help="Groups of tasks.")] = GROUPS,
    day: Annotated[str, typer.Option(help="Date in the file's name.")] = TODAY,
    out: _Out = RESULTS,
) -> None:
    """Judges the answers and writes the results file, and what each answer was worth.

    The file of fewer than all groups has their names in its own.
    """
    out.mkdir(parents=True, exist_ok=True)
    costs = Costs.read(out)
    judged = {
        name: judge(islice(tasks_of(name), max(COUNTS[name].values())), costs)
        for name in track(group, description="judging")
    }
    of_groups = "" if group == GROUPS else f"{'_'.join(group)}_"
    path = out / f"search_quality_{of_groups}roofline-h100_{day}.md"
    path.write_text("\n".join(report_lines(judged)))
    typer.echo(f"{path}\n{costs.write(out)}")


def _questions(groups: list[str], sides: list[str], most: int) -> Iterator[tuple[Task, str]]:
    for group in groups:
        counts = COUNTS[group]
        for index, task in enumerate(islice(tasks_of(group), min(most, max(counts.values())))):
            for side in sides:
                if index < counts.get(side, 0):
                    yield task, side


if __name__ == "__main__":
    app()
