"""The table of published measurements covers every row, and is the roofline's of today."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from tests.benchmarks.bench_published import RESULTS, draw, report_lines
from tests.benchmarks.published import Comparison, _read, comparisons

REPORT = sorted(RESULTS.glob("roofline_published_*.md"))[-1]


@pytest.fixture(scope="module")
def rows() -> list[Comparison]:
    return comparisons()


def test_every_published_row_is_predicted_or_says_why_not(rows: list[Comparison]) -> None:
    published = [*_read("kernels.csv"), *_read("all_to_all.csv")]
    assert len(rows) == len(published) + 10
    for row in rows:
        assert row.published > 0 and row.source
        assert row.standing if row.predicted is not None else row.note and not row.standing


def test_a_row_that_is_predicted_names_how_its_gpu_was_read() -> None:
    for row in _read("kernels.csv"):
        read_as_itself = row["gpu"].lower() in row["profile"]
        assert not row["profile"] or read_as_itself or "read as" in row["note"]


def test_predictions_are_as_near_as_the_worker_readme_says(rows: list[Comparison]) -> None:
    errors = defaultdict(list)
    for row in rows:
        if row.error is not None:
            errors[row.group, row.standing].append(abs(row.error))
    mean = {key: float(np.mean(values)) for key, values in errors.items()}
    assert mean["V100: embedding bags, backward", "fitted"] < 0.10
    assert mean["V100: embedding bags, forward", "not fitted"] < 0.18
    assert mean["unnamed: embedding bags, forward", "fitted"] < 0.14
    assert mean["unnamed: embedding bags, forward", "not fitted"] < 0.14
    assert mean["H100: all-to-all", "fitted"] < 0.06
    assert mean["B200: all-to-all", "its bandwidth given"] < 0.15
    assert mean["fused cost over the sum of single-table costs", "fitted"] < 0.10
    assert mean["cost at half the width over the cost at width 128", "not fitted"] < 0.10


def test_the_results_file_is_what_the_script_writes_today(rows: list[Comparison]) -> None:
    """Run the script again when the roofline or the rows have changed."""
    assert REPORT.read_text().split("\n") == report_lines(rows, REPORT.with_suffix(".png").name)


def test_the_picture_holds_every_timed_row(rows: list[Comparison], tmp_path) -> None:  # type: ignore[no-untyped-def]
    draw(rows, tmp_path / "scatter.png")
    assert (tmp_path / "scatter.png").read_bytes().startswith(b"\x89PNG")
