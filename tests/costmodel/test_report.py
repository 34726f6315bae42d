"""The report of a training: made of a real one, published beside its bundle."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from html_page import HtmlPage, require_picture
from rich.console import Console

from shardwright.domain import CostModelSource
from shardwright_costmodel.bundle import Bundle, read_bundle
from shardwright_costmodel.registry import Registry
from shardwright_costmodel.training.cli import reported
from shardwright_costmodel.training.judge import UNSEEN, Predictions
from shardwright_costmodel.training.report import report_files, report_page, with_report
from shardwright_costmodel.training.report_figures import error_groups
from shardwright_costmodel.training.trainer import TrainingRun


@pytest.fixture(scope="module")
def run(training_run: TrainingRun) -> TrainingRun:
    """That of the dataset, whose held-out measurements also stand for unseen ones."""
    predictions = training_run.predictions
    unseen = tuple(replace(one, quantity=one.quantity + UNSEEN) for one in predictions)
    accuracy = tuple(one.accuracy() for one in predictions + unseen)
    manifest = training_run.bundle.manifest.model_copy(update={"accuracy": accuracy})
    bundle = replace(training_run.bundle, manifest=manifest)
    return replace(training_run, bundle=bundle, predictions=predictions + unseen)


@pytest.fixture(scope="module")
def files(run: TrainingRun) -> dict[str, bytes]:
    return report_files(run)


@pytest.fixture(scope="module")
def page(files: dict[str, bytes]) -> HtmlPage:
    return HtmlPage(files["report.html"].decode())


def test_the_page_needs_no_other_file(page: HtmlPage) -> None:
    page.check()
    assert len(page.images) >= 7


def test_the_page_says_what_the_manifest_says(page: HtmlPage, run: TrainingRun) -> None:
    manifest = run.bundle.manifest
    assert page.title == "Cost model of test-machine (MODELLED)"
    expected = [manifest.version, manifest.name, f"{manifest.num_compute_measurements:,}"]
    expected += [f"{a.mape_percent:.2f}" for a in manifest.accuracy]
    expected += [f"{a.kendall_tau:.4f}" for a in manifest.accuracy]
    expected += [a.quantity for a in manifest.accuracy]
    expected += [*manifest.training_range, *manifest.software, *manifest.files.values()]
    expected += ["no time in this report was measured", "learning curves".capitalize()]
    for text in expected:
        assert text in page.text, text


def test_every_picture_is_a_file_too(files: dict[str, bytes], page: HtmlPage) -> None:
    pictures = {name: content for name, content in files.items() if name.endswith(".png")}
    for name in ("learning-curves", "predictions", "predictions-unseen", "error-compute"):
        assert f"report-{name}.png" in pictures
    for content in pictures.values():
        require_picture(content)
    assert [image.light for image in page.images] == list(pictures.values())


def test_measured_and_modelled_are_never_mistaken(
    run: TrainingRun, files: dict[str, bytes]
) -> None:
    manifest = run.bundle.manifest.model_copy(update={"source": CostModelSource.MEASURED})
    measured = replace(
        run,
        bundle=Bundle(manifest, run.bundle.graphs),
        predictions=run.predictions[:1],
        fits={"compute": run.fits["compute"]},
    )
    shown = report_page(measured)
    html = shown.html()
    assert "MEASURED" in html and "MODELLED" not in html and "analytic model" not in html
    curves = next(p for p in shown.pictures() if p.name == "learning-curves")
    assert curves.light != files["report-learning-curves.png"]
    assert "no --unseen dataset" in HtmlPage(html).text


def test_the_report_is_published_with_the_bundle_and_is_no_part_of_it(
    run: TrainingRun, files: dict[str, bytes], tmp_path: Path
) -> None:
    reported = replace(run, bundle=replace(run.bundle, attachments=files))
    assert reported.bundle.manifest == run.bundle.manifest
    registry = Registry(str(tmp_path))
    entry = registry.publish(reported.bundle)
    folder = Path(entry.url.removeprefix("file://"))
    for name, content in files.items():
        assert (folder / name).read_bytes() == content
        assert name not in run.bundle.manifest.files
    # what is served does not depend on the report, however broken
    (folder / "report.html").write_text("tampered")
    assert read_bundle(entry.url).graphs == dict(run.bundle.graphs)
    assert len(registry.list()) == 1


def test_a_run_takes_its_report_along(run: TrainingRun) -> None:
    small = replace(run, predictions=run.predictions[:1])
    assert "report.html" in with_report(small).bundle.attachments
    assert not small.bundle.attachments


def test_a_training_outlives_a_report_that_fails(training_run: TrainingRun) -> None:
    nothing_to_draw = replace(training_run, predictions=())
    log = Console(file=io.StringIO(), width=200)
    assert reported(nothing_to_draw, log) is nothing_to_draw
    assert "published without a report" in log.file.getvalue()  # type: ignore[attr-defined]


def test_errors_are_grouped_by_what_was_measured() -> None:
    measured = np.array([1.0, 1.0, 2.0, 4.0], np.float32)
    predicted = np.array([1.1, 0.9, 2.0, 5.0], np.float32)
    tables = np.array([1, 1, 2, 40], np.float32)
    groups = error_groups(Predictions("compute", measured, predicted, {"tables": tables}), "tables")
    assert [(g.label, g.count) for g in groups] == [("1", 2), ("2", 1), ("40", 1)]
    assert [g.mean for g in groups] == pytest.approx([10.0, 0.0, 25.0], abs=1e-4)


def test_many_values_are_grouped_by_powers_of_two() -> None:
    values = np.arange(1, 101, dtype=np.float32)
    one = Predictions("compute", values, values, {"tables": values})
    groups = error_groups(one, "tables")
    assert [g.low for g in groups] == [1, 2, 4, 8, 16, 32, 64]
    assert sum(g.count for g in groups) == 100


def test_conditions_are_those_of_the_held_out_measurements(run: TrainingRun) -> None:
    by_name = {p.quantity: p for p in run.predictions}
    tables = by_name["compute"].conditions["tables"]
    assert len(tables) == len(by_name["compute"].measured_ms)
    assert set(np.unique(tables)) <= {1, 2, 3, 4, 5, 6}
    for quantity in ("forward_comm", "all_reduce"):
        world = by_name[quantity].conditions["world size"]
        assert len(world) == len(by_name[quantity].measured_ms)
        assert world.min() >= 2
