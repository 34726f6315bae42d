from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from shardwright_benchmark_worker.pool import TablePool
from shardwright_benchmark_worker.roofline import compute_times, get_profile
from shardwright_benchmark_worker.sampling import ComputeLimits, draw_compute_sample
from shardwright_costmodel.dataset import Kind, list_parts, read_part

from .conftest import RunWorker

H100 = "nvidia-h100-sxm5-80gb"


def modelled(kind: str, out: Path, *more: str) -> tuple[str, ...]:
    return (kind, "--device", f"roofline:{H100}", "--out", str(out), *more)


def test_a_roofline_writes_modelled_parts(
    worker: RunWorker, tmp_path: Path, pool: TablePool
) -> None:
    done = worker(*modelled("compute", tmp_path, "--samples", "700", "--part-size", "500"))
    assert done.returncode == 0, done.stderr
    parts = [read_part(url, Kind.COMPUTE) for url in list_parts(str(tmp_path), Kind.COMPUTE)]
    assert [part.table.num_rows for part in parts] == [500, 200]
    metadata = parts[1].metadata
    assert (metadata.hardware, metadata.source) == (H100, "modelled")
    assert metadata.fingerprint["device"] == f"roofline:{H100}"
    assert metadata.sampling["first_index"] == "500" and metadata.sampling["seed"] == "0"
    # row i of the dataset is sample i
    row = parts[1].table.slice(42, 1).to_pylist()[0]
    sample = draw_compute_sample(pool.part(held_out=False), ComputeLimits(), 0, 542)
    times = compute_times(get_profile(H100), [sample])
    assert row["global_batch_size"] == sample.global_batch_size
    assert [t["num_embeddings"] for t in row["tables"]] == sample.num_embeddings.tolist()
    assert row["forward_ms"] == pytest.approx(times.forward_ms[0], rel=1e-9)
    assert row["backward_ms"] == pytest.approx(times.backward_ms[0], rel=1e-9)
    assert row["forward_ms"] == row["forward_ms_p10"] == row["forward_ms_p90"]


def test_start_index_continues_the_same_sequence(worker: RunWorker, tmp_path: Path) -> None:
    whole, tail = tmp_path / "whole", tmp_path / "tail"
    assert worker(*modelled("comm", whole, "--samples", "30")).returncode == 0
    assert worker(*modelled("comm", tail, "--samples", "10", "--start-index", "20")).returncode == 0
    (a,) = (read_part(url, Kind.COMM).table for url in list_parts(str(whole), Kind.COMM))
    (b,) = (read_part(url, Kind.COMM).table for url in list_parts(str(tail), Kind.COMM))
    assert a.slice(20).to_pylist() == b.to_pylist()


def test_the_same_command_writes_the_same_bytes(worker: RunWorker, tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        assert worker(*modelled("compute", tmp_path / name, "--samples", "50")).returncode == 0
        (part,) = (tmp_path / name / "compute").iterdir()
        contents.append((part.name, part.read_bytes()))
    assert contents[0] == contents[1]


def test_a_second_run_adds_only_what_is_missing(worker: RunWorker, tmp_path: Path) -> None:
    assert (
        worker(*modelled("comm", tmp_path, "--samples", "20", "--part-size", "10")).returncode == 0
    )
    first = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "comm").iterdir()}
    done = worker(*modelled("comm", tmp_path, "--samples", "40", "--part-size", "10"))
    assert '"parts are already there' in done.stderr and '"parts": 2' in done.stderr
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "comm").iterdir()}
    assert len(after) == 4 and first.items() <= after.items()
    again = worker(
        *modelled("comm", tmp_path, "--samples", "20", "--part-size", "10", "--overwrite")
    )
    assert again.returncode == 0 and "already there" not in again.stderr


