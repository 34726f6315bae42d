"""Holds the roofline against every published measurement there is.

python -m tests.benchmarks.bench_published
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated

import matplotlib
import numpy as np
import typer
from tests.benchmarks.machine import table
from tests.benchmarks.published import Comparison, comparisons

matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402  the backend is chosen first

RESULTS = Path(__file__).parent / "results"


def report_lines(rows: Sequence[Comparison], picture: str) -> list[str]:
    """The results file; nothing in it depends on the machine."""
    predicted = [row for row in rows if row.predicted is not None]
    return [
        "# The roofline against published measurements",
        "",
        "- Command: `python -m tests.benchmarks.bench_published`",
        "- Rows and sources: `tests/benchmarks/published/`; no number here was measured by us",
        "",
        f"{len(rows)} published numbers, of which the roofline can predict {len(predicted)}. "
        "*Standing* says what a row was to the roofline's constants: `fitted`, a constant was "
        "chosen to follow it; `taken from it`, it is the constant; `not fitted`, a prediction; "
        "`its bandwidth given`, the form of the model with that GPU's own bandwidths.",
        "",
        "## In short",
        "",
        *_summary(predicted),
        f"![published and predicted]({picture})",
        "",
        "## Every row",
        "",
        *_all_rows(predicted),
        "## What it cannot predict",
        "",
        *_unpredicted([row for row in rows if row.predicted is None]),
    ]


def _summary(rows: Sequence[Comparison]) -> list[str]:
    groups: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        groups.setdefault((row.group, row.standing), []).append(100.0 * (row.error or 0.0))
    cells = [
        [group, standing, str(len(e)), f"{np.abs(e).mean():.0f}", f"{max(e, key=abs):+.0f}"]
        for (group, standing), e in groups.items()
    ]
    return table(["what", "standing", "rows", "mean error %", "worst %"], cells)


def _all_rows(rows: Sequence[Comparison]) -> list[str]:
    cells = [
        [
            f"{row.group}: {row.case}",
            row.unit,
            f"{row.published:.4g}",
            f"{row.predicted:.4g}",
            f"{100.0 * (row.error or 0.0):+.0f}",
            row.standing,
            "; ".join(part for part in (row.source, row.note) if part),
        ]
        for row in rows
    ]
    head = ["what", "unit", "published", "predicted", "error %", "standing", "source (trust), note"]
    return table(head, cells)


def _unpredicted(rows: Sequence[Comparison]) -> list[str]:
    cells = [
        [f"{row.group}: {row.case}", row.unit, f"{row.published:.4g}", row.note, row.source]
        for row in rows
    ]
    return table(["what", "unit", "published", "why not", "source (trust)"], cells)


def draw(rows: Sequence[Comparison], path: Path) -> None:
    """Published times against predicted ones; filled where nothing was fitted to the row."""
    figure, axes = pyplot.subplots(figsize=(6.4, 6.0))
    timed = [row for row in rows if row.predicted is not None and row.unit == "us"]
    groups = sorted({row.group for row in timed})
    colors = dict(zip(groups, pyplot.get_cmap("tab10").colors, strict=False))  # type: ignore[attr-defined]
    for group in groups:
        for free in (True, False):
            chosen = [r for r in timed if r.group == group and (r.standing == "not fitted") == free]
            if chosen:
                axes.scatter(
                    [r.published for r in chosen],
                    [r.predicted for r in chosen],
                    s=26,
                    label=group + ("" if free else ", fitted"),
                    facecolors=colors[group] if free else "none",
                    edgecolors=colors[group],
                )
    ends = [3.0, 1e6]
    axes.plot(ends, ends, color="0.4", linewidth=0.8, zorder=1)
    axes.fill_between(
        ends, [0.8 * e for e in ends], [1.25 * e for e in ends], color="0.92", zorder=0
    )
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    axes.set_xlabel("published, us")
    axes.set_ylabel("roofline, us")
    axes.legend(fontsize=7, loc="upper left", title="band: within 25 %", title_fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main(
    day: Annotated[str, typer.Option(help="Date in the files' names.")] = date.today().isoformat(),
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
) -> None:
    """Writes the table and the picture."""
    rows = comparisons()
    path = out / f"roofline_published_{day}.md"
    draw(rows, path.with_suffix(".png"))
    path.write_text("\n".join(report_lines(rows, path.with_suffix(".png").name)))
    typer.echo(path)


if __name__ == "__main__":
    typer.run(main)
