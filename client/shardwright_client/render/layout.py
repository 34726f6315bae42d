"""Pieces that every view is made of: numbers as text, safe text, columns, headings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

GIB = 2**30

T = TypeVar("T")


def milliseconds(value_ms: float, scale_ms: float | None = None) -> str:
    """A time with as many decimals as its scale deserves."""
    scale = abs(value_ms if scale_ms is None else scale_ms)
    decimals = 1 if scale >= 100 else 2 if scale >= 1 else 3
    # adding 0.0 makes a rounded -0.0 positive
    return f"{round(value_ms, decimals) + 0.0:,.{decimals}f}"


def gibibytes(num_bytes: int) -> str:
    """A size in GiB; what rounds to nothing is still seen to be something."""
    return "<0.01" if 0 < num_bytes < 0.005 * GIB else f"{num_bytes / GIB:,.2f}"


def clean(text: str) -> str:
    """Text without characters that would move the cursor or change colours."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def clipped(text: str, width: int) -> str:
    """Text of at most `width` characters."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def count(number: int, noun: str) -> str:
    """`1 table`, `26 tables`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def facts_grid() -> Table:
    """Two columns: what, and its value."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    # a long name goes on in the next line: cut off it would be of no use
    grid.add_column(overflow="fold")
    return grid


def bar_table(first: str, *numbers: str) -> Table:
    """A label, a bar as wide as the terminal allows, and columns of numbers."""
    table = Table(
        box=None, padding=(0, 2, 0, 0), pad_edge=False, expand=True, header_style="bright_black"
    )
    table.add_column(first, justify="right", no_wrap=True)
    table.add_column("", ratio=1)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def picked(
    items: Sequence[T], limit: int, full: bool, key: Callable[[T], Any]
) -> tuple[list[T], int]:
    """The `limit` items lowest by `key`, in their own order, and how many are left out."""
    if full or len(items) <= limit:
        return list(items), 0
    lowest = sorted(range(len(items)), key=lambda i: key(items[i]))[:limit]
    return [items[i] for i in sorted(lowest)], len(items) - limit


def print_heading(console: Console, text: str) -> None:
    """Prints the heading of a section."""
    console.print()
    console.print(Text(text, style="bold"))


def print_indented(console: Console, renderable: RenderableType) -> None:
    """Prints the body of a section."""
    console.print(Padding(renderable, (0, 0, 0, 2)))


def print_hidden(console: Console, number: int, what: str) -> None:
    """Says how many lines were left out, if any."""
    if number:
        print_indented(
            console, Text(f"... and {number:,} {what} (--full lists all)", "bright_black")
        )
