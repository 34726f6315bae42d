"""Pages and pictures that reports are made of."""

from __future__ import annotations

import io

import numpy as np
import pytest
from html_page import HtmlPage, require_picture
from matplotlib.figure import Figure as Canvas
from PIL import Image

from shardwright_costmodel.reporting.drawing import bars, density, picture, short, short_bytes
from shardwright_costmodel.reporting.page import (
    Figure,
    Findings,
    Level,
    Mark,
    Page,
    Picture,
    Prose,
    Section,
    Table,
    number,
)
from shardwright_costmodel.reporting.style import DARK, LIGHT, Theme


def draw_line(canvas: Canvas, theme: Theme) -> None:
    canvas.subplots().plot([1, 2, 3], [1, 4, 9], color=theme.series[0])


@pytest.fixture(scope="module")
def line() -> Picture:
    return picture("line", "A line that rises to the right", (4.0, 3.0), draw_line, "MEASURED")


def page_of(*blocks: Prose | Table | Figure | Findings) -> Page:
    return Page(
        "A <title>", "lead", "MODELLED", "by hand", Level.WARNING, [Section("One", blocks)], "end"
    )


def test_a_picture_is_drawn_for_light_and_for_dark_screens(line: Picture) -> None:
    require_picture(line.light)
    require_picture(line.dark)
    corners = []
    for png in (line.light, line.dark):
        with Image.open(io.BytesIO(png)) as image:
            assert image.width / image.height == pytest.approx(line.width / line.height, rel=0.01)
            corners.append(image.convert("RGB").getpixel((0, 0)))
    assert corners == [tuple(bytes.fromhex(theme.paper[1:])) for theme in (LIGHT, DARK)]


def test_the_small_print_stands_in_the_picture() -> None:
    with_note, without = (
        picture("line", "A line", (4.0, 3.0), draw_line, note).light for note in ("MODELLED", "")
    )
    assert with_note != without


def test_a_blank_picture_is_told_from_a_drawn_one() -> None:
    blank = picture("blank", "Nothing", (2.0, 2.0), lambda canvas, theme: None)
    with pytest.raises(AssertionError, match="blank"):
        require_picture(blank.light)


def test_a_page_is_self_contained_and_shows_its_pictures(line: Picture) -> None:
    table = Table("Numbers", ("x", "y"), ((1, 1), (2, 4)), folded=True)
    page = page_of(Figure(line, "It rises.", (table,)), Prose("Words."))
    read = HtmlPage(page.html())
    read.check()
    assert [image.alt for image in read.images] == [line.alt]
    assert read.images[0].light == line.light and read.images[0].dark == line.dark
    assert read.title == "A <title> (MODELLED)"
    for text in ("MODELLED", "by hand", "It rises.", "Words.", "Numbers", "One", "end"):
        assert text in read.text
    assert page.pictures() == [line]


def test_whatever_a_dataset_calls_itself_stays_text() -> None:
    nasty = '<script>alert(1)</script>"&'
    page = Page(
        nasty,
        nasty,
        nasty,
        nasty,
        Level.NOTICE,
        [
            Section(
                nasty,
                [
                    Prose(nasty),
                    Findings(((Level.WARNING, nasty),)),
                    Table(nasty, (nasty, "n"), ((nasty, 1), (Mark(nasty), 2))),
                    Table(nasty, (nasty,), ((nasty,),), folded=True),
                ],
            )
        ],
        nasty,
    )
    read = HtmlPage(page.html())
    read.check()
    assert read.text.count(nasty) >= 12


def test_numbers_are_written_as_people_read_them() -> None:
    written = {
        0: "0",
        7: "7",
        1234567: "1,234,567",
        2.0: "2",
        0.1 + 0.2: "0.3",
        0.000012345: "1.23e-05",
        3.14159: "3.14",
        123.456: "123.5",
        65536.4: "65,536",
        1e9 + 0.5: "1e+09",
        -2.5: "-2.50",
        float("inf"): "none",
    }
    assert {value: number(value) for value in written} == written


def test_ticks_carry_units_that_suit_them() -> None:
    assert [short(v) for v in (0.01, 5, 512, 8192, 20_000, 3e6)] == [
        "0.01", "5", "512", "8,192", "20k", "3M",
    ]  # fmt: skip
    assert [short_bytes(v) for v in (1, 2048, 3 * 2**20, 2**34)] == [
        "1 B", "2 KiB", "3 MiB", "16 GiB",
    ]  # fmt: skip


def test_labels_of_bars_never_touch() -> None:
    shown = []

    def draw(canvas: Canvas, theme: Theme) -> None:
        axes = canvas.subplots(1, 2)[0]
        bars(axes, theme, [str(i) for i in range(200)], np.arange(200.0).tolist())
        canvas.draw_without_rendering()
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        shown.append(all(a.x1 < b.x0 for a, b in zip(boxes, boxes[1:], strict=False)))

    picture("bars", "Many bars", (6.0, 3.0), draw)
    assert shown == [True, True]


@pytest.mark.parametrize("size", [1, 5, 4000])
def test_densities_show_few_points_and_many(size: int) -> None:
    x = np.exp(np.random.default_rng(0).normal(size=size))
    drawn = picture(
        "density",
        "Points",
        (4.0, 3.0),
        lambda canvas, theme: density(canvas.subplots(), theme, x, x, "points"),
    )
    require_picture(drawn.light)
