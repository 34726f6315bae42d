"""The plan against simple strategies."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shardwright.domain import Baseline, PlanResult
from shardwright_client.render import bars
from shardwright_client.render.layout import clean, milliseconds, print_heading, print_indented


def print_baselines(console: Console, result: PlanResult) -> None:
    """Prints the cost of the plan and of each baseline as bars; nothing without baselines."""
    if not result.baselines:
        return
    print_heading(console, "Against simple strategies, ms per iteration")
    costs = [result.cost_ms, *(b.cost_ms for b in result.baselines if b.cost_ms is not None)]
    scale_ms = max(costs)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, expand=True, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_row(
        "this plan",
        bars.StackedBar([(result.cost_ms, bars.CHOSEN)], scale_ms),
        milliseconds(result.cost_ms, scale_ms),
        "",
        style="bold",
    )
    for baseline in sorted(result.baselines, key=_by_cost):
        table.add_row(*_baseline_cells(baseline, result.cost_ms, scale_ms))
    print_indented(console, table)


def _by_cost(baseline: Baseline) -> tuple[bool, float]:
    return (baseline.cost_ms is None, baseline.cost_ms or 0.0)


def _baseline_cells(
    baseline: Baseline, cost_ms: float, scale_ms: float
) -> tuple[Text | bars.StackedBar | str, ...]:
    name = Text(clean(baseline.name))
    if baseline.cost_ms is None:
        return name, Text("does not fit into memory", style="bright_black"), "-", ""
    percent = (baseline.cost_ms / cost_ms - 1) * 100 if cost_ms > 0 else 0.0
    return (
        name,
        bars.StackedBar([(baseline.cost_ms, bars.OTHER)], scale_ms),
        milliseconds(baseline.cost_ms, scale_ms),
        f"{percent:+.1f} %",
    )
