"""How fast plans are found, on one core, both algorithms and the tests' reference in one run.

python -m tests.benchmarks.bench_search             the table, the growth plot, the results file
python -m tests.benchmarks.bench_search --quick     few tasks and small sizes, to try it out
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import product
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.progress import Progress
from tests.benchmarks.growth_plot import plot_growth
from tests.benchmarks.machine import header, table
from tests.benchmarks.speed import LOCAL_SEARCH, NEUROSHARD, REFERENCE, SIDES, Timing, time_apart

RESULTS = Path(__file__).parent / "results"
TODAY = date.today().isoformat()
MIB = 2**20


@dataclass(frozen=True)
class Work:
    """A row of issue 4's table.

    Attributes:
        title: For people.
        tasks: Names, see `speed.named_task`.
        must_ms: Median that LOCAL_SEARCH must keep.
        must_mib: Peak memory that it must keep; None where none is asked.
        counts: How many of the tasks each other side is asked: the slow ones few, or none.
    """

    title: str
    tasks: tuple[str, ...]
    must_ms: float
    must_mib: int | None
    counts: Mapping[str, int]


def _tasks(row: str, count: int) -> tuple[str, ...]:
    return tuple(f"{row}/{index}" for index in range(count))


def _sized(tables: range, devices: int, stride: int) -> tuple[str, ...]:
    """Every number of tables, in an order whose first ones span the range."""
    order = [count for first in range(stride) for count in tables[first::stride]]
    return tuple(f"sized/{count}/{devices}" for count in order)


WORKS = (
    Work(
        "DLRM-DCNv2, 26 tables / 8 devices",
        ("workloads/mlperf_train_dlrm_dcnv2",) * 5,
        30.0,
        None,
        {NEUROSHARD: 5, REFERENCE: 1},
    ),
    Work(
        "10..60 tables / 4 devices", _tasks("10-60x4", 100), 50.0, None,
        {NEUROSHARD: 30, REFERENCE: 3},
    ),
    Work(
        "20..120 tables / 8 devices", _tasks("20-120x8", 100), 100.0, None,
        {NEUROSHARD: 30, REFERENCE: 1},
    ),
    Work("400 tables / 32 devices", _tasks("400x32", 10), 400.0, None, {NEUROSHARD: 2}),
    Work("1000 tables / 128 devices", _tasks("1000x128", 3), 1500.0, 500, {NEUROSHARD: 1}),
)  # fmt: skip

UNIFORM_WORKS = (
    Work(
        "each of 10..59 tables / 4 devices, filled to 70 %",
        _sized(range(10, 60), 4, stride=5),
        50.0,
        None,
        {NEUROSHARD: 10},
    ),
    Work(
        "each of 20..119 tables / 8 devices, filled to 70 %",
        _sized(range(20, 120), 8, stride=10),
        100.0,
        None,
        {NEUROSHARD: 10},
    ),
)
"""Draws of many tables seldom fit, so the rule's tasks have few: these have all numbers alike."""

TABLES_GROWN = (10, 30, 100, 300, 1000)
DEVICES_GROWN = (2, 4, 8, 16, 32, 64, 128)
GROWN_ON_DEVICES, GROWN_ON_TABLES = 8, 256
"""Devices of the tasks that grow in tables, and tables of those that grow in devices."""


def main(
    quick: Annotated[bool, typer.Option(help="Few tasks, small sizes.")] = False,
    timeout_s: Annotated[float, typer.Option(help="Patience with one side on one row.")] = 900.0,
    day: Annotated[str, typer.Option(help="Date in the files' names.")] = TODAY,
    out: Annotated[Path, typer.Option(help="Where results are kept.")] = RESULTS,
) -> None:
    """Times searches on one core."""
    works = WORKS[:2] if quick else (*WORKS, *UNIFORM_WORKS)
    sizes = list(_growth(quick))
    name = f"search_speed_cpu_{day}"
    timings: dict[tuple[str, str], Timing | None] = {}
    grown: dict[tuple[str, str], Timing | None] = {}
    with Progress() as progress:
        bar = progress.add_task("timing", total=3 * len(works) + 2 * len(sizes))
        for work, side in product(works, SIDES):
            timings[work.title, side] = _time(work, side, timeout_s, quick)
            progress.advance(bar)
        for size, side in product(sizes, (LOCAL_SEARCH, NEUROSHARD)):
            grown[side, size] = time_apart(side, [size], timeout_s)
            progress.advance(bar)
    out.mkdir(parents=True, exist_ok=True)
    plot_growth(_curves(grown), out / f"{name}.png")
    report = _report(works, timings, f"{name}.png", timeout_s)
    (out / f"{name}.md").write_text("\n".join(report))
    typer.echo(str(out / f"{name}.md"))


