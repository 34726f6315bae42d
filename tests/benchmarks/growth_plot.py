"""Draws how the time of a search grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402  the backend is chosen first
from matplotlib.ticker import ScalarFormatter  # noqa: E402

Curve = Sequence[tuple[int, float]]
"""Sizes and seconds."""


def plot_growth(curves: Mapping[str, Mapping[str, Curve]], path: Path) -> None:
    """One panel an axis, one line a side, both scales logarithmic."""
    figure, panels = pyplot.subplots(
        1, len(curves), figsize=(5.2 * len(curves), 4.2), sharey=True, squeeze=False
    )
    for panel, (axis, sides) in zip(panels[0], curves.items(), strict=True):
        for marker, (side, curve) in zip("os^", sides.items(), strict=False):
            sizes, seconds = zip(*curve, strict=True)
            panel.loglog(sizes, [1e3 * s for s in seconds], marker=marker, label=side)
        panel.set_xlabel(axis)
        panel.set_xticks(sorted({size for curve in sides.values() for size, _ in curve}))
        panel.xaxis.set_major_formatter(ScalarFormatter())
        panel.minorticks_off()
        panel.grid(visible=True, which="major", alpha=0.3)
    panels[0][0].set_ylabel("processor time of one plan, ms")
    panels[0][-1].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
