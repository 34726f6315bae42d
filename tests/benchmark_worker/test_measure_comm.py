"""Real all-to-alls among real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from shardwright_costmodel.dataset import Kind, list_parts, read_part

from .conftest import RunWorker

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
COMM = ("-m", "shardwright_benchmark_worker", "comm", "--hardware", "this-machine")


def torchrun(*arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    return subprocess.run(
        [*launcher, "--nproc-per-node", str(processes), *COMM, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_two_processes_measure_parts_once(device: str, tmp_path: Path) -> None:
    if device == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    arguments = (
        *("--device", device, "--out", str(tmp_path), "--samples", "12", "--part-size", "8"),
        *("--max-batch-size", "1024", "--max-device-dim", "256", "--max-skew-ms", "40"),
        *("--repetitions", "6", "--max-repetitions", "9"),
    )
    done = torchrun(*arguments)
    assert done.returncode == 0, done.stderr
    parts = [read_part(url, Kind.COMM) for url in list_parts(str(tmp_path), Kind.COMM)]
    assert [part.table.num_rows for part in parts] == [8, 4]
    assert parts[0].metadata.source == "measured"
    assert parts[0].metadata.fingerprint["world_size"] == "2"
    rows = [row for part in parts for row in part.table.to_pylist()]
    for row in rows:
        assert row["world_size"] == row["devices_per_host"] == 2
        assert min(*row["forward_ms"], *row["backward_ms"]) > 0
        # all ranks stopped together: because every interval was narrow, or at the limit
        assert (
            row["repetitions"] == 9
            or max(
                row["repetitions"] - 6,
                row["forward_ci_percent"] - 2,
                row["backward_ci_percent"] - 2,
            )
            <= 0
        )
        assert row["drift_percent"] is not None
    # whoever starts first waits at least for the other's start
    skewed = [row for row in rows if max(row["start_skew_ms"]) > 5]
    assert skewed
    for row in skewed:
        wait_ms = max(row["start_skew_ms"])
        early = row["start_skew_ms"].index(0.0)
        assert row["forward_ms"][early] > 0.3 * wait_ms
        assert row["forward_ms"][early] > row["forward_ms"][1 - early]
    reduced = [
        read_part(url, Kind.ALL_REDUCE) for url in list_parts(str(tmp_path), Kind.ALL_REDUCE)
    ]
    assert [part.table.num_rows for part in reduced] == [8, 4]
    times = sorted((row["num_bytes"], row) for part in reduced for row in part.table.to_pylist())
    for _, row in times:
        assert row["world_size"] == row["devices_per_host"] == 2
        assert row["repetitions"] == 9 or (row["repetitions"] == 6 and row["ci_percent"] <= 2)
        assert 0 < row["time_ms_p10"] <= row["time_ms"] <= row["time_ms_p90"]
    (least, quickest), (most, slowest) = times[0], times[-1]
    assert most > 1000 * least and slowest["time_ms"] > quickest["time_ms"]
    written = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/*")}
    again = torchrun(*arguments)
    assert again.returncode == 0
    assert again.stderr.count("parts are already there") == again.stderr.count('"parts": 2') == 2
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/*")} == written


def test_outside_torchrun_the_error_says_how_to_start(worker: RunWorker, tmp_path: Path) -> None:
    done = worker(
        *("comm", "--device", "cpu", "--hardware", "x", "--samples", "1", "--out", str(tmp_path))
    )
    assert done.returncode == 2
    assert "runs under torchrun" in done.stderr and "--nproc-per-node 2" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_single_process_is_refused(tmp_path: Path) -> None:
    done = torchrun("--device", "cpu", "--samples", "1", "--out", str(tmp_path), processes=1)
    assert done.returncode != 0
    assert "error: a collective needs at least two processes" in done.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_a_lost_rank_ends_the_others_with_an_error(how: signal.Signals, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    # long enough for both to start on a busy machine: the rendezvous has the same limit
    timeout_s = "60" if how is signal.SIGKILL else "15"
    arguments = ("--device", "cpu", "--out", str(tmp_path), "--samples", "1000000")
    arguments += ("--max-batch-size", "512", "--part-size", "20", "--timeout-s", timeout_s)
    ranks = [
        subprocess.Popen(
            [sys.executable, *COMM, *arguments],
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "OMP_NUM_THREADS": "1",
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        deadline = time.monotonic() + 60
        while not list_parts(str(tmp_path), Kind.COMM) and time.monotonic() < deadline:
            time.sleep(0.1)
        ranks[1].send_signal(how)
        _, stderr = ranks[0].communicate(timeout=90)
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert ranks[0].returncode == 1, "starting again may help"
    last = stderr.strip().splitlines()[-1]
    assert last.startswith("error: rank 0: a collective failed") and "Traceback" not in stderr
    # what was measured before is whole
    for url in list_parts(str(tmp_path), Kind.COMM):
        assert read_part(url, Kind.COMM).table.num_rows == 20
    assert not [p for p in (tmp_path / "comm").iterdir() if p.suffix != ".parquet"]
