"""Pictures with matplotlib (an optional dependency): one look, two themes, no display needed."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from PIL import Image

from shardwright_costmodel.reporting.page import Picture
from shardwright_costmodel.reporting.style import DARK, LIGHT, Theme

Draw = Callable[[Figure, Theme], None]
Array = npt.NDArray[Any]

_DPI = 160
_CSS_PIXELS_PER_INCH = 96
_PALETTE = 255
"""Colours of a PNG: more are not seen in a plot, and make it three times as large."""

_FEW = 400
"""Up to so many values each is drawn; of more, how dense they lie."""


def picture(
    name: str, alt: str, size_inches: tuple[float, float], draw: Draw, note: str = ""
) -> Picture:
    """Draws a picture once for each theme.

    Args:
        name: Of the file.
        alt: What it shows, in words.
        size_inches: Width and height on a screen.
        draw: Fills a figure.
        note: Small print in the picture itself, such as where its numbers come from: pictures
            travel without their page.
    """
    light, dark = (_png(size_inches, draw, note, theme) for theme in (LIGHT, DARK))
    width, height = (round(_CSS_PIXELS_PER_INCH * inches) for inches in size_inches)
    return Picture(name, alt, light, dark, width, height)


def _png(size_inches: tuple[float, float], draw: Draw, note: str, theme: Theme) -> bytes:
    with rc_context(_settings(theme)):  # type: ignore[arg-type]  # newer stubs list every name
        figure = Figure(figsize=size_inches, dpi=_DPI, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        draw(figure, theme)
        if note:
            # a label below the axes: the layout keeps room for it
            figure.supxlabel(note, x=0.995, ha="right", fontsize=7.5, color=theme.faint)
        canvas.draw()  # type: ignore[no-untyped-call]
        pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        image = Image.fromarray(pixels).convert("RGB")
    buffer = io.BytesIO()
    image.quantize(_PALETTE, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _settings(theme: Theme) -> dict[str, Any]:
    return {
        "font.family": "DejaVu Sans",  # comes with matplotlib
        "font.size": 9.5,
        "axes.titlesize": 10.5,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.labelsize": 9.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "figure.constrained_layout.h_pad": 0.07,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "figure.facecolor": theme.paper,
        "axes.facecolor": theme.paper,
        "axes.edgecolor": theme.faint,
        "axes.labelcolor": theme.ink,
        "text.color": theme.ink,
        "xtick.color": theme.faint,
        "ytick.color": theme.faint,
        "xtick.labelcolor": theme.ink,
        "ytick.labelcolor": theme.ink,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
    }


def short(value: float, _position: object = None) -> str:
    """A number that fits under a tick: 0.01, 5, 8,192, 20k, 3M."""
    size = abs(value)
    if size < 1e4:
        return f"{value:,.0f}" if size >= 100 else f"{value:.3g}"
    units = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
    limit, suffix = next(unit for unit in units if size >= unit[0])
    return f"{value / limit:.3g}{suffix}"


def whole(value: float, _position: object = None) -> str:
    """A number in full, thousands apart."""
    return f"{value:,.0f}"


def short_bytes(value: float, _position: object = None) -> str:
    """A size with the binary unit that suits it."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    exponent = min(max(int(np.log2(max(value, 1)) // 10), 0), len(units) - 1)
    return f"{value / 1024**exponent:.3g} {units[exponent]}"


def log_axis(axis: Any, base: int = 10, labels: Callable[..., str] = short) -> None:
    """Makes an x or y axis logarithmic, with as many labels as there is room for.

    The limits must be set: ticks stand at powers of the base inside them.
    """
    which = axis.axis_name
    getattr(axis.axes, f"set_{which}scale")("log", base=base)
    low, high = sorted(getattr(axis.axes, f"get_{which}lim")())
    axis.set_major_locator(FixedLocator(_ticks(low, high, base, _room(axis, labels, high))))
    axis.set_major_formatter(FuncFormatter(labels))
    axis.set_minor_locator(NullLocator())