def _growth(quick: bool) -> Iterator[str]:
    last = 2 if quick else None
    yield from (f"sized/{tables}/{GROWN_ON_DEVICES}" for tables in TABLES_GROWN[:last])
    yield from (f"sized/{GROWN_ON_TABLES}/{devices}" for devices in DEVICES_GROWN[:last])


def _time(work: Work, side: str, timeout_s: float, quick: bool) -> Timing | None:
    count = len(work.tasks) if side == LOCAL_SEARCH else work.counts.get(side, 0)
    tasks = work.tasks[: min(count, 3) if quick else count]
    return time_apart(side, tasks, timeout_s) if tasks else None


def _curves(
    grown: Mapping[tuple[str, str], Timing | None],
) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """By axis and side: sizes and seconds; only where a plan came in time."""
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for (side, size), timing in grown.items():
        tables, devices = map(int, size.split("/")[1:])
        if timing is None or not timing.plans:
            continue
        if devices == GROWN_ON_DEVICES and tables in TABLES_GROWN:
            axis, value = f"tables, on {GROWN_ON_DEVICES} devices", tables
        else:
            axis, value = f"devices, {GROWN_ON_TABLES} tables", devices
        curves.setdefault(axis, {}).setdefault(side, []).append((value, timing.cpu_s[0]))
    return curves


def _report(
    works: Sequence[Work],
    timings: Mapping[tuple[str, str], Timing | None],
    plot: str,
    timeout_s: float,
) -> list[str]:
    command = f"python -m tests.benchmarks.bench_search --timeout-s {timeout_s:g}"
    lines = header("Speed of the search, one core", command)
    lines += [
        "Processor time of `planning.plan` with default options on one pinned core, baselines and",
        "lower bound included, on a machine shared with others: the least of so many passes over",
        "all tasks, and beside it the first pass and the wall clock. Every row and side runs in a",
        "process of its own, after one small unmeasured plan. The sequential reference is",
        "`tests/server/search/reference.py`, NEUROSHARD's algorithm one candidate, cap, table and",
        "device at a time; ratios compare the same tasks.",
        "",
    ]
    head = (
        "LOCAL_SEARCH",
        "must",
        "median ms",
        "max ms",
        "passes",
        "first pass: median ms",
        "median wall ms",
        "plans",
        "peak MiB",
        "holds",
    )
    lines += table(head, [_own_row(work, timings) for work in works])
    head = (
        "same tasks, same run",
        "side",
        "tasks",
        "passes",
        "median ms",
        "max ms",
        "peak MiB",
        "LOCAL_SEARCH is faster by",
    )
    lines += table(head, [_other_row(work, side, timings) for work in works for side in SIDES[1:]])
    return [*lines, f"![growth of time with tables and devices]({plot})", ""]


def _own_row(work: Work, timings: Mapping[tuple[str, str], Timing | None]) -> list[str]:
    must = f"<= {work.must_ms:g} ms" + (f", {work.must_mib} MiB" if work.must_mib else "")
    timing = timings[work.title, LOCAL_SEARCH]
    if timing is None:
        return [work.title, must, "not in time", "", "", "", "", "", "", "NO"]
    middle_ms, peak_mib = 1e3 * median(timing.cpu_s), timing.peak_bytes / MIB
    holds = middle_ms <= work.must_ms and (work.must_mib is None or peak_mib <= work.must_mib)
    return [
        work.title,
        must,
        f"{middle_ms:.0f}",
        f"{1e3 * max(timing.cpu_s):.0f}",
        str(timing.passes),
        f"{1e3 * median(timing.first_cpu_s):.0f}",
        f"{1e3 * median(timing.wall_s):.0f}",
        f"{timing.plans}/{len(timing.cpu_s)}",
        f"{peak_mib:.0f}",
        "yes" if holds else "NO",
    ]


def _other_row(
    work: Work, side: str, timings: Mapping[tuple[str, str], Timing | None]
) -> list[str]:
    timing, own = timings[work.title, side], timings[work.title, LOCAL_SEARCH]
    if timing is None or own is None:
        asked = work.counts.get(side, 0)
        return [work.title, side, "not in time" if asked else "not run", "", "", "", "", ""]
    ratios = [theirs / ours for theirs, ours in zip(timing.cpu_s, own.cpu_s, strict=False)]
    return [
        work.title,
        side,
        str(len(timing.cpu_s)),
        str(timing.passes),
        f"{1e3 * median(timing.cpu_s):.0f}",
        f"{1e3 * max(timing.cpu_s):.0f}",
        f"{timing.peak_bytes / MIB:.0f}",
        f"{median(ratios):.1f}x",
    ]


if __name__ == "__main__":
    typer.run(main)
