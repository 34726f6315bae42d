"""Drawing histograms and maps of counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.ticker import FuncFormatter, MaxNLocator

from shardwright_benchmark_worker.report.bins import Histogram, Histogram2D
from shardwright_costmodel.reporting.drawing import count_scale, log_axis, ramp, short
from shardwright_costmodel.reporting.page import Cell, Table, number
from shardwright_costmodel.reporting.style import Theme

Array = npt.NDArray[Any]
Labels = Callable[..., str]


def histogram(
    axes: Axes,
    theme: Theme,
    counted: Histogram,
    label: str,
    what: str,
    labels: Labels = short,
    color: int = 0,
) -> None:
    """Draws the bins that hold something, on a logarithmic axis."""
    edges, counts = counted.filled()
    axes.bar(
        edges[:-1],
        counts,
        width=np.diff(edges),
        align="edge",
        color=theme.series[color],
        edgecolor=theme.paper,
        linewidth=0.7,
    )
    _finish(axes, counted, edges, label, what, labels)


def outlines(
    axes: Axes, theme: Theme, counted: Mapping[str, Histogram], label: str, what: str
) -> None:
    """Draws several histograms over each other, told apart by colour and line."""
    low, high = np.inf, -np.inf
    for i, (name, one) in enumerate(counted.items()):
        edges, counts = one.filled()
        if len(counts):
            style = ("-", "--", ":", "-.")[i % 4]
            axes.stairs(
                counts, edges, color=theme.series[i], linewidth=1.8, linestyle=style, label=name
            )
            low, high = min(low, edges[0]), max(high, edges[-1])
    first = next(iter(counted.values()))
    _finish(axes, first, np.array([low, high]), label, what, short)
    if len(counted) > 1:
        axes.legend(
            loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.1, ncols=len(counted)
        )


def _finish(
    axes: Axes, counted: Histogram, edges: Array, label: str, what: str, labels: Labels
) -> None:
    if len(edges) > 1:
        axes.set_xlim(edges[0], edges[-1])
    log_axis(axes.xaxis, int(counted.bins.base), labels)
    axes.set_xlabel(label)
    axes.set_ylabel(what)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(short))
    axes.grid(visible=True, axis="y")


def heat(
    axes: Axes,
    theme: Theme,
    counted: Histogram2D,
    x_label: str,
    y_label: str,
    what: str,
    x_labels: Labels = short,
    y_labels: Labels = short,
) -> None:
    """Draws a map of counts; empty cells stay paper."""
    x, y, counts = counted.filled()
    if not counts.size:
        return
    top = max(2, int(counts.max()))
    mesh = axes.pcolormesh(
        x,
        y,
        np.ma.masked_equal(counts.T, 0),
        cmap=ramp(theme),
        norm=LogNorm(1, top),
        edgecolors=theme.paper,
        linewidth=0.4,
    )
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    log_axis(axes.xaxis, int(counted.x.base), x_labels)
    log_axis(axes.yaxis, int(counted.y.base), y_labels)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    count_scale(axes, mesh, what)


def lying_bars(axes: Axes, theme: Theme, counts: Mapping[str, int], title: str) -> None:
    """Draws one bar a name, longest first, with its number and share."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    total = max(1, sum(counts.values()))
    names = [name for name, _ in ordered]
    values = [count for _, count in ordered]
    axes.barh(names, values, color=theme.series[0], height=0.62)
    for i, value in enumerate(values):
        axes.text(value, i, f"  {value:,} ({value / total:.0%})", va="center", fontsize=8.5)
    axes.set_xlim(0, 1.6 * max(values, default=1))
    axes.set_ylim(max(3, len(names)) - 0.4, -0.6)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_title(title)


def count_table(
    caption: str, first: str, counted: Histogram, what: str, labels: Callable[[float], str] = number
) -> Table:
    """The numbers behind a histogram."""
    edges, counts = counted.filled()
    rows: list[tuple[Cell, ...]] = [
        (labels(float(low)), labels(float(high)), int(count))
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    return Table(caption, (f"{first}, from", "to less than", what), tuple(rows))


def map_table(
    caption: str,
    x_name: str,
    y_name: str,
    counted: Histogram2D,
    x_labels: Callable[[float], str] = number,
    y_labels: Callable[[float], str] = number,
) -> Table:
    """The numbers behind a map: a row for each bin of x, a column for each of y, lower edges."""
    x, y, counts = counted.filled()
    columns = (f"{x_name} from ↓, {y_name} from →", *(y_labels(float(low)) for low in y[:-1]))
    rows: list[tuple[Cell, ...]] = [
        (x_labels(float(low)), *(int(c) for c in line))
        for low, line in zip(x[:-1], counts, strict=True)
    ]
    return Table(caption, columns, tuple(rows))


def grid_of_shapes(axes: Axes, theme: Theme, shapes: Mapping[tuple[int, int], int]) -> None:
    """Draws how often each world size met each number of devices per host."""
    worlds = sorted({world for world, _ in shapes})
    hosted = sorted({per_host for _, per_host in shapes})
    counts = np.array([[shapes.get((w, h), 0) for w in worlds] for h in hosted])
    edges_x, edges_y = np.arange(len(worlds) + 1) - 0.5, np.arange(len(hosted) + 1) - 0.5
    axes.pcolormesh(
        edges_x,
        edges_y,
        np.ma.masked_equal(counts, 0),
        cmap=ramp(theme),
        norm=LogNorm(1, max(2, int(counts.max()))),
        edgecolors=theme.paper,
        linewidth=0.6,
    )
    if len(worlds) <= 16:
        _write_counts(axes, theme, counts)
    named = worlds if len(worlds) <= 24 else [w for w in worlds if w in (2, 4) or w % 8 == 0]
    axes.set_xticks([worlds.index(w) for w in named], [str(w) for w in named])
    axes.set_yticks(range(len(hosted)), [str(h) for h in hosted])
    axes.tick_params(length=0)
    axes.set_xlabel("world size, devices")
    axes.set_ylabel("devices per host")


def _write_counts(axes: Axes, theme: Theme, counts: Array) -> None:
    top = np.log(max(2, counts.max()))
    for (y, x), count in np.ndenumerate(counts):
        if count:
            # the ramp's darker half (lighter, on dark paper) asks for the paper's colour
            strong = np.log(count) > 0.5 * top
            axes.text(
                x,
                y,
                short(float(count)),
                ha="center",
                va="center",
                fontsize=8,
                color=theme.paper if strong else theme.ink,
            )
