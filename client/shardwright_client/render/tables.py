"""The tables of a plan: how each is cut and where it lies."""

from __future__ import annotations

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from shardwright.domain import ShardingPlan, ShardingProblem
from shardwright_client.render.layout import (
    clean,
    clipped,
    gibibytes,
    picked,
    print_heading,
    print_hidden,
    print_indented,
)
from shardwright_client.render.table_rows import TableRow, table_rows

MAX_TABLES_SHOWN = 40

_MIN_NAME_WIDTH = 12
_MAX_CUT_WIDTH = 24
_PADDING = 2


def print_tables(
    console: Console, problem: ShardingProblem, plan: ShardingPlan, full: bool
) -> None:
    """Prints one line per table; of very many, those cut most and largest."""
    print_heading(console, "Tables")
    rows = table_rows(problem, plan)
    shown, hidden = picked(rows, MAX_TABLES_SHOWN, full, key=lambda r: (-r.num_shards, -r.bytes))
    cells = [_cells(row) for row in shown]
    # names give way to the numbers
    taken = sum(max(map(len, column)) + _PADDING for column in list(zip(*cells, strict=True))[1:])
    name_width = max(_MIN_NAME_WIDTH, console.width - _PADDING - _PADDING - taken)
    table = Table(
        box=None, padding=(0, _PADDING, 0, 0), pad_edge=False, header_style="bright_black"
    )
    for heading in ("name", "rows x dim", "GiB", "cut", "devices"):
        justify: JustifyMethod = "right" if heading in ("rows x dim", "GiB") else "left"
        table.add_column(heading, justify=justify, no_wrap=True, overflow="ellipsis")
    for row, (name, *rest) in zip(shown, cells, strict=True):
        texts = [Text(text) for text in (clipped(name, name_width), *rest)]
        table.add_row(*texts, style="bold" if row.num_shards > 1 else None)
    print_indented(console, table)
    print_hidden(console, hidden, "tables, smaller and cut less")


def _cells(row: TableRow) -> tuple[str, ...]:
    return (
        clean(row.name),
        f"{row.num_embeddings:,} x {row.embedding_dim}",
        gibibytes(row.bytes),
        clipped(row.cut, _MAX_CUT_WIDTH),
        row.devices,
    )
