"""How far predictions are from the truth on the plans that searches choose.

python -m tests.benchmarks.bench_bias

A search exploits the errors of its model, so these errors matter more than those on random data.
Asks LOCAL_SEARCH alone, which keeps its answers as `bench_quality` does.
"""

from __future__ import annotations

from datetime import date
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track
from tests.benchmarks.costs import Costs
from tests.benchmarks.machine import header, table
from tests.benchmarks.quality import Judgement, Summary, bias, judge, tasks_of
from tests.benchmarks.sides import SIDES
from tests.benchmarks.tasks import ROWS
from tests.benchmarks.tight import NUM_TASKS

RESULTS = Path(__file__).parent / "results"
COUNTS = {**dict.fromkeys(ROWS, 100), "tight": NUM_TASKS}
CHOOSERS = ("local_search", "local_search_rows")
MUST_PERCENT = 1.0
"""Issue 3: the mean bias of chosen plans."""


def bias_lines(judged: dict[str, Judgement]) -> list[str]:
    """A row for each group of tasks and side."""
    rows = []
    for group, judgement in judged.items():
        for side in CHOOSERS:
            summary = Summary.of(bias(judgement, side))
            if summary is not None:
                rows.append([f"{group}, {side}", str(summary.count), *_cells(summary)])
    head = ["plans chosen", "tasks", "mean bias", "spread (sd)", "least", "most", "within 1 %"]
    return table(head, rows)


def _cells(summary: Summary) -> list[str]:
    values = (summary.mean, summary.spread, summary.least, summary.most)
    held = "yes" if abs(100.0 * summary.mean) <= MUST_PERCENT else "NO"
    return [*(f"{100.0 * value:+.2f} %" for value in values), held]


def main(
    group: Annotated[list[str], typer.Option(help="Groups of tasks.")] = list(COUNTS),  # noqa: B006
    tasks: Annotated[int, typer.Option(help="At most so many tasks of a group.")] = 1000,
    kept: Annotated[bool, typer.Option(help="Judge what is kept, ask nothing.")] = False,
    day: Annotated[str, typer.Option(help="Date in the file's name.")] = date.today().isoformat(),
    out: Annotated[Path, typer.Option(help="Folder of the results file.")] = RESULTS,
) -> None:
    """Asks what is not kept yet, judges by the roofline, writes the results file."""
    judged = {}
    for name in group:
        asked = list(islice(tasks_of(name), min(tasks, COUNTS[name])))
        for task in () if kept else track(asked, description=name):
            for side in CHOOSERS:
                SIDES[side].answer(task)
        judged[name] = judge(asked, Costs(), CHOOSERS)
    path = out / f"plan_bias_roofline-h100_{day}.md"
    lines = [
        *header(
            "Bias of predictions on chosen plans",
            "python -m tests.benchmarks.bench_bias" + (" --kept" if kept else ""),
        ),
        "Predicted over true cost of the plans that LOCAL_SEARCH chose, less 1; `_rows` may cut",
        "tables in rows. The truth is the noise-free roofline behind the training data.",
        "",
        *bias_lines(judged),
    ]
    path.write_text("\n".join(lines))
    typer.echo(path)


if __name__ == "__main__":
    typer.run(main)
