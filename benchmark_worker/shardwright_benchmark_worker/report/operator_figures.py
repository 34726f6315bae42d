"""Pictures of fused operators."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure as Canvas

from shardwright_benchmark_worker.report.plots import (
    count_table,
    heat,
    histogram,
    lying_bars,
    map_table,
    outlines,
)
from shardwright_benchmark_worker.report.tallies import OperatorTally
from shardwright_costmodel.reporting.drawing import bars, picture, short_bytes, whole
from shardwright_costmodel.reporting.page import Cell, Figure, Table
from shardwright_costmodel.reporting.style import Theme

WIDTH = 11.0
"""Inches of a figure that fills the page."""


def operator_figures(tally: OperatorTally, note: str) -> list[Figure]:
    """What operators and tables were measured, and how long they took."""
    figures = [_tables(tally, note), _operators(tally, note), _maps(tally, note)]
    figures += [_kinds(tally, note), _times(tally, note)]
    if tally.infeasible:
        figures.append(_infeasible(tally, note))
    return figures


def _tables(tally: OperatorTally, note: str) -> Figure:
    panels = (
        (tally.dim, "embedding dim, columns"),
        (tally.rows, "rows of a table"),
        (tally.pooling, "pooling factor, lookups per sample"),
    )

    def draw(canvas: Canvas, theme: Theme) -> None:
        for axes, (counted, label) in zip(canvas.subplots(1, 3), panels, strict=True):
            histogram(axes, theme, counted, label, "tables")

    alt = f"Histograms of dim, rows and pooling factor of {tally.tables:,} tables"
    return Figure(
        picture("tables", alt, (WIDTH, 2.9), draw, note),
        f"The {tally.tables:,} tables and table pieces inside the operators, each as often as it "
        "was measured. A cost model knows little of what no bar stands for.",
        tuple(count_table(label, label, counted, "tables") for counted, label in panels),
    )


def _operators(tally: OperatorTally, note: str) -> Figure:
    labels, counts = _per_operator(tally)

    def draw(canvas: Canvas, theme: Theme) -> None:
        first, second, third = canvas.subplots(1, 3)
        bars(first, theme, labels, counts)
        first.set_xlabel("tables in an operator")
        first.set_ylabel("operators")
        histogram(second, theme, tally.batch, "global batch size, samples", "operators", whole)
        histogram(
            third,
            theme,
            tally.gathered_bytes,
            "weights gathered in forward",
            "operators",
            short_bytes,
        )

    alt = f"Histograms of tables, batch and gathered bytes of {tally.count:,} operators"
    rows: list[tuple[Cell, ...]] = list(zip(labels, counts, strict=True))
    return Figure(
        picture("operators", alt, (WIDTH, 2.9), draw, note),
        f"The {tally.count:,} fused operators. Gathered bytes count every lookup anew, "
        "whether a cache holds its row or not.",
        (
            Table("tables in an operator", ("tables", "operators"), tuple(rows)),
            count_table("global batch size", "samples", tally.batch, "operators"),
            count_table("gathered bytes", "bytes", tally.gathered_bytes, "operators", short_bytes),
        ),
    )


def _per_operator(tally: OperatorTally) -> tuple[list[str], list[int]]:
    """Operators by number of tables; large numbers in groups."""
    last = int(np.flatnonzero(tally.num_tables).max(initial=1))
    width = max(1, -(-last // 40))
    starts = range(1, last + 1, width)
    labels = [str(s) if width == 1 else f"{s}–{s + width - 1}" for s in starts]
    return labels, [int(tally.num_tables[s : s + width].sum()) for s in starts]


def _maps(tally: OperatorTally, note: str) -> Figure:
    def draw(canvas: Canvas, theme: Theme) -> None:
        left, right = canvas.subplots(1, 2)
        heat(left, theme, tally.rows_by_dim, "rows of a table", "embedding dim, columns", "tables")
        heat(
            right,
            theme,
            tally.batch_by_pooling,
            "batch that a table sees, samples",
            "pooling factor, lookups per sample",
            "tables",
            whole,
        )

    return Figure(
        picture(
            "coverage",
            "Maps of how many tables there are of each size and dim, and of each batch and "
            "pooling factor",
            (WIDTH, 3.9),
            draw,
            note,
        ),
        "What was measured together. White (on a dark screen, black) cells were never measured: "
        "there a cost model extrapolates, though each of the two values may be in range.",
        (
            map_table("rows and dim", "rows", "dim", tally.rows_by_dim),
            map_table("batch and pooling", "batch", "pooling", tally.batch_by_pooling),
        ),
    )


def _kinds(tally: OperatorTally, note: str) -> Figure:
    panels = {
        "weight dtype (tables)": tally.dtypes,
        "optimizer (operators)": tally.optimizers,
        "placement (operators)": tally.placements,
    }

    def draw(canvas: Canvas, theme: Theme) -> None:
        for axes, (title, counts) in zip(canvas.subplots(1, 3), panels.items(), strict=True):
            lying_bars(axes, theme, counts, title)

    return Figure(
        picture(
            "kinds", "Bars of weight dtypes, optimizers and placements", (WIDTH, 2.0), draw, note
        ),
        "Weight dtypes, optimizers fused into backward, and where the weights lay. Training takes "
        "the placement 'device' alone.",
        tuple(
            Table(title, ("kind", "number"), tuple(sorted(counts.items())))
            for title, counts in panels.items()
        ),
    )


def _times(tally: OperatorTally, note: str) -> Figure:
    names = ("forward", "backward + optimizer")

    def draw(canvas: Canvas, theme: Theme) -> None:
        first, second, third = canvas.subplots(1, 3, width_ratios=(0.8, 1, 1))
        named = dict(zip(names, tally.times, strict=True))
        outlines(first, theme, named, "time, ms", "operators")
        for axes, name, counted in zip((second, third), names, tally.by_bytes, strict=True):
            heat(
                axes,
                theme,
                counted,
                "weights gathered in forward",
                f"{name}, ms",
                "operators",
                short_bytes,
            )

    return Figure(
        picture(
            "operator-times",
            "Histogram of forward and backward times, and maps of each by gathered bytes",
            (WIDTH, 3.4),
            draw,
            note,
        ),
        "Left: how long operators took. Right: the same by the bytes they gather. A flat left end "
        "is launch overhead, a straight slope bandwidth.",
        tuple(
            count_table(f"{name}, ms", "ms", counted, "operators")
            for name, counted in zip(names, tally.times, strict=True)
        ),
    )


def _infeasible(tally: OperatorTally, note: str) -> Figure:
    def draw(canvas: Canvas, theme: Theme) -> None:
        axes = canvas.subplots()
        everything = {"all operators": tally.weight_bytes, "infeasible": tally.infeasible_bytes}
        outlines(axes, theme, everything, "weights of the operator", "operators")
        axes.xaxis.set_major_formatter(short_bytes)

    return Figure(
        picture(
            "infeasible",
            f"Histogram of weight bytes of all operators and of the {tally.infeasible:,} that did "
            "not fit",
            (0.6 * WIDTH, 3.0),
            draw,
            note,
        ),
        f"{tally.infeasible:,} operators did not fit into the device's memory. They should lie at "
        "the right end: one that does not met a device that something else filled.",
        (
            count_table(
                "infeasible operators",
                "weights",
                tally.infeasible_bytes,
                "operators",
                short_bytes,
            ),
        ),
    )
