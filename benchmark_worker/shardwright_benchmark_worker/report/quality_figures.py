"""Pictures of how far the numbers can be trusted: noise, drift, outliers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure as Canvas

from shardwright_benchmark_worker.report.bins import Histogram, Histogram2D
from shardwright_benchmark_worker.report.neighbours import Suspect, Worst
from shardwright_benchmark_worker.report.operator_figures import WIDTH
from shardwright_benchmark_worker.report.plots import count_table, heat, outlines
from shardwright_benchmark_worker.report.tallies import DRIFT_PERCENT
from shardwright_costmodel.reporting.drawing import log_axis, picture
from shardwright_costmodel.reporting.page import Cell, Figure, Table, number
from shardwright_costmodel.reporting.style import Theme

_MANY = 3
"""Most maps side by side."""


def noise_figures(
    title: str, name: str, maps: Mapping[str, Histogram2D], note: str
) -> list[Figure]:
    """Maps of noise by size of the time, those that hold something.

    Args:
        title: What the noise is of, such as `Spread from p10 to p90`.
        name: Of the pictures.
        maps: Quantity to times by percentages.
        note: Small print.
    """
    filled = [(quantity, one) for quantity, one in maps.items() if one.counts.sum()]
    return [
        _noise(title, f"{name}-{i // _MANY + 1}", dict(filled[i : i + _MANY]), note)
        for i in range(0, len(filled), _MANY)
    ]


def _noise(title: str, name: str, maps: dict[str, Histogram2D], note: str) -> Figure:
    def draw(canvas: Canvas, theme: Theme) -> None:
        for axes, (quantity, one) in zip(
            canvas.subplots(1, _MANY, squeeze=False)[0], maps.items(), strict=False
        ):
            heat(axes, theme, one, "time, ms", f"{title}, %", "rows")
            # noise of 0.1 to 100 % always in view, so that pictures can be compared
            low, high = axes.get_ylim()
            axes.set_ylim(min(low, 0.1), max(high, 100.0))
            log_axis(axes.yaxis)
            axes.plot(*one.quantiles_of_y(0.5), color=theme.series[1], marker="o", markersize=3)
            axes.set_title(quantity)
        for axes in canvas.axes[len(maps) : _MANY]:
            axes.set_axis_off()

    return Figure(
        picture(
            name,
            f"{title} in percent of the median, by time, of {', '.join(maps)}",
            (WIDTH, 3.3),
            draw,
            note,
        ),
        f"{title[0].upper()}{title[1:]}, in percent of the median, by how long the row "
        "took; the line is the median of rows of like time. Short times are the noisiest: a cost "
        "model cannot be more accurate there than this.",
        tuple(_noise_table(f"{title}: {quantity}", one) for quantity, one in maps.items()),
    )


def _noise_table(caption: str, one: Histogram2D) -> Table:
    columns = [one.quantiles_of_y(share) for share in (0.1, 0.5, 0.9)]
    rows: list[tuple[Cell, ...]] = [
        (number(float(f"{t:.2g}")), *(float(f"{c[1][i]:.2g}") for c in columns))
        for i, t in enumerate(columns[0][0])
    ]
    heads = ("around ms", "10 % of rows below, %", "half below, %", "90 % below, %")
    return Table(caption, heads, tuple(rows))


def drift_figure(drift: Mapping[str, Histogram], note: str) -> Figure:
    """How far the reference kernel was from its time at the start."""

    def draw(canvas: Canvas, theme: Theme) -> None:
        axes = canvas.subplots()
        outlines(axes, theme, drift, "drift of the reference kernel, % (slower or faster)", "rows")
        axes.axvspan(DRIFT_PERCENT, axes.get_xlim()[1], color=theme.series[1], alpha=0.12)
        axes.text(
            DRIFT_PERCENT,
            0.97,
            f"  flagged from {DRIFT_PERCENT:g} %",
            transform=axes.get_xaxis_transform(),
            va="top",
            fontsize=8.5,
            bbox={"facecolor": theme.paper, "edgecolor": "none", "alpha": 0.7, "pad": 1},
        )

    return Figure(
        picture(
            "drift",
            f"Histogram of the drift of the reference kernel, of {', '.join(drift)}",
            (0.65 * WIDTH, 3.0),
            draw,
            note,
        ),
        "How much slower or faster a fixed kernel ran around each row than at the start of the "
        "run. Rows in the shaded range were measured on a device that was throttled or shared.",
        tuple(count_table(f"drift: {name}", "%", one, "rows") for name, one in drift.items()),
    )


def suspects_figure(worst: Mapping[str, Worst], note: str) -> Figure:
    """Recorded times by those that rows like them took."""
    # four in a row, of all kinds there are, would be too narrow
    columns = len(worst) if len(worst) <= _MANY else 2
    lines = -(-len(worst) // columns)

    def draw(canvas: Canvas, theme: Theme) -> None:
        panels = canvas.subplots(lines, columns, squeeze=False).flat
        for axes, (name, one) in zip(panels, worst.items(), strict=True):
            heat(axes, theme, one.times, "expected by its size, ms", "recorded, ms", "rows")
            ends = np.array([*axes.get_xlim(), *axes.get_ylim()])
            line = [ends.min(), ends.max()]
            limits = axes.get_xlim(), axes.get_ylim()
            axes.plot(line, line, color=theme.faint, linewidth=1, linestyle="--")
            found = one.suspects()
            if found:
                axes.scatter(
                    [s.expected_ms for s in found],
                    [s.time_ms for s in found],
                    s=26,
                    marker="X",
                    color=theme.series[1],
                    edgecolors=theme.paper,
                    linewidths=0.5,
                    label="the farthest, listed below",
                )
                axes.legend(loc="upper left", handletextpad=0.2)
            axes.set_xlim(*limits[0])
            axes.set_ylim(*limits[1])
            axes.set_title(name)

    return Figure(
        picture(
            "outliers",
            f"Recorded by expected times of {', '.join(worst)}",
            (min(WIDTH, 3.7 * columns) if columns > 1 else 0.55 * WIDTH, 3.5 * lines),
            draw,
            note,
        ),
        "Each row against what a robust regression expects of rows of its size. It knows a few "
        "sizes only, so rows scatter; those far off the crowd are worth a second look.",
    )


def suspects_table(name: str, suspects: list[Suspect]) -> Table:
    """The rows farthest from their neighbours."""
    rows: list[tuple[Cell, ...]] = [
        (
            s.part,
            s.row,
            s.quantity,
            s.time_ms,
            s.expected_ms,
            f"{s.time_ms / s.expected_ms:.3g} x",
            round(s.deviations, 1),
            s.what,
        )
        for s in suspects
    ]
    heads = (
        "part",
        "row",
        "time",
        "recorded ms",
        "expected ms",
        "factor",
        "deviations",
        "what it is",
    )
    return Table(
        f"{name}: the rows farthest from rows alike (row 0 is the first)", heads, tuple(rows)
    )
