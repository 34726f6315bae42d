"""Tables of provenance: what parts have in common, where they differ, and who did how much."""

from __future__ import annotations

from shardwright_benchmark_worker.report.provenance import Provenance
from shardwright_benchmark_worker.report.survey import Survey
from shardwright_costmodel.reporting.page import Block, Cell, Mark, Prose, Table

_MOST_PARTS = 2000
_MOST_ORIGINS = 12


def same_and_different(provenance: Provenance) -> list[Block]:
    """First what all parts share, then a column for each group of parts that differ."""
    differing = provenance.differing()
    shared: list[tuple[Cell, ...]] = list(provenance.shared().items())
    blocks: list[Block] = []
    if differing:
        blocks += [
            Prose(
                f"Parts come in {len(provenance.origins)} groups. Marked values differ from the "
                "first group's."
            ),
            _differences(provenance, differing),
        ]
    else:
        blocks.append(Prose("All parts were made by the same hardware and software."))
    blocks.append(Table("The same in all parts that say so", ("what", "value"), tuple(shared)))
    return blocks


def _differences(provenance: Provenance, differing: list[str]) -> Table:
    shown = provenance.origins[:_MOST_ORIGINS]
    facts = [dict(origin.facts) for origin in shown]
    rows: list[tuple[Cell, ...]] = []
    for name in differing:
        values = [fact.get(name, "not said") for fact in facts]
        rows.append((name, values[0], *(v if v == values[0] else Mark(v) for v in values[1:])))
    counts = [
        (
            sum(1 for part in provenance.parts if part.origin == i),
            sum(part.rows for part in provenance.parts if part.origin == i),
        )
        for i in range(len(shown))
    ]
    rows.append(("parts", *(f"{parts:,}" for parts, _ in counts)))
    rows.append(("rows", *(f"{rows:,}" for _, rows in counts)))
    left_out = len(provenance.origins) - len(shown)
    more = f" ({left_out} more groups are not shown)" if left_out else ""
    heads = ("what", *(f"group {i + 1}" for i in range(len(shown))))
    return Table(f"Where parts differ{more}", heads, tuple(rows))


def progress_table(provenance: Provenance) -> Table:
    """What each worker has done."""
    return Table(
        "By worker (the host of the fingerprint, or else the device)",
        ("worker", "folder", "seed", "parts", "rows", "samples", "reference kernel, ms"),
        tuple(
            (
                p.worker,
                f"{p.kind}/",
                p.seed or "not said",
                len(p.parts),
                p.rows,
                p.indices,
                p.reference_ms,
            )
            for p in provenance.progress()
        ),
    )


def parts_table(survey: Survey) -> Table:
    """Every part with its provenance, those that cannot be read included."""
    provenance = survey.provenance
    rows: list[tuple[Cell, ...]] = [
        (Mark(part), "cannot be read", "", "", "", "") for part in survey.broken
    ]
    rows += [
        (
            part.name,
            f"{part.rows:,}",
            f"group {part.origin + 1}",
            part.worker,
            part.seed or "not said",
            "not said" if part.first is None else f"{part.first:,} to {part.last:,}",
        )
        for part in provenance.parts
    ]
    left_out = max(0, len(rows) - _MOST_PARTS)
    more = f"; {left_out:,} more are not listed" if left_out else ""
    return Table(
        f"All {len(rows):,} parts{more}",
        ("part", "rows", "provenance", "worker", "seed", "samples"),
        tuple(rows[:_MOST_PARTS]),
        folded=True,
    )
