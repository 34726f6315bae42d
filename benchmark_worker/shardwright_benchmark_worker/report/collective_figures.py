"""Pictures of all-to-alls, all-reduces and reduce-scatters."""

from __future__ import annotations

from matplotlib.figure import Figure as Canvas

from shardwright_benchmark_worker.report.operator_figures import WIDTH
from shardwright_benchmark_worker.report.plots import (
    count_table,
    grid_of_shapes,
    heat,
    histogram,
    outlines,
)
from shardwright_benchmark_worker.report.tallies import CollectiveTally
from shardwright_costmodel.dataset import Kind
from shardwright_costmodel.reporting.drawing import picture, short_bytes
from shardwright_costmodel.reporting.page import Figure, Table
from shardwright_costmodel.reporting.style import Theme

NAMES = {
    Kind.COMPUTE: "fused operators",
    Kind.COMM: "all-to-alls",
    Kind.ALL_REDUCE: "all-reduces",
    Kind.REDUCE_SCATTER: "reduce-scatters",
}


def collective_figures(kind: Kind, tally: CollectiveTally, note: str) -> list[Figure]:
    """What collectives were measured, and how long they took."""
    figures = [_shapes(kind, tally, note)]
    if kind is Kind.COMM:
        figures.append(_loads(tally, note))
    return [*figures, _times(kind, tally, note)]


def _shapes(kind: Kind, tally: CollectiveTally, note: str) -> Figure:
    worlds, hosted = (len({shape[i] for shape in tally.shapes}) for i in range(2))
    width = min(WIDTH, 1.8 + 0.5 * worlds)

    def draw(canvas: Canvas, theme: Theme) -> None:
        grid_of_shapes(canvas.subplots(), theme, tally.shapes)

    rows = tuple((world, per_host, n) for (world, per_host), n in sorted(tally.shapes.items()))
    name = NAMES[kind]
    return Figure(
        picture(
            f"{kind.value}-jobs",
            f"How many {name} there are of each world size and number of devices per host",
            (width, 1.5 + 0.26 * hosted),
            draw,
            note,
        ),
        f"Shapes of jobs that the {tally.count:,} {name} ran on; darker (on a dark screen, "
        "brighter) is more. Plan only for shapes that lie among these.",
        (Table("jobs", ("world size", "devices per host", name), rows),),
    )


def _loads(tally: CollectiveTally, note: str) -> Figure:
    panels = (
        (tally.batch, "global batch size, samples"),
        (tally.imbalance, "largest / mean dims of a device"),
        (tally.skew_ms, "latest start after the first, ms"),
    )

    def draw(canvas: Canvas, theme: Theme) -> None:
        for axes, (counted, label) in zip(canvas.subplots(1, 3), panels, strict=True):
            histogram(axes, theme, counted, label, "all-to-alls", color=2)

    return Figure(
        picture(
            "comm-loads",
            "Histograms of batch size, imbalance of dims and start skew of all-to-alls",
            (WIDTH, 2.9),
            draw,
            note,
        ),
        "Batches, how unevenly dims lie on devices (1: equal), and how far apart devices start "
        "(the leftmost bar also holds starts at once).",
        tuple(count_table(label, label, counted, "all-to-alls") for counted, label in panels),
    )


def _times(kind: Kind, tally: CollectiveTally, note: str) -> Figure:
    name = NAMES[kind]
    two = kind is Kind.COMM
    size = "sent by the busiest device" if two else "bytes on every device"
    quantities = ("forward, waiting taken off", "backward") if two else ("time",)
    counted = dict(zip(quantities, tally.times, strict=False))

    def draw(canvas: Canvas, theme: Theme) -> None:
        sizes, times, by_bytes = canvas.subplots(1, 3, width_ratios=(1, 1, 1.2))
        histogram(sizes, theme, tally.busiest_bytes, size, name, short_bytes, color=2)
        outlines(times, theme, counted, "slowest device, ms", name)
        label = "forward transfer, ms" if two else "time, ms"
        heat(by_bytes, theme, tally.by_bytes[0], size, label, name, short_bytes)

    tables = [count_table(size, "bytes", tally.busiest_bytes, name, short_bytes)]
    tables += [count_table(f"{q}, ms", "ms", one, name) for q, one in counted.items()]
    return Figure(
        picture(
            f"{kind.value}-times",
            f"Histograms of message sizes and times of {name}, and a map of one by the other",
            (WIDTH, 3.3),
            draw,
            note,
        ),
        f"Message sizes of {name}, times of the slowest device, and one by the other: a flat left "
        "end is latency, a straight slope bandwidth.",
        tuple(tables),
    )
