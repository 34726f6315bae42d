"""Horizontal bars of characters, readable in colour, in monochrome and in plain ASCII."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style
from rich.text import Text


@dataclass(frozen=True)
class Ink:
    """How one kind of quantity is drawn.

    Attributes:
        coloured: Character where there are colours; a hair lower than a line, so that bars below
            one another stay apart.
        plain: Character where there are none; each kind has its own.
        ascii: Character where there is no Unicode either.
        style: Rich style.
    """

    coloured: str
    plain: str
    ascii: str
    style: str

    def character(self, console: Console) -> str:
        """The character to draw with on a console."""
        if console.options.ascii_only:
            return self.ascii
        return self.plain if console.color_system is None or console.no_color else self.coloured


COMPUTE = Ink("▇", "█", "#", "blue")
FORWARD_COMM = Ink("▇", "▓", "=", "cyan")
BACKWARD_COMM = Ink("▇", "▒", "-", "magenta")
WAIT = Ink("·", "·", ".", "bright_black")
MEMORY = Ink("▇", "█", "#", "green")
FREE = Ink("─", "─", ".", "bright_black")
CHOSEN = Ink("▇", "█", "#", "blue")
OTHER = Ink("▇", "▒", "=", "bright_black")


@dataclass(frozen=True)
class StackedBar:
    """Parts drawn one after another; as wide as the column allows.

    Attributes:
        parts: Amount and ink of each part.
        full_scale: The amount that fills the column.
    """

    parts: Sequence[tuple[float, Ink]]
    full_scale: float

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        start = 0
        amount = 0.0
        for part, ink in self.parts:
            amount += part
            # rounding the running sum keeps the whole bar's length right
            end = _cells(amount, self.full_scale, options.max_width)
            if end > start:
                style = console.get_style(ink.style, default=Style())
                yield Segment(ink.character(console) * (end - start), style)
                start = end
        if start < options.max_width:
            yield Segment(" " * (options.max_width - start))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(8, options.max_width)


def _cells(amount: float, full_scale: float, width: int) -> int:
    if full_scale <= 0:
        return 0
    return max(0, min(width, round(amount / full_scale * width)))


def legend(entries: Sequence[tuple[Ink, str]], console: Console) -> Text:
    """The meaning of the inks, on one line."""
    text = Text()
    for ink, meaning in entries:
        text.append(ink.character(console) * 2, style=ink.style)
        text.append(f" {meaning}   ")
    text.rstrip()
    return text
