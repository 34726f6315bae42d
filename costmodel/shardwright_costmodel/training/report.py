"""The report of a training: one HTML page and its pictures, published beside the bundle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from shardwright.domain import CostModelSource
from shardwright_costmodel.bundle import REPORT_NAME, Manifest
from shardwright_costmodel.reporting.page import (
    Block,
    Cell,
    Figure,
    Findings,
    Level,
    Page,
    Prose,
    Section,
    Table,
)
from shardwright_costmodel.training.judge import UNSEEN, Predictions
from shardwright_costmodel.training.report_figures import (
    errors_by_condition,
    learning_curves,
    predicted_against,
    signed_errors,
)

if TYPE_CHECKING:
    from shardwright_costmodel.training.trainer import TrainingRun

_CONDITIONS = {
    "compute": ("tables", "mean dim", "batch size"),
    "forward_comm": ("world size", "hosts", "batch size"),
    "backward_comm": ("world size", "hosts", "batch size"),
    "all_reduce": ("world size", "hosts", "bytes"),
    "reduce_scatter": ("world size", "hosts", "bytes"),
}
_EARLY_PERCENT = 5.0
"""A fit whose best epoch lies in the last so many percent may have had more to learn."""


def with_report(run: TrainingRun) -> TrainingRun:
    """The same run, whose bundle is published together with its report."""
    attachments = {**run.bundle.attachments, **report_files(run)}
    return replace(run, bundle=replace(run.bundle, attachments=attachments))


def report_files(run: TrainingRun) -> dict[str, bytes]:
    """The report of a training, by file name: `report.html`, and each picture as a PNG.

    The page needs no other file: the pictures are in it; as files they are for slides and READMEs.
    """
    page = report_page(run)
    pictures = {f"report-{picture.name}.png": picture.light for picture in page.pictures()}
    return {REPORT_NAME: page.html().encode(), **pictures}


def report_page(run: TrainingRun) -> Page:
    """The report of a training."""
    manifest = run.bundle.manifest
    measured = manifest.source is CostModelSource.MEASURED
    note = f"{manifest.hardware} {manifest.version} · {manifest.source.value.upper()}"
    return Page(
        title=f"Cost model of {manifest.hardware}",
        lead=f"{manifest.name}, version {manifest.version}, trained "
        f"{manifest.created_at:%Y-%m-%d %H:%M} UTC",
        badge=manifest.source.value.upper(),
        badge_meaning=(
            "on the hardware named below."
            if measured
            else "by an analytic model of the hardware: no time in this report was measured."
        ),
        badge_level=Level.GOOD if measured else Level.WARNING,
        sections=[
            Section("At a glance", [Findings(tuple(_findings(run))), _accuracy(manifest)]),
            Section("Predictions", list(_predictions(run, measured, note))),
            Section("Where it errs", list(_errors(run, note))),
            Section("Learning curves", [learning_curves(run.fits, note)]),
            Section("Training range", [_range_prose(), _training_range(manifest)]),
            Section("Provenance", list(_provenance(manifest))),
        ],
        footer="Written by shardwright-train "
        f"{manifest.software.get('shardwright-costmodel', '')}. The server loads the graphs and "
        "the manifest beside this page, never the page.",
    )


def _findings(run: TrainingRun) -> Iterator[tuple[Level, str]]:
    worst = max(
        (p.accuracy() for p in run.predictions if not p.quantity.endswith(UNSEEN)),
        key=lambda accuracy: accuracy.mape_percent,
    )
    yield (
        Level.WARNING if worst.mape_percent > 10 else Level.GOOD,
        f"the largest mean error on held-out data is {worst.mape_percent:.2f} % "
        f"({worst.quantity.replace('_', ' ')})",
    )
    for stage, result in run.fits.items():
        if result.best_epoch + 1 > (1 - _EARLY_PERCENT / 100) * result.epochs:
            yield (
                Level.NOTICE,
                f"{stage.replace('_', ' ')}: the best of {result.epochs} epochs was number "
                f"{result.best_epoch + 1}; more --epochs may make it more accurate",
            )
    unseen = [p.quantity for p in run.predictions if p.quantity.endswith(UNSEEN)]
    if not unseen:
        yield (
            Level.NOTICE,
            "no --unseen dataset: nothing here says how it does on tables and world sizes that "
            "the training data never had",
        )


def _accuracy(manifest: Manifest) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            accuracy.quantity,
            f"{accuracy.mape_percent:.2f}",
            f"{accuracy.kendall_tau:.4f}",
            accuracy.num_measurements,
            _percent(manifest.mean_floor_ratio.get(accuracy.quantity)),
        )
        for accuracy in manifest.accuracy
    ]
    heads = ("quantity", "mean error %", "Kendall tau", "values", "floor / prediction")
    return Table("Accuracy on data that no fit has seen", heads, tuple(rows))


def _percent(ratio: float | None) -> str:
    return "" if ratio is None else f"{100 * ratio:.1f} %"


def _predictions(run: TrainingRun, measured: bool, note: str) -> Iterator[Figure]:
    truth = "measured" if measured else "analytic model"
    held_out = [
        p for p in run.predictions if not p.quantity.endswith(UNSEEN) and p.quantity != "compute"
    ]
    unseen = [
        p
        for p in run.predictions
        if p.quantity.endswith(UNSEEN) and p.quantity != f"compute{UNSEEN}"
    ]
    what = "A tenth of the data, held out by combination."
    yield predicted_against("predictions", held_out, truth, what, note)
    yield signed_errors(held_out, truth, note)
    if unseen:
        what = "The dataset given as --unseen: of kinds that the training data never had."
        yield predicted_against("predictions-unseen", unseen, truth, what, note)


def _errors(run: TrainingRun, note: str) -> Iterator[Figure]:
    of: Mapping[str, Predictions] = {p.quantity: p for p in run.predictions}
    for quantity, names in _CONDITIONS.items():
        found = [of[name] for name in (quantity, quantity + UNSEEN) if name in of]
        if found:
            yield errors_by_condition(found, names, note)


def _range_prose() -> Prose:
    return Prose(
        "Least and largest value of each input column in the training data. A request outside "
        "gets an answer with a warning."
    )


def _training_range(manifest: Manifest) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (column, low, high) for column, (low, high) in manifest.training_range.items()
    ]
    return Table("Training range", ("column", "least", "largest"), tuple(rows))


def _provenance(manifest: Manifest) -> Iterator[Block]:
    counts: dict[str, int] = {
        "fused operators": manifest.num_compute_measurements,
        "all-to-alls": manifest.num_comm_measurements,
        "all-reduces": manifest.num_all_reduce_measurements,
        **{f"left out: {reason}": n for reason, n in manifest.num_left_out.items()},
    }
    yield Table("Trained on", ("kind", "rows"), tuple(counts.items()))
    several = {
        "Hardware fingerprint: what measured": manifest.fingerprint,
        "How the rows were drawn": manifest.sampling,
    }
    facts = {
        **{c: {name: ", ".join(v) for name, v in of.items()} for c, of in several.items()},
        "Training": manifest.training,
        "Software": manifest.software,
        "Files and their sha256": manifest.files,
    }
    for caption, rows in facts.items():
        if rows:
            yield Table(caption, ("what", "value"), tuple(rows.items()))
