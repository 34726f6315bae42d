"""`shardwright-worker report`: what it says of datasets whose faults are known."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from html_page import HtmlPage
from PIL import Image

from shardwright_benchmark_worker.pool import TablePool
from shardwright_benchmark_worker.report import tallies
from shardwright_benchmark_worker.report.columns import Operators
from shardwright_benchmark_worker.report.document import badge, findings, page
from shardwright_benchmark_worker.report.survey import Survey, part_urls, survey
from shardwright_benchmark_worker.roofline import get_profile
from shardwright_benchmark_worker.roofline.source import (
    all_reduce_rows,
    comm_rows,
    compute_rows,
)
from shardwright_benchmark_worker.sampling import (
    CommLimits,
    ComputeLimits,
    draw_all_reduce_sample,
    draw_comm_sample,
    draw_compute_sample,
)
from shardwright_costmodel import dataset
from shardwright_costmodel.dataset import Kind, PartMetadata, write_part
from shardwright_costmodel.errors import DatasetError

RunWorker = Callable[..., Any]
Rows = list[dict[str, Any]]
PROFILE = get_profile("nvidia-h100-sxm5-80gb")


def metadata(first: int = 0, count: int = 100, **changes: Any) -> PartMetadata:
    facts: dict[str, Any] = {
        "hardware": "test-gpu",
        "source": "measured",
        "fingerprint": {"device": "Test GPU", "host": "node-1", "driver": "550.1"},
        "software": {"torch": "2.13.0"},
        "sampling": {"seed": "0", "first_index": str(first), "last_index": str(first + count - 1)},
    }
    return PartMetadata(**(facts | changes))


@pytest.fixture(scope="module")
def operators() -> Rows:
    from shardwright_benchmark_worker.pool import read_pool

    pool: TablePool = read_pool()
    limits = ComputeLimits()
    return list(
        compute_rows(PROFILE, lambda i: draw_compute_sample(pool, limits, 0, i), range(400))
    )


@pytest.fixture(scope="module")
def all_to_alls() -> Rows:
    return list(comm_rows(PROFILE, lambda i: draw_comm_sample(CommLimits(), 0, i), range(200)))


@pytest.fixture(scope="module")
def all_reduces() -> Rows:
    return list(
        all_reduce_rows(PROFILE, lambda i: draw_all_reduce_sample(CommLimits(), 0, i), range(150))
    )


def noisy(row: dict[str, Any], rng: np.random.Generator, *times: str) -> dict[str, Any]:
    """The row with a spread of some percent, as a measured one has."""
    changed = dict(row)
    for time in times:
        median = row[time] * rng.normal(1.0, 0.01)
        changed |= {time: median, f"{time}_p10": 0.97 * median, f"{time}_p90": 1.05 * median}
    return changed


@pytest.fixture(scope="module")
def full(
    tmp_path_factory: pytest.TempPathFactory,
    operators: Rows,
    all_to_alls: Rows,
    all_reduces: Rows,
) -> str:
    """Measured, with every optional column, all four kinds, and known faults."""
    root = str(tmp_path_factory.mktemp("full"))
    rng = np.random.default_rng(0)
    compute = []
    for i, row in enumerate(operators):
        row = noisy(row, rng, "forward_ms", "backward_ms")
        row |= {"feasible": True, "placement": "device" if i % 10 else "managed"}
        row |= {"forward_ci_percent": 1.2, "backward_ci_percent": 0.9, "drift_percent": 0.3}
        if i in (3, 7):
            gone = [f"{t}_ms{s}" for t in ("forward", "backward") for s in ("", "_p10", "_p90")]
            row |= dict.fromkeys(gone) | {"feasible": False, "drift_percent": None}
        compute.append(row)
    for i in (20, 21, 22):
        compute[i]["drift_percent"] = -40.0
    compute[150]["forward_ms"] *= 30
    write_part(root, Kind.COMPUTE, "a", compute[:200], metadata(0, 200))
    other = metadata(
        300, 200, fingerprint={"device": "Test GPU", "host": "node-2", "driver": "560"}
    )
    write_part(root, Kind.COMPUTE, "b", compute[200:], other)
    comm = [
        row
        | {"wait_ms": [max(row["start_skew_ms"]) - s for s in row["start_skew_ms"]]}
        | {"forward_ci_percent": 2.0, "backward_ci_percent": 1.0, "drift_percent": 1.0}
        for row in all_to_alls
    ]
    write_part(root, Kind.COMM, "a", comm, metadata(0, 200))
    reductions = [
        noisy(row, rng, "time_ms") | {"ci_percent": 1.5, "drift_percent": 16.0}
        for row in all_reduces
    ]
    write_part(root, Kind.ALL_REDUCE, "a", reductions, metadata(0, 150))
    write_part(root, Kind.REDUCE_SCATTER, "a", reductions, metadata(0, 150))
    return root


def looked_at(root: str) -> Survey:
    return survey(root, part_urls(root))


def read(found: Survey) -> HtmlPage:
    html = page(found, datetime(2026, 1, 2, tzinfo=UTC), "test 1").html()
    result = HtmlPage(html)
    result.check()
    return result


def said(found: Survey) -> str:
    """The findings, one a line."""
    return "\n".join(text for _, text in findings(found))


@pytest.fixture(scope="module")
def full_survey(full: str) -> Survey:
    return looked_at(full)


@pytest.fixture(scope="module")
def full_page(full_survey: Survey) -> HtmlPage:
    return read(full_survey)


def test_everything_is_counted(full_survey: Survey, operators: Rows) -> None:
    tally = full_survey.operators
    assert [full_survey.rows(kind) for kind in Kind] == [400, 200, 150, 150]
    assert tally.tables == sum(len(row["tables"]) for row in operators)
    assert tally.dim.counts.sum() == tally.rows.counts.sum() == tally.tables
    assert tally.batch.counts.sum() == tally.num_tables.sum() == 400
    assert sum(tally.optimizers.values()) == 400
    assert tally.placements == {"device": 360, "managed": 40}
    assert (tally.infeasible, tally.infeasible_bytes.counts.sum()) == (2, 2)
    assert tally.times[0].counts.sum() == 398
    assert tally.drift.flagged == 3
    assert tally.drift.parts == {"compute/a.parquet": (3, -40.0)}


def test_sums_are_those_of_the_rows(full_survey: Survey, operators: Rows) -> None:
    sizes = [
        sum(
            t["pooling_factor"]
            * (t["batch_size"] or row["global_batch_size"])
            * t["embedding_dim"]
            * (4 if t["weight_dtype"] == "fp32" else 2)
            for t in row["tables"]
        )
        for row in operators
    ]
    counted = full_survey.operators.gathered_bytes
    np.testing.assert_array_equal(
        counted.counts[1:], np.histogram(sizes, counted.bins.edges())[0][1:]
    )


def test_a_row_that_took_thirty_times_too_long_is_the_first_outlier(full_survey: Survey) -> None:
    worst = full_survey.worst[Kind.COMPUTE]
    first = worst.suspects()[0]
    assert (first.part, first.row, first.quantity) == ("compute/a.parquet", 150, "forward")
    assert first.time_ms / first.expected_ms == pytest.approx(30, rel=0.5)
    assert 0 < worst.far < 0.05 * worst.seen


def test_the_report_shows_every_kind_and_every_fault(full_page: HtmlPage) -> None:
    assert full_page.title == "Dataset of test-gpu (MEASURED)"
    assert len(full_page.images) >= 15
    for text in (
        "2 of 400 operators did not fit",
        "3 of 400 fused operators were measured while the device was throttled",
        "150 of 150 all-reduces were measured while",
        "samples 200 to 299 are missing so far",
        "parts differ in fingerprint: driver, fingerprint: host",
        "Reduce-scatters",
        "node-2",
        "compute/b.parquet",
        "95 % confidence of the median",
    ):
        assert text in full_page.text, text
    assert {"560", "node-2"} <= set(full_page.marks)
    assert "MODELLED" not in full_page.text


def test_outliers_of_all_kinds_are_drawn_two_by_two(full_page: HtmlPage) -> None:
    kinds = "fused operators, all-to-alls, all-reduces, reduce-scatters"
    (outliers,) = (one for one in full_page.images if one.alt.endswith(f"times of {kinds}"))
    width, height = Image.open(io.BytesIO(outliers.light)).size
    assert 0.8 < height / width < 1.2, "four in a row are too narrow to read"


def test_waiting_is_taken_off_forward_times(full_survey: Survey, all_to_alls: Rows) -> None:
    slowest = [
        max(
            forward - (max(row["start_skew_ms"]) - skew)
            for forward, skew in zip(row["forward_ms"], row["start_skew_ms"], strict=True)
        )
        for row in all_to_alls
    ]
    times = full_survey.collectives[Kind.COMM].times[0]
    np.testing.assert_array_equal(times.counts, np.histogram(slowest, times.bins.edges())[0])


def test_a_dataset_without_optional_columns_says_what_it_does_not_know(
    tmp_path: Path, operators: Rows
) -> None:
    root = str(tmp_path)
    plain = [{k: v for k, v in row.items() if k != "feasible"} for row in operators]
    write_part(root, Kind.COMPUTE, "a", plain, metadata(source="modelled"))
    shown = read(looked_at(root))
    assert "MODELLED" in shown.title
    for text in (
        "no number in this report was measured",
        "800 times have p10 = p90",
        "No part has the column drift_percent",
        "there are no all-to-alls",
        "there are no all-reduces",
    ):
        assert text in shown.text, text
    assert "there are no reduce-scatters" not in shown.text, "a roofline cannot have any"


def test_reduce_scatters_are_shown_wherever_all_reduces_are(
    tmp_path: Path, all_reduces: Rows
) -> None:
    rng = np.random.default_rng(0)
    rows = [
        noisy(row, rng, "time_ms") | {"ci_percent": 1.5, "drift_percent": 25.0 if i < 7 else 1.0}
        for i, row in enumerate(all_reduces)
    ]
    rows[120]["time_ms"] *= 30
    rows[40]["time_ms"] = float("nan")
    for kind in (Kind.ALL_REDUCE, Kind.REDUCE_SCATTER):
        write_part(str(tmp_path), kind, "a", rows[:100], metadata(0, 100))
        write_part(str(tmp_path), kind, "b", rows[100:], metadata(160, 50))
    found = looked_at(str(tmp_path))
    lines = said(found).splitlines()
    about = [line for line in lines if "all-reduce" in line or "all_reduce" in line]
    assert len(about) == 4, "no number, drift, outliers, missing samples"
    assert {of_reduce_scatters(line) for line in about} <= set(lines)
    shown = read(found)
    pictures = {image.alt for image in shown.images}
    about = [alt for alt in pictures if "all-reduce" in alt]
    assert len(about) == 6, "jobs, times, spread, confidence, drift, outliers"
    for alt in about:
        assert of_reduce_scatters(alt) in pictures or "reduce-scatter" in alt
    for text in ("All-reduces", "all_reduce/", "all_reduce/a.parquet", "all_reduce/b.parquet"):
        assert text in shown.text
        assert shown.text.count(text) == shown.text.count(of_reduce_scatters(text)), text


def of_reduce_scatters(text: str) -> str:
    for of_all_reduces, other in (
        ("all-reduce", "reduce-scatter"),
        ("all_reduce", "reduce_scatter"),
        ("All-reduce", "Reduce-scatter"),
    ):
        text = text.replace(of_all_reduces, other)
    return text


def test_a_measured_dataset_without_reduce_scatters_is_told_what_it_misses(
    tmp_path: Path, operators: Rows
) -> None:
    write_part(str(tmp_path), Kind.COMPUTE, "a", operators[:5], metadata())
    assert "there are no reduce-scatters; training does without" in said(looked_at(str(tmp_path)))


def test_few_rows_are_reported_too(tmp_path: Path, operators: Rows) -> None:
    write_part(str(tmp_path), Kind.COMPUTE, "a", operators[:1], metadata(0, 1))
    shown = read(looked_at(str(tmp_path)))
    assert "too few rows" in shown.text


def test_a_broken_part_is_named_and_the_others_still_count(
    tmp_path: Path, operators: Rows, all_to_alls: Rows
) -> None:
    root = str(tmp_path)
    url = write_part(root, Kind.COMPUTE, "cut", operators, metadata())
    path = Path(url.removeprefix("file://"))
    path.write_bytes(path.read_bytes()[:5000])
    write_part(root, Kind.COMPUTE, "whole", operators, metadata())
    ragged = [dict(all_to_alls[0]), dict(all_to_alls[1]) | {"dims": [4]}]
    write_part(root, Kind.COMM, "ragged", ragged, metadata())
    found = looked_at(root)
    assert set(found.broken) == {"compute/cut.parquet", "comm/ragged.parquet"}
    assert "row 1: must have one entry per device" in found.broken["comm/ragged.parquet"]
    assert found.rows(Kind.COMPUTE) == 400
    assert "compute/cut.parquet cannot be read and is left out" in said(found)
    assert found.rows(Kind.COMM) == 0


def test_times_that_are_no_times_are_counted_and_left_out(tmp_path: Path, operators: Rows) -> None:
    rows = [dict(row) for row in operators[:100]]
    rows[4]["forward_ms"] = float("nan")
    rows[5]["backward_ms"] = -1.0
    write_part(str(tmp_path), Kind.COMPUTE, "a", rows, metadata())
    found = looked_at(str(tmp_path))
    assert found.operators.unusable == 2
    assert found.operators.times[0].counts.sum() == 98
    assert "2 of 100 fused operators have a time that is not a number above 0" in said(found)


def test_mixed_hardware_and_sources_are_the_first_thing_said(
    tmp_path: Path, operators: Rows
) -> None:
    root = str(tmp_path)
    write_part(root, Kind.COMPUTE, "a", operators[:80], metadata())
    write_part(
        root, Kind.COMPUTE, "b", operators[:80], metadata(source="modelled", hardware="other")
    )
    found = looked_at(root)
    assert badge(found)[0] == "MIXED"
    assert said(found).startswith("parts differ in hardware: test-gpu, other")


def test_runs_of_one_machine_are_one_origin(tmp_path: Path, operators: Rows) -> None:
    root = str(tmp_path)
    for i, reference_ms in enumerate(("1.5", "1.75")):
        of_run = {"device": "Test GPU", "host": "node-1", "reference_ms": reference_ms}
        write_part(root, Kind.COMPUTE, f"{i}", operators[:5], metadata(fingerprint=of_run))
    elsewhere = {"device": "Test GPU", "host": "node-1", "backend": "nccl"}
    write_part(root, Kind.COMPUTE, "2", operators[:5], metadata(fingerprint=elsewhere))
    found = looked_at(root).provenance
    assert len(found.origins) == 2
    assert found.differing() == [], "what only some parts state is no difference"
    assert found.shared()["fingerprint: backend"] == "nccl"
    (progress,) = found.progress()
    assert progress.reference_ms == "1.5 to 1.75"


def test_memory_does_not_grow_with_the_number_of_parts(
    tmp_path: Path, operators: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the sample is full after one part: what grows from then on would grow for ever
    monkeypatch.setattr(tallies, "SAMPLE", 300)
    peaks = []
    for parts in (2, 20):
        root = str(tmp_path / str(parts))
        for i in range(parts):
            write_part(root, Kind.COMPUTE, f"part-{i:03}", operators, metadata(400 * i, 400))
        urls = part_urls(root)
        tracemalloc.start()
        survey(root, urls)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0], peaks


def enlarge(url: str, times: int, group_rows: int) -> None:
    """Writes a part anew with its rows again and again, so many of them in a row group."""
    path = url.removeprefix("file://")
    table = pa.concat_tables([pq.read_table(path)] * times)
    pq.write_table(table, path, row_group_size=group_rows)


@pytest.mark.parametrize(
    ("group_rows", "growth"),
    # pages, which are read whole, grow with a row group until they are of 1 MiB
    [(200, 1.3), (10**6, 2.0)],
    ids=["many row groups", "one row group"],
)
def test_memory_does_not_grow_with_the_size_of_a_part(
    group_rows: int, growth: float, tmp_path: Path, operators: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tallies, "SAMPLE", 50)
    monkeypatch.setattr(dataset, "PIECE_ROWS", 100)
    pieces: list[tuple[int, int]] = []
    count = tallies.OperatorTally.add

    def watched(tally: tallies.OperatorTally, part: str, rows: Operators) -> None:
        pieces.append((len(rows.batch), pa.total_allocated_bytes()))
        count(tally, part, rows)

    monkeypatch.setattr(tallies.OperatorTally, "add", watched)
    peaks = []
    for times in (5, 20):
        root = str(tmp_path / str(times))
        enlarge(write_part(root, Kind.COMPUTE, "a", operators, metadata()), times, group_rows)
        pieces.clear()
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        found = looked_at(root)
        held = max(held for _, held in pieces) - before
        peaks.append((tracemalloc.get_traced_memory()[1], held))
        tracemalloc.stop()
        assert found.rows(Kind.COMPUTE) == 400 * times
        assert {rows for rows, _ in pieces} == {100}, "rows are counted piece by piece"
    (numpy_small, arrow_small), (numpy_large, arrow_large) = peaks
    assert numpy_large < growth * numpy_small and arrow_large < growth * arrow_small, peaks


def test_a_part_says_the_same_in_pieces_as_whole(
    full: str, full_survey: Survey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "PIECE_ROWS", 7)
    in_pieces = looked_at(full)
    for kind in Kind:
        worst, expected = in_pieces.worst[kind], full_survey.worst[kind]
        assert (worst.seen, worst.far) == (expected.seen, expected.far)
        assert [(s.part, s.row, s.quantity) for s in worst.suspects()] == [
            (s.part, s.row, s.quantity) for s in expected.suspects()
        ]
        tally, whole = in_pieces.tallies()[kind], full_survey.tallies()[kind]
        assert tally.drift.parts == whole.drift.parts
        assert tally.count == whole.count
        for i in range(2):
            np.testing.assert_array_equal(tally.times[i].counts, whole.times[i].counts)
            np.testing.assert_array_equal(tally.by_bytes[i].counts, whole.by_bytes[i].counts)
    assert in_pieces.provenance == full_survey.provenance
    assert said(in_pieces) == said(full_survey)


def test_a_part_that_is_broken_far_behind_counts_nowhere(
    tmp_path: Path, all_to_alls: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "PIECE_ROWS", 10)
    rows = [dict(row) for row in all_to_alls[:50]]
    rows[43]["dims"] = [4]
    write_part(str(tmp_path), Kind.COMM, "late", rows, metadata())
    found = looked_at(str(tmp_path))
    assert "column dims, row 43: must have one entry" in found.broken["comm/late.parquet"]
    assert found.rows(Kind.COMM) == 0 and found.provenance.parts == []


def test_a_folder_without_parts_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no \*.parquet part under compute/, comm/"):
        part_urls(str(tmp_path))


def test_the_command_writes_one_file(worker: RunWorker, all_reduces: Rows, tmp_path: Path) -> None:
    out = tmp_path / "out" / "report.html"
    write_part(str(tmp_path / "data"), Kind.ALL_REDUCE, "a", all_reduces, metadata())
    done = worker("report", "--data", str(tmp_path / "data"), "--out", str(out))
    assert done.returncode == 0, done.stderr
    HtmlPage(out.read_text()).check()
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]
    nothing = worker("report", "--data", str(out.parent), "--out", str(out))
    assert (nothing.returncode, nothing.stderr.count("\n")) == (2, 1)
    assert "holds no *.parquet part" in nothing.stderr
