"""The results file of plan quality, from judged answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.benchmarks.machine import header, table
from tests.benchmarks.quality import (
    ALL_SIDES,
    COLUMN_SIDES,
    Judgement,
    Summary,
    against,
    bias,
    cost,
    feasible,
    group_names,
    over_best,
    rivals,
    with_side,
    worse_by,
)
from tests.benchmarks.sides import ANNEALING_S, LONG_ANNEALING_S
from tests.benchmarks.tasks import ROWS
from tests.benchmarks.tight import NUM_TASKS

OURS, ORIGINAL = "local_search", "neuroshard"
NONE = "-"

ROW_TASKS, ANNEALED_TASKS = 100, 20
"""Tasks of a row, and those of it that are annealed, in the musts."""


def report_lines(judged: Mapping[str, Judgement]) -> list[str]:
    """The whole file; `judged` by group of tasks, of all groups or of some."""
    command = "python -m tests.benchmarks.bench_quality"
    chosen = "" if set(judged) == set(group_names()) else "".join(f" --group {g}" for g in judged)
    lines = header(
        "Quality of plans, judged by the noise-free roofline of an H100",
        f"{command} solve{chosen} && {command} report{chosen}",
    )
    lines += _how()
    lines += ["## What issue 4 asks, and issue 3 of chosen plans", "", *_musts(judged)]
    for name in ROWS:
        if name in judged:
            lines += [f"## {name}", "", *_row(judged[name])]
    if "workloads" in judged:
        title = "## Published workloads, 8 devices of 80 GB"
        lines += [title, "", *_workloads(judged["workloads"])]
    if "tight" in judged:
        lines += ["## Tight tasks", "", *_tight(judged["tight"])]
    lines += ["## Predicted against true cost of the chosen plans", "", *_bias(judged)]
    return lines


def _how() -> list[str]:
    return [
        "Costs are ms per iteration by the roofline that made the cost model's training data, not",
        "by the model. `annealing` searches on that truth itself, from the best plan of NEUROSHARD",
        f"and the four rules of thumb, for {ANNEALING_S:g} s of processor time a task",
        f"(`annealing_long`: {LONG_ANNEALING_S:g} s, with another seed); from 32 devices on it",
        "begins colder, and with softer maxima (`annealing.py`). `*_rows` may also cut",
        "tables in rows, `*_all` also copy them for data-parallel training; `torchrec` is",
        "EmbeddingShardingPlanner, killed after 5 minutes of processor time. *Over best* compares",
        "with the cheapest plan that any side of no more sharding types found for the task; each",
        "comparison takes the tasks for which both sides have a plan, and *plans* says how many of",
        "the tasks asked those are. A side is asked",
        "fewer tasks where an answer takes long. "
        "Where `annealing` falls behind LOCAL_SEARCH, being",
        "near the best found says little. CPU times are of the code that gave each kept answer,",
        "some of it older than this commit, and beside other work on the machine.",
        "",
    ]


def _percent(value: float) -> str:
    return f"{100.0 * value:+.2f} %"


def _row(judgement: Judgement) -> list[str]:
    rows = []
    for side in ALL_SIDES:
        found, asked = feasible(judgement, side)
        if not asked:
            continue
        over = Summary.of(over_best(judgement, side, rivals(side)))
        original = Summary.of(against(judgement, side, ORIGINAL))
        rows.append(
            [
                side,
                f"{found}/{asked}",
                *(
                    map(_percent, (over.mean, over.median, over.most))
                    if over
                    else (NONE, NONE, NONE)
                ),
                f"{_percent(original.mean)} ({original.count})" if original else NONE,
                f"{_median_cpu_s(judgement, side):.2f}",
            ]
        )
    head = (
        "side",
        "plans",
        "over best: mean",
        "median",
        "worst",
        "mean against NEUROSHARD (tasks)",
    )
    return table((*head, "median CPU s"), rows)


def _median_cpu_s(judgement: Judgement, side: str) -> float:
    times = [of_task[side].cpu_s for of_task in judgement.values() if side in of_task]
    summary = Summary.of(times)
    return summary.median if summary else 0.0


def _workloads(judgement: Judgement) -> list[str]:
    rows = []
    for name, of_task in judgement.items():
        costs = [cost(of_task, side) for side in ALL_SIDES]
        rows.append([name.partition("/")[2], *(NONE if c is None else f"{c:.3f}" for c in costs)])
    return ["True cost, ms per iteration.", "", *table(("workload", *ALL_SIDES), rows)]


def _tight(judgement: Judgement) -> list[str]:
    rows = []
    for side in ALL_SIDES:
        found, asked = feasible(judgement, side)
        if asked:
            rows.append([side, f"{found}/{asked}", f"{_median_cpu_s(judgement, side):.2f}"])
    return [
        "Each was cut from a packing that fits: a column-wise plan exists for every one.",
        "",
        *table(("side", "plans found", "median CPU s"), rows),
    ]


def _bias(judged: Mapping[str, Judgement]) -> list[str]:
    rows = []
    for group, judgement in judged.items():
        for side in (OURS, "local_search_rows", "local_search_all", ORIGINAL):
            s = Summary.of(bias(judgement, side))
            if s:
                shown = map(_percent, (s.mean, s.spread, s.least, s.most))
                rows.append([f"{group}, {side}", str(s.count), *shown])
    return table(("plans chosen", "tasks", "mean bias", "spread (sd)", "least", "most"), rows)


def _musts(judged: Mapping[str, Judgement]) -> list[str]:
    rows: list[Sequence[str]] = []
    present = [name for name in ROWS if name in judged]
    for name in present:
        rows += _must_near_best(name, judged[name])
    for name in ("400x32", "1000x128"):
        if name in judged:
            for side in (OURS, "local_search_rows", "local_search_all"):
                rows.append(_must_gain(name, judged[name], side, -0.05, ROW_TASKS))
    if "workloads" in judged:
        rows.append(_must_dlrm(judged["workloads"]))
    if "tight" in judged:
        rows.append(_must_all_plans(judged["tight"]))
    rows += [_must_unbiased(name, judged[name]) for name in present]
    return table(("must", "measured", "tasks", "holds"), rows)


def _verdict(holds: bool, count: int, wanted: int) -> str:
    """A must that holds on fewer tasks than it names holds so far."""
    if not (holds and count):
        return "NO"
    return "yes" if count >= wanted else f"yes, on {count} of {wanted} tasks"


def _must_near_best(name: str, judgement: Judgement) -> list[Sequence[str]]:
    annealed = with_side(judgement, "annealing")
    ours = Summary.of(over_best(annealed, OURS, COLUMN_SIDES))
    original = Summary.of(over_best(annealed, ORIGINAL, COLUMN_SIDES))
    if ours is None or original is None:
        return [[f"{name}: within 1 % of the best found", "not measured", "0", "NO"]]
    way = 1.0 - ours.mean / original.mean if original.mean else 0.0
    compared, worse, foreseen = worse_by(judgement, OURS, ORIGINAL, 0.005)
    share = worse / compared if compared else 0.0
    count, wanted = ours.count, ANNEALED_TASKS
    return [
        [
            f"{name}: LOCAL_SEARCH on average within 1 % of the best found",
            f"{_percent(ours.mean)} (NEUROSHARD {_percent(original.mean)})",
            str(count),
            _verdict(ours.mean <= 0.01, count, wanted),
        ],
        [
            f"{name}: 90 % of the way from NEUROSHARD to the best",
            f"{100 * way:.0f} %",
            str(count),
            _verdict(way >= 0.9, count, wanted),
        ],
        [
            f"{name}: worse than NEUROSHARD by over 0.5 % on at most 2 % of tasks",
            f"{100 * share:.1f} % ({worse}, of which {foreseen} the model foresaw)",
            str(compared),
            _verdict(share <= 0.02, compared, ROW_TASKS),
        ],
    ]


def _must_gain(
    name: str, judgement: Judgement, side: str, most: float, wanted: int
) -> Sequence[str]:
    gain = Summary.of(against(judgement, side, ORIGINAL))
    found, asked = feasible(judgement, side)
    theirs, theirs_asked = feasible(judgement, ORIGINAL)
    must = f"{name}: {side} at least {-100 * most:.0f} % below NEUROSHARD where it has a plan"
    if gain is None:
        return [
            must,
            f"no task with both (plans {found}/{asked}, NEUROSHARD {theirs}/{theirs_asked})",
            "0",
            "NO",
        ]
    plans = f"plans {found}/{asked}, NEUROSHARD {theirs}/{theirs_asked}"
    measured = f"{_percent(gain.mean)} on average, median {_percent(gain.median)} ({plans})"
    return [must, measured, str(gain.count), _verdict(gain.mean <= most, gain.count, wanted)]


def _must_dlrm(judgement: Judgement) -> Sequence[str]:
    only = {k: v for k, v in judgement.items() if k.endswith("mlperf_train_dlrm_dcnv2")}
    return _must_gain("DLRM-DCNv2, rows allowed", only, "local_search_rows", -0.20, wanted=1)


def _must_all_plans(judgement: Judgement) -> Sequence[str]:
    (found, asked), (theirs, _) = feasible(judgement, OURS), feasible(judgement, ORIGINAL)
    with_rows, _ = feasible(judgement, "local_search_rows")
    return [
        "a plan for every tight task",
        f"{found} in columns, {with_rows} with rows (NEUROSHARD {theirs})",
        str(asked),
        _verdict(asked == found, asked, NUM_TASKS),
    ]


def _must_unbiased(name: str, judgement: Judgement) -> Sequence[str]:
    found = Summary.of(bias(judgement, OURS))
    if found is None:
        return [f"{name}: mean bias of chosen plans within 1 %", "not measured", "0", "NO"]
    measured = f"{_percent(found.mean)}, spread {100 * found.spread:.2f} %"
    verdict = _verdict(abs(found.mean) <= 0.01, found.count, ROW_TASKS)
    return [f"{name}: mean bias of chosen plans within 1 %", measured, str(found.count), verdict]
