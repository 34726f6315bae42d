"""A self-contained HTML page: no file, font or script from elsewhere.

It is light or dark as the reader's screen is, and fit to be printed. A page is a list of sections,
a section a list of blocks; all text is escaped here.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from html import escape
from typing import Protocol

from shardwright_costmodel.reporting.style import CSS


@dataclass(frozen=True)
class Mark:
    """A cell of a table that the reader's eye must catch."""

    text: str


Cell = str | int | float | Mark
"""Columns of numbers, with a unit or without, stand to the right."""


class Block(Protocol):
    """Something that stands in a section."""

    def html(self) -> str:
        """The block as HTML."""


class Level(Enum):
    """How a reader should take a finding; never told by colour alone."""

    GOOD = "good"
    NOTICE = "notice"
    WARNING = "warning"


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    text: str

    def html(self) -> str:
        """See `Block`."""
        return f"<p>{escape(self.text)}</p>"


@dataclass(frozen=True)
class Findings:
    """What a reader should know first, one line each."""

    items: tuple[tuple[Level, str], ...]

    def html(self) -> str:
        """See `Block`."""
        words = {Level.GOOD: "✓ good", Level.NOTICE: "• note", Level.WARNING: "▲ look"}
        lines = (
            f'<li class="{level.value}"><b>{words[level]}</b> {escape(text)}</li>'
            for level, text in self.items
        )
        return f'<ul class="findings">{"".join(lines)}</ul>'


@dataclass(frozen=True)
class Table:
    """Rows under headings.

    Attributes:
        caption: What the table shows.
        columns: Headings.
        rows: Cells, as many a row as there are headings.
        folded: Shown on a click: for the numbers behind a picture, and for long lists.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    folded: bool = False

    def html(self) -> str:
        """See `Block`."""
        right = [
            bool(self.rows) and all(_is_number(row[i]) for row in self.rows)
            for i in range(len(self.columns))
        ]
        head = "".join(
            f'<th scope="col"{_RIGHT if number else ""}>{escape(column)}</th>'
            for column, number in zip(self.columns, right, strict=True)
        )
        body = "".join(f"<tr>{''.join(map(_cell, row, right))}</tr>" for row in self.rows)
        caption = escape(self.caption)
        shown = "" if self.folded else f"<caption>{caption}</caption>"
        label = f' aria-label="{caption}"' if self.folded else ""
        table = (
            f'<div class="wide" tabindex="0"><table{label}>{shown}<thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )
        return _folded(caption, table) if self.folded else table


_RIGHT = ' class="number"'
_NUMBER = re.compile(r"([-+]?[0-9][0-9.,]*( ?(%|x|[KMGT]?i?B))?)?")


def _is_number(value: Cell) -> bool:
    return not isinstance(value, Mark) and (
        not isinstance(value, str) or bool(_NUMBER.fullmatch(value))
    )


def _cell(value: Cell, is_number: bool) -> str:
    place = _RIGHT if is_number else ""
    if isinstance(value, Mark):
        return f"<td><mark>{escape(value.text)}</mark></td>"
    return f"<td{place}>{escape(value if isinstance(value, str) else number(value))}</td>"


def number(value: int | float) -> str:
    """A number as people read it: thousands apart, three digits that count or more."""
    if not math.isfinite(value):
        return "none"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if 1e-3 <= abs(value) < 1e6:
        if abs(value) < 1:
            return f"{value:.3g}"
        return f"{value:,.{0 if abs(value) >= 1e3 else 1 if abs(value) >= 100 else 2}f}"
    return f"{value:.3g}"


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>{content}</details>"


@dataclass(frozen=True)
class Picture:
    """A figure, drawn for light and for dark screens.

    Attributes:
        name: Of the PNG file, without ending.
        alt: What it shows, in words, for those who do not see it.
        light: PNG.
        dark: PNG of the same size.
        width: In CSS pixels.
        height: In CSS pixels.
    """

    name: str
    alt: str
    light: bytes
    dark: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Figure:
    """A picture with its caption, and the numbers behind it.

    Attributes:
        picture: The picture.
        caption: What to see in it.
        numbers: Tables behind it.
    """

    picture: Picture
    caption: str
    numbers: tuple[Table, ...] = ()

    def html(self) -> str:
        """See `Block`."""
        p = self.picture
        # a printer has white paper, whatever the screen
        dark = (
            f'<source media="screen and (prefers-color-scheme: dark)" srcset="{_data_url(p.dark)}">'
        )
        image = (
            f'<img src="{_data_url(p.light)}" alt="{escape(p.alt)}" '
            f'width="{p.width}" height="{p.height}">'
        )
        return (
            f'<figure id="{escape(p.name)}"><picture>{dark}{image}</picture>'
            f"<figcaption>{escape(self.caption)}</figcaption>"
            f"{_numbers(self.numbers)}</figure>"
        )


def _numbers(tables: Sequence[Table]) -> str:
    if not tables:
        return ""
    return _folded("The numbers in this picture", "".join(table.html() for table in tables))


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        title: Heading and window title.
        lead: One line below it.
        badge: Provenance, such as `MEASURED`.
        badge_meaning: What it means, in a sentence.
        badge_level: How the reader should take it.
        sections: The rest, listed in a table of contents.
        footer: Last line.
    """

    title: str
    lead: str
    badge: str
    badge_meaning: str
    badge_level: Level
    sections: Sequence[Section]
    footer: str

    def pictures(self) -> list[Picture]:
        """Every picture, in order."""
        blocks = (block for section in self.sections for block in section.blocks)
        return [block.picture for block in blocks if isinstance(block, Figure)]

    def html(self) -> str:
        """The page as one HTML document."""
        contents = "".join(
            f'<li><a href="#s{i}">{escape(section.title)}</a></li>'
            for i, section in enumerate(self.sections)
        )
        sections = "".join(
            f'<section id="s{i}"><h2>{escape(section.title)}</h2>'
            f"{''.join(block.html() for block in section.blocks)}</section>"
            for i, section in enumerate(self.sections)
        )
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            f"<title>{escape(f'{self.title} ({self.badge})')}</title>"
            f"<style>{CSS}</style></head>\n"
            f"<body><header><h1>{escape(self.title)}</h1><p>{escape(self.lead)}</p>"
            f'<p class="badge {self.badge_level.value}"><b>{escape(self.badge)}</b> '
            f"{escape(self.badge_meaning)}</p></header>"
            f'<nav aria-label="Contents"><ul>{contents}</ul></nav>\n'
            f"<main>{sections}</main>\n<footer>{escape(self.footer)}</footer></body></html>\n"
        )