def _ticks(low: float, high: float, base: int, most: int) -> list[float]:
    first = int(np.ceil(np.log(low) / np.log(base) - 1e-9))
    last = int(np.floor(np.log(high) / np.log(base) + 1e-9))
    for step in (1, 2, 3, 4, 5, 10, 20, 40):
        ticks = [float(base) ** e for e in range(first, last + 1) if e % step == 0]
        if len(ticks) <= most:
            break
    if base == 10 and len(ticks) < 3 and step == 1:
        between = [m * 10.0**e for e in range(first - 1, last + 1) for m in (1, 2, 5)]
        ticks = [tick for tick in between if low <= tick <= high][: max(most, 2)]
    return ticks


def _room(axis: Any, labels: Callable[..., str], high: float) -> int:
    """How many labels fit, by the place that the layout starts from."""
    width, height = _inches(axis.axes)
    if axis.axis_name == "y":
        return max(2, int(height / 0.3))
    return max(2, int(width / _label_inches(len(labels(high)))))


def _inches(axes: Axes) -> tuple[float, float]:
    box = axes.get_position()
    figure = axes.figure
    assert isinstance(figure, Figure)
    return box.width * figure.get_figwidth(), box.height * figure.get_figheight()


def _label_inches(characters: int) -> float:
    return 0.082 * (characters + 1.2)


def ramp(theme: Theme) -> LinearSegmentedColormap:
    """The theme's colours from few to many."""
    return LinearSegmentedColormap.from_list("ramp", list(theme.ramp))


def density(axes: Axes, theme: Theme, x: Array, y: Array, what: str, *, log_y: bool = True) -> None:
    """Draws many points, x and usually y logarithmic: each, or of many how dense they lie."""
    axes.grid(visible=True)
    if len(x) <= _FEW:
        axes.scatter(x, y, s=14, color=theme.series[0], alpha=0.7, linewidths=0)
    else:
        cells = axes.hexbin(
            x,
            y,
            gridsize=52,
            xscale="log",
            yscale="log" if log_y else "linear",
            mincnt=1,
            linewidths=0.2,
            cmap=ramp(theme),
        )
        top = float(np.max(np.asarray(cells.get_array())))
        if top > 1:
            cells.set_norm(LogNorm(1, top))
            count_scale(axes, cells, f"{what} per cell")
    # after the hexagons, which set scales and ticks of their own
    axes.set_xlim(*padded_limits(x))
    log_axis(axes.xaxis)
    if log_y:
        axes.set_ylim(*padded_limits(y))
        log_axis(axes.yaxis)


def count_scale(axes: Axes, cells: ScalarMappable, label: str) -> None:
    """Puts the scale of colours beside a map of counts."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    bar = figure.colorbar(cells, ax=axes, pad=0.02, aspect=28)
    bar.outline.set_visible(False)
    bar.set_label(label, labelpad=2)
    low, high = cells.get_clim()
    assert low is not None and high is not None
    bar.ax.yaxis.set_major_locator(
        FixedLocator(_ticks(low, high, 10, 8) if high >= 10 else [1, high])
    )
    bar.ax.yaxis.set_major_formatter(FuncFormatter(short))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_minor_formatter(NullFormatter())


def padded_limits(values: Array, share: float = 0.04) -> tuple[float, float]:
    """Limits of a logarithmic axis that leave air around positive values."""
    low, high = float(np.min(values)), float(np.max(values))
    air = max((high / low) ** share, 1.02)
    return low / air, high * air


def bars(
    axes: Axes, theme: Theme, labels: Sequence[str], values: Sequence[float], color: int = 0
) -> None:
    """Draws upright bars, and leaves out labels that would touch."""
    axes.bar(range(len(labels)), values, width=0.86, color=theme.series[color])
    spread_labels(axes, labels)
    axes.yaxis.set_major_formatter(FuncFormatter(short))
    axes.grid(visible=True, axis="y")
    axes.tick_params(axis="x", length=0)


def spread_labels(axes: Axes, labels: Sequence[str]) -> None:
    """Puts labels under the places 0, 1, ...; leaves some out where they would touch."""
    longest = max((len(label) for label in labels), default=1)
    step = max(1, int(np.ceil(len(labels) * _label_inches(longest) / _inches(axes)[0])))
    axes.set_xticks(range(0, len(labels), step), list(labels)[::step])
