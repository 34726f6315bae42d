"""Pictures of a training: learning curves, predictions, errors by condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator

from shardwright_costmodel.reporting.drawing import (
    density,
    log_axis,
    padded_limits,
    picture,
    short,
    short_bytes,
    spread_labels,
    whole,
)
from shardwright_costmodel.reporting.page import Cell, Figure, Table
from shardwright_costmodel.reporting.style import Theme
from shardwright_costmodel.training.fit import FitResult
from shardwright_costmodel.training.judge import UNSEEN, Predictions

Array = npt.NDArray[Any]

WIDTH = 11.0
"""Inches of a figure that fills the page."""
_COLUMNS = 3
_MOST_GROUPS = 14


def learning_curves(fits: Mapping[str, FitResult], note: str) -> Figure:
    """Training and validation error of each stage, epoch by epoch."""

    def draw(canvas: Canvas, theme: Theme) -> None:
        panels = canvas.subplots(1, len(fits), squeeze=False)[0]
        for axes, (stage, result) in zip(panels, fits.items(), strict=True):
            _curves(axes, theme, result)
            axes.set_title(stage.replace("_", " "))
        panels[0].set_ylabel("mean absolute error, %")
        panels[0].legend(loc="upper right")

    rows: list[tuple[Cell, ...]] = [
        (
            stage,
            result.epochs,
            result.best_epoch + 1,
            result.training_mape_percent[result.best_epoch],
            result.validation_mape_percent[result.best_epoch],
        )
        for stage, result in fits.items()
    ]
    heads = ("stage", "epochs", "best epoch", "training error %", "validation error %")
    return Figure(
        picture(
            "learning-curves",
            f"Training and validation error by epoch of {', '.join(fits)}",
            (WIDTH, 3.1),
            draw,
            note,
        ),
        "Error of each fit after every pass over the training data. The weights of the marked "
        "epoch, best on validation data, were kept. Training errors are means over an epoch's "
        "steps, so they may lie above the validation error.",
        (Table("errors at the best epoch", heads, tuple(rows)),),
    )


def _curves(axes: Axes, theme: Theme, result: FitResult) -> None:
    epochs = np.arange(1, result.epochs + 1)
    curves = {
        "training": (result.training_mape_percent, theme.series[0], "--"),
        "validation": (result.validation_mape_percent, theme.series[1], "-"),
    }
    everything = np.concatenate([np.asarray(c[0], np.float64) for c in curves.values()])
    axes.set_ylim(*padded_limits(everything[everything > 0], 0.06))
    for name, (errors, color, style) in curves.items():
        axes.plot(epochs, errors, color=color, linestyle=style, linewidth=1.6, label=name)
    best, error = result.best_epoch + 1, result.validation_mape_percent[result.best_epoch]
    axes.plot([best], [error], "o", color=theme.series[1], markersize=7, mec=theme.paper)
    axes.text(
        0.97,
        0.72,
        f"best: epoch {best}\n{error:.3g} %",
        transform=axes.transAxes,
        ha="right",
        va="top",
        fontsize=8.5,
    )
    log_axis(axes.yaxis)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.grid(visible=True)
    axes.set_xlabel("epoch")


def predicted_against(
    name: str, predictions: Sequence[Predictions], truth: str, what: str, note: str
) -> Figure:
    """Predicted by measured times, one panel a quantity.

    Args:
        name: Of the picture.
        predictions: Quantities.
        truth: What stands on the x axis: `measured`, or another word for it.
        what: Which measurements these are, in words.
        note: Small print.
    """
    rows = -(-len(predictions) // _COLUMNS)

    def draw(canvas: Canvas, theme: Theme) -> None:
        panels = canvas.subplots(rows, _COLUMNS, squeeze=False).ravel()
        for axes, one in zip(panels, predictions, strict=False):
            _against(axes, theme, one, truth)
        for axes in panels[len(predictions) :]:
            axes.set_axis_off()

    quantities = ", ".join(one.quantity for one in predictions)
    return Figure(
        picture(
            name,
            f"Predicted by {truth} times of {quantities}, on logarithmic axes",
            (WIDTH, 3.2 * rows),
            draw,
            note,
        ),
        f"{what} On the line a prediction is exact. tau is Kendall's rank correlation: 1 when the "
        "model puts all in the right order.",
    )


def _against(axes: Axes, theme: Theme, one: Predictions, truth: str) -> None:
    x = np.asarray(one.measured_ms, np.float64)
    y = np.maximum(np.asarray(one.predicted_ms, np.float64), 1e-9)
    density(axes, theme, x, y, "values")
    ends = np.array(padded_limits(np.concatenate([x, y])))
    axes.plot(ends, ends, color=theme.series[1], linewidth=0.9, zorder=0.9)
    axes.set_xlim(*padded_limits(x))
    axes.set_ylim(*padded_limits(y))
    axes.set_xlabel(f"{truth}, ms")
    axes.set_ylabel("predicted, ms")
    accuracy = one.accuracy()
    axes.set_title(one.quantity.removesuffix(UNSEEN).replace("_", " "))
    axes.text(
        0.04,
        0.95,
        f"error {accuracy.mape_percent:.2f} %\ntau {accuracy.kendall_tau:.3f}\n"
        f"n {accuracy.num_measurements:,}",
        transform=axes.transAxes,
        va="top",
        fontsize=8.5,
    )


def signed_errors(predictions: Sequence[Predictions], truth: str, note: str) -> Figure:
    """Signed errors by time, one panel a quantity; arguments as in `predicted_against`."""
    rows = -(-len(predictions) // _COLUMNS)

    def draw(canvas: Canvas, theme: Theme) -> None:
        panels = canvas.subplots(rows, _COLUMNS, squeeze=False).ravel()
        for axes, one in zip(panels, predictions, strict=False):
            _signed(axes, theme, one)
            axes.set_xlabel(f"{truth}, ms")
            axes.set_title(one.quantity.removesuffix(UNSEEN).replace("_", " "))
        for axes in panels[len(predictions) :]:
            axes.set_axis_off()

    table_rows: list[tuple[Cell, ...]] = [
        (one.quantity, *(round(float(e), 3) for e in np.percentile(_errors(one), _SHARES)))
        for one in predictions
    ]
    heads = ("quantity", *(f"{share:g} % below, %" for share in _SHARES))
    return Figure(
        picture(
            "signed-errors",
            f"Signed errors in percent by {truth} time",
            (WIDTH, 2.6 * rows),
            draw,
            note,
        ),
        "The same predictions: how far above (+) or below (-) each is. A cloud around 0 at every "
        "time is what a search needs; a slope or an offset would be a bias that it exploits. The "
        "farthest 1 % stand at the edge.",
        (Table("signed errors", heads, tuple(table_rows)),),
    )


_SHARES = (1, 10, 50, 90, 99)


def _errors(one: Predictions) -> Array:
    truth = np.asarray(one.measured_ms, np.float64)
    return np.asarray(100.0 * (np.asarray(one.predicted_ms, np.float64) - truth) / truth)


def _signed(axes: Axes, theme: Theme, one: Predictions) -> None:
    errors = _errors(one)
    edge = max(0.1, float(np.percentile(np.abs(errors), 99)))
    x = np.asarray(one.measured_ms, np.float64)
    density(axes, theme, x, np.clip(errors, -edge, edge), "values", log_y=False)
    axes.axhline(0.0, color=theme.series[1], linewidth=0.9, zorder=0.9)
    axes.set_ylim(-1.08 * edge, 1.08 * edge)
    axes.yaxis.set_major_locator(MaxNLocator(5, symmetric=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:+.3g}" if v else "0"))
    axes.set_ylabel("error, %")


@dataclass(frozen=True)
class ErrorGroup:
    """Errors of predictions alike in one condition.

    Attributes:
        low: The condition's value, or the lowest that the group may hold.
        label: That value, to be read.
        count: Predictions.
        mean: Mean absolute percentage error.
        percentiles: 10, 25, 50, 75 and 90 % of the absolute errors lie below.
    """

    low: float
    label: str
    count: int
    mean: float
    percentiles: tuple[float, ...]


def error_groups(one: Predictions, condition: str) -> list[ErrorGroup]:
    """Absolute percentage errors by a condition: by its values when few, else by powers of 2."""
    values = np.asarray(one.conditions[condition], np.float64)
    errors = np.abs(_errors(one))
    lows = values if len(np.unique(values)) <= _MOST_GROUPS else _powers(values)
    return [
        ErrorGroup(
            low=float(low),
            label=_label(condition, float(low)),
            count=int((lows == low).sum()),
            mean=float(errors[lows == low].mean()),
            percentiles=tuple(np.percentile(errors[lows == low], (10, 25, 50, 75, 90)).tolist()),
        )
        for low in np.unique(lows)
    ]


def _label(condition: str, low: float) -> str:
    if condition == "bytes":
        return short_bytes(low)
    return whole(low) if 1 <= low < 1e6 else short(low)


def _powers(values: Array) -> Array:
    """The power of 2 (or, of a wide range, of 4 or 16) at or below each value."""
    exponents = np.floor(np.log2(np.maximum(values, 2.0**-20)) + 1e-9)
    for step in (1, 2, 4):
        steps = np.floor(exponents / step)
        if len(np.unique(steps)) <= _MOST_GROUPS:
            break
    return np.asarray(2.0 ** (step * steps))


def errors_by_condition(
    predictions: Sequence[Predictions], condition_names: Sequence[str], note: str
) -> Figure:
    """Box plots of the error of one quantity, held out and unseen side by side.

    Args:
        predictions: The quantity held out and, where there is one, unseen.
        condition_names: One panel each.
        note: Small print.
    """
    first = predictions[0]
    groups = {
        (condition, one.quantity): error_groups(one, condition)
        for condition in condition_names
        for one in predictions
    }

    def draw(canvas: Canvas, theme: Theme) -> None:
        panels = canvas.subplots(1, len(condition_names), squeeze=False, sharey=True)[0]
        for axes, condition in zip(panels, condition_names, strict=True):
            series = {_series_name(one): groups[(condition, one.quantity)] for one in predictions}
            _boxes(axes, theme, series)
            axes.set_xlabel(condition)
        panels[0].set_ylabel("absolute error, %")
        panels[0].set_ylim(bottom=0)
        panels[0].set_title(first.quantity.replace("_", " "))
        if len(predictions) > 1:
            above = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0.1}
            panels[-1].legend(ncols=2, **above)

    return Figure(
        picture(
            f"error-{first.quantity.replace('_', '-')}",
            f"Box plots of the error of {first.quantity} by {', '.join(condition_names)}",
            (WIDTH, 2.9),
            draw,
            note,
        ),
        f"Absolute error of {first.quantity.replace('_', ' ')}: box from 25 to 75 % of the "
        "predictions, line at the median, whiskers from 10 to 90 %, dot at the mean. A group that "
        "stands for several values bears its lowest.",
        tuple(
            _error_table(f"{_series_name(one)}, by {condition}", groups[(condition, one.quantity)])
            for condition in condition_names
            for one in predictions
        ),
    )


def _series_name(one: Predictions) -> str:
    return "unseen" if one.quantity.endswith(UNSEEN) else "held out"


def _boxes(axes: Axes, theme: Theme, series: Mapping[str, list[ErrorGroup]]) -> None:
    labels = {g.low: g.label for groups in series.values() for g in groups}
    order = sorted(labels)
    width = 0.7 / len(series)
    for i, (name, groups) in enumerate(series.items()):
        color = theme.series[i]
        places = [order.index(g.low) + (i - (len(series) - 1) / 2) * width for g in groups]
        boxes = [
            {"whislo": p[0], "q1": p[1], "med": p[2], "q3": p[3], "whishi": p[4], "mean": g.mean}
            for g in groups
            for p in (g.percentiles,)
        ]
        line = {"color": color, "linewidth": 1.2}
        drawn = axes.bxp(
            boxes,
            positions=places,
            widths=0.8 * width,
            showfliers=False,
            showmeans=True,
            patch_artist=True,
            manage_ticks=False,
            boxprops={"facecolor": color, "edgecolor": color, "alpha": 0.35},
            medianprops={"color": color, "linewidth": 2.0},
            whiskerprops=line,
            capprops=line,
            meanprops={"marker": "o", "mfc": color, "mec": theme.paper, "markersize": 4.5},
        )
        drawn["boxes"][0].set_label(name)
    spread_labels(axes, [labels[low] for low in order])
    axes.set_xlim(-0.6, len(order) - 0.4)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(short))
    axes.grid(visible=True, axis="y")


def _error_table(caption: str, groups: Sequence[ErrorGroup]) -> Table:
    heads = ("from", "predictions", "mean error %", "half below %", "90 % below %")
    rows: list[tuple[Cell, ...]] = [
        (g.label, g.count, g.mean, g.percentiles[2], g.percentiles[4]) for g in groups
    ]
    return Table(caption, heads, tuple(rows))
