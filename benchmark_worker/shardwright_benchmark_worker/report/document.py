"""From what was counted to a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from shardwright_benchmark_worker.report.bins import Histogram2D
from shardwright_benchmark_worker.report.collective_figures import NAMES, collective_figures
from shardwright_benchmark_worker.report.neighbours import FAR, FAR_FACTOR
from shardwright_benchmark_worker.report.operator_figures import operator_figures
from shardwright_benchmark_worker.report.origins import (
    parts_table,
    progress_table,
    same_and_different,
)
from shardwright_benchmark_worker.report.quality_figures import (
    drift_figure,
    noise_figures,
    suspects_figure,
    suspects_table,
)
from shardwright_benchmark_worker.report.survey import Survey
from shardwright_benchmark_worker.report.tallies import DRIFT_PERCENT, Noise
from shardwright_costmodel.dataset import Kind
from shardwright_costmodel.reporting.page import (
    Block,
    Findings,
    Level,
    Page,
    Prose,
    Section,
    Table,
)

NOISY_PERCENT = 10.0
"""Half of the rows spreading more than this is worth a line among the findings."""


def page(survey: Survey, created_at: datetime, software: str) -> Page:
    """The report of a dataset.

    Args:
        survey: What was counted.
        created_at: Moment of the report.
        software: Name and version of what wrote it, for the last line.
    """
    word, meaning, level = badge(survey)
    hardware = ", ".join(survey.provenance.values("hardware")) or "no readable part"
    note = f"{hardware} · {word}"
    sections = [
        Section("At a glance", [Findings(tuple(_worst_first(survey))), _summary(survey)]),
        *_measurements(survey, note),
        Section("Noise", _noise(survey, note)),
        Section("Drift", _drift(survey, note)),
        Section("Outliers", _suspects(survey, note)),
        Section("Provenance", _origins(survey)),
        Section("Progress", [progress_table(survey.provenance), parts_table(survey)]),
    ]
    return Page(
        title=f"Dataset of {hardware}",
        lead=survey.url,
        badge=word,
        badge_meaning=meaning,
        badge_level=level,
        sections=sections,
        footer=f"Written {created_at:%Y-%m-%d %H:%M} UTC by {software}",
    )


def badge(survey: Survey) -> tuple[str, str, Level]:
    """Where the numbers come from: a word, what it means, and how to take it."""
    sources = survey.provenance.values("source")
    if sources == ["measured"]:
        return "MEASURED", "on the hardware named below.", Level.GOOD
    if sources == ["modelled"]:
        return (
            "MODELLED",
            "by an analytic model of the hardware: no number in this report was measured.",
            Level.WARNING,
        )
    if not sources:
        return "UNKNOWN", "no part could be read.", Level.WARNING
    return (
        "MIXED",
        f"sources in one dataset: {', '.join(sources)}. Training refuses it.",
        Level.WARNING,
    )


def _worst_first(survey: Survey) -> list[tuple[Level, str]]:
    order = (Level.WARNING, Level.NOTICE, Level.GOOD)
    return sorted(findings(survey), key=lambda finding: order.index(finding[0]))


def findings(survey: Survey) -> Iterator[tuple[Level, str]]:
    """What deserves a look."""
    for part, fault in survey.broken.items():
        yield Level.WARNING, f"{part} cannot be read and is left out: {fault}"
    for fact in ("hardware", "source"):
        found = survey.provenance.values(fact)
        if len(found) > 1:
            yield Level.WARNING, f"parts differ in {fact}: {', '.join(found)}; train each apart"
    yield from _row_findings(survey)
    differing = [f for f in survey.provenance.differing() if f not in ("hardware", "source")]
    if differing:
        yield Level.NOTICE, f"parts differ in {', '.join(differing)} (see Provenance)"
    for folder, seed, first, last in survey.provenance.gaps()[:5]:
        yield (
            Level.NOTICE,
            f"{folder}/, seed {seed}: samples {first:,} to {last:,} are missing so far",
        )
    for kind in Kind:
        if not survey.rows(kind) and (use := _use(kind, survey)):
            yield Level.NOTICE, f"there are no {NAMES[kind]}; {use}"
    parts = len(survey.provenance.parts)
    yield Level.GOOD, f"{parts:,} parts were read to the end"


def _use(kind: Kind, survey: Survey) -> str:
    """What rows of a kind are needed for; empty where there can be none."""
    if kind is not Kind.REDUCE_SCATTER:
        return "training needs some"
    if survey.provenance.values("source") == ["modelled"]:
        # the analytic model has none
        return ""
    return "training does without, but cannot tell how good costs of row-wise tables are"


def _row_findings(survey: Survey) -> Iterator[tuple[Level, str]]:
    operators = survey.operators
    for kind, tally in survey.tallies().items():
        rows = survey.rows(kind)
        if tally.unusable:
            yield (
                Level.WARNING,
                f"{_share(tally.unusable, rows)} {NAMES[kind]} have a time that is not a number "
                "above 0; training refuses them",
            )
        if tally.drift.flagged:
            yield (
                Level.WARNING,
                f"{_share(tally.drift.flagged, rows)} {NAMES[kind]} were measured while the "
                f"device was throttled or shared (drift of {DRIFT_PERCENT:g} % or more)",
            )
        for quantity, noise in _noises(kind, tally.noise):
            typical = _typical(noise.spread, noise.exact)
            if typical > NOISY_PERCENT:
                yield (
                    Level.NOTICE,
                    f"{quantity}: from p10 to p90 it is {typical:.0f} % of the median in half of "
                    "the rows",
                )
        far = survey.worst[kind].far
        if far:
            yield (
                Level.NOTICE,
                f"{_share(far, survey.worst[kind].seen)} times of {NAMES[kind]} are outliers",
            )
    if operators.infeasible:
        yield (
            Level.NOTICE,
            f"{_share(operators.infeasible, operators.count)} operators did not fit into "
            "the device's memory; training leaves them out",
        )


def _share(number: int, of: int) -> str:
    return f"{number:,} of {of:,}" if of else f"{number:,}"


def _typical(noise: Histogram2D, exact: int) -> float:
    """Median percentage over all rows, 0 when there are none."""
    by_percent = noise.counts.sum(axis=0)
    if not by_percent.sum():
        return 0.0
    rising = exact + by_percent.cumsum()
    place = int((rising >= 0.5 * rising[-1]).argmax())
    edges = noise.y.edges()
    return 0.0 if exact >= 0.5 * rising[-1] else float((edges[place] * edges[place + 1]) ** 0.5)


def _summary(survey: Survey) -> Table:
    kinds = [kind for kind in Kind if survey.rows(kind)]
    parts = {kind: [p for p in survey.provenance.parts if p.kind is kind] for kind in kinds}
    tallies = survey.tallies()
    heads = ("folder", "rows of", "parts", "rows", "infeasible", "drifted", "unusable", "outliers")
    return Table(
        "What there is",
        heads,
        tuple(
            (
                f"{kind.value}/",
                NAMES[kind],
                len(parts[kind]),
                survey.rows(kind),
                survey.operators.infeasible if kind is Kind.COMPUTE else 0,
                tallies[kind].drift.flagged,
                tallies[kind].unusable,
                survey.worst[kind].far,
            )
            for kind in kinds
        ),
    )


def _measurements(survey: Survey, note: str) -> Iterator[Section]:
    if survey.operators.count:
        yield Section("Fused operators", operator_figures(survey.operators, note))
    for kind, tally in survey.collectives.items():
        if tally.count:
            title = NAMES[kind].capitalize()
            yield Section(title, collective_figures(kind, tally, note))


def _noises(kind: Kind, noises: Sequence[Noise]) -> list[tuple[str, Noise]]:
    names = {
        Kind.COMPUTE: ("operator forward", "operator backward"),
        Kind.COMM: ("all-to-all forward", "all-to-all backward"),
        Kind.ALL_REDUCE: ("all-reduce",),
        Kind.REDUCE_SCATTER: ("reduce-scatter",),
    }
    return list(zip(names[kind], noises, strict=False))


def _noise(survey: Survey, note: str) -> list[Block]:
    named = dict(
        pair for kind, tally in survey.tallies().items() for pair in _noises(kind, tally.noise)
    )
    blocks: list[Block] = [
        *noise_figures(
            "spread from p10 to p90", "spread", {n: x.spread for n, x in named.items()}, note
        ),
        *noise_figures(
            "95 % confidence of the median, ±",
            "confidence",
            {n: x.ci for n, x in named.items()},
            note,
        ),
    ]
    exact = sum(noise.exact for noise in named.values())
    if exact:
        blocks.insert(
            0,
            Prose(
                f"{exact:,} times have p10 = p90: they come from an analytic model, or from a "
                "single repetition. They are not in these pictures."
            ),
        )
    return blocks or [Prose("No part says how noisy its times are.")]


def _drift(survey: Survey, note: str) -> list[Block]:
    recorded = {NAMES[k]: t.drift for k, t in survey.tallies().items() if t.drift.recorded}
    if not recorded:
        return [
            Prose(
                "No part has the column drift_percent, so nobody knows whether the device was "
                "throttled or shared."
            )
        ]
    blocks: list[Block] = [drift_figure({n: d.sizes for n, d in recorded.items()}, note)]
    flagged = [
        (part, rows, round(worst, 1))
        for drift in recorded.values()
        for part, (rows, worst) in sorted(drift.parts.items(), key=lambda item: -item[1][0])[:10]
    ]
    if flagged:
        heads = ("part", "flagged rows", "worst drift, %")
        blocks.append(Table("Parts with the most flagged rows", heads, tuple(flagged)))
    return blocks


def _suspects(survey: Survey, note: str) -> list[Block]:
    worst = {NAMES[kind]: one for kind, one in survey.worst.items() if one.seen}
    if not worst:
        return [Prose("There are too few rows of a kind to compare them with each other.")]
    return [
        Prose(
            f"Listed is what lies {FAR:g} robust standard deviations and a factor of "
            f"{FAR_FACTOR:g} or more from what rows of its size took. That is a question, not a "
            "verdict: an unusual row that is right looks the same."
        ),
        suspects_figure(worst, note),
        *(suspects_table(name, one.suspects()) for name, one in worst.items() if one.far),
    ]


def _origins(survey: Survey) -> list[Block]:
    if not survey.provenance.origins:
        return [Prose("No part could be read.")]
    return same_and_different(survey.provenance)