def test_options_restrict_what_is_drawn(worker: RunWorker, tmp_path: Path) -> None:
    limits = (
        "--max-shards",
        "2",
        "--optimizer",
        "adam",
        "--weight-dtype",
        "bf16",
        "--max-dim",
        "8",
    )
    assert worker(*modelled("compute", tmp_path, "--samples", "50", *limits)).returncode == 0
    (url,) = list_parts(str(tmp_path), Kind.COMPUTE)
    for row in read_part(url, Kind.COMPUTE).table.to_pylist():
        assert row["optimizer"] == "adam" and len(row["tables"]) <= 2
        assert {t["weight_dtype"] for t in row["tables"]} == {"bf16"}
        assert {t["embedding_dim"] for t in row["tables"]} <= {4, 8}


def test_a_name_of_ones_own_is_kept(worker: RunWorker, tmp_path: Path) -> None:
    done = worker(*modelled("comm", tmp_path, "--samples", "1", "--hardware", "my-h100"))
    assert done.returncode == 0
    (url,) = list_parts(str(tmp_path), Kind.COMM)
    assert read_part(url, Kind.COMM).metadata.hardware == "my-h100"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ("compute", "--device", "roofline:h100", "--samples", "1"),
            "no roofline profile named 'h100'; there are: nvidia-a100-sxm4-80gb, nvidia-h100",
        ),
        (
            ("compute", "--device", "tpu", "--samples", "1"),
            "--device must be cpu, cuda or roofline",
        ),
        (("compute", "--device", "cpu", "--samples", "1"), "--device cpu needs --hardware NAME"),
        (("comm", "--device", "cuda", "--samples", "1"), "--device cuda needs --hardware NAME"),
        (
            ("compute", "--device", f"roofline:{H100}", "--samples", "0"),
            "--samples must be at least 1",
        ),
        (
            ("compute", "--device", f"roofline:{H100}", "--samples", "1", "--max-shards", "0"),
            "--max-shards must be in 1 .. 10000, got 0",
        ),
        (
            ("compute", "--device", f"roofline:{H100}", "--samples", "1", "--pool", "/nowhere.csv"),
            "/nowhere.csv: table pool cannot be read",
        ),
        (
            ("comm", "--device", f"roofline:{H100}", "--samples", "1", "--hardware", "My GPU"),
            "--hardware must be of lower-case letters",
        ),
        (
            (
                "compute",
                "--device",
                "cpu",
                "--hardware",
                "x",
                "--samples",
                "1",
                "--optimizer",
                "adam",
            ),
            "fbgemm has no cpu kernels for adam",
        ),
    ],
)
def test_mistakes_are_one_clear_line(
    arguments: tuple[str, ...], complaint: str, worker: RunWorker, tmp_path: Path
) -> None:
    done = worker(*arguments, "--out", str(tmp_path))
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and complaint in errors[0]
    assert "Traceback" not in done.stderr


def test_a_place_that_cannot_be_written_is_one_clear_line(
    worker: RunWorker, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder", encoding="utf-8")
    done = worker(*modelled("comm", blocked, "--samples", "1"))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: cannot read or write" in done.stderr


def test_an_unknown_store_is_one_clear_line(worker: RunWorker) -> None:
    done = worker(*modelled("comm", Path("x"), "--samples", "1", "--out", "nosuch://bucket/x"))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: --out nosuch://bucket/x: cannot be opened" in done.stderr


def test_a_terminal_shows_a_bar_instead_of_log_lines(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "shardwright_benchmark_worker"]
    with subprocess.Popen(
        [*command, *modelled("comm", tmp_path, "--samples", "50")], stderr=theirs
    ):
        os.close(theirs)
        shown = b""
        # a terminal that nobody writes to any more ends with EIO
        with contextlib.suppress(OSError):
            while chunk := os.read(ours, 4096):
                shown += chunk
    os.close(ours)
    assert b"50/50" in shown and b"part written" not in shown


@pytest.mark.parametrize("arguments", [(), ("compute", "--help"), ("comm", "--help")])
def test_help_shows_the_options(arguments: tuple[str, ...], worker: RunWorker) -> None:
    out = worker(*arguments)
    assert "Usage" in out.stdout + out.stderr
