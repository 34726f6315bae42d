"""Plans as they get better: a table that grows on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from shardwright.domain import PlanResult
from shardwright_client.render.layout import milliseconds

MAX_LINES_SHOWN = 12
"""Of the latest plans on a terminal."""


@contextlib.contextmanager
def improvements(console: Console, title: str) -> Iterator[Callable[[PlanResult], None]]:
    """Gives a function that shows one more plan; the display ends with the context.

    Args:
        console: Where to; one line for each plan where it is no terminal.
        title: What is going on.
    """
    if not console.is_terminal:
        yield lambda result: console.print(Text("  ".join(_cells(result))), soft_wrap=True)
        return
    shown: list[PlanResult] = []
    with Live(Spinner("dots", title), console=console, transient=True) as live:

        def show(result: PlanResult) -> None:
            shown.append(result)
            live.update(Group(_table(shown[-MAX_LINES_SHOWN:]), Spinner("dots", title)))

        yield show


def _table(results: list[PlanResult]) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(justify="right", no_wrap=True)
    for result in results:
        table.add_row(*map(Text, _cells(result)))
    return table


def _cells(result: PlanResult) -> tuple[str, str, str]:
    gap = "" if result.gap is None else f"at most {max(0.0, result.gap) * 100:.1f} % above the best"
    return f"{result.search.duration_s:.2f} s", f"{milliseconds(result.cost_ms)} ms", gap
