"""Real all-to-alls among real processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest
import torch

from shardwright_benchmark_worker.sampling import CommLimits, draw_comm_sample
from shardwright_costmodel.dataset import Kind, list_parts, read_part

from .conftest import RunWorker

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
Popen = subprocess.Popen[str]
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
        for waited, took in zip(row["wait_ms"], row["forward_ms"], strict=True):
            assert 0 <= waited <= took
    # whoever starts first waits for the other, by a clock that both share
    skewed = [row for row in rows if max(row["start_skew_ms"]) > 5]
    assert skewed
    for row in skewed:
        early = row["start_skew_ms"].index(0.0)
        assert row["wait_ms"][early] > 0.3 * max(row["start_skew_ms"])
        assert row["wait_ms"][early] > row["wait_ms"][1 - early]
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
    scattered = [
        read_part(url, Kind.REDUCE_SCATTER)
        for url in list_parts(str(tmp_path), Kind.REDUCE_SCATTER)
    ]
    assert [part.table.num_rows for part in scattered] == [8, 4]
    for row in (row for part in scattered for row in part.table.to_pylist()):
        assert row["num_bytes"] % 8 == 0 and row["time_ms"] > 0
    measuring = parts[0].metadata.measuring
    assert measuring["rows"] == "8" and float(measuring["measuring_seconds"]) > 0
    written = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/*")}
    again = torchrun(*arguments)
    assert again.returncode == 0
    assert again.stderr.count("parts are already there") == again.stderr.count('"parts": 2') == 3
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("*/*")} == written


@pytest.mark.parametrize(("processes", "devices_per_host"), [(3, 1), (4, 2)])
def test_any_number_of_processes_and_hosts(
    processes: int, devices_per_host: int, tmp_path: Path
) -> None:
    done = torchrun(
        *("--device", "cpu", "--out", str(tmp_path), "--samples", "3", "--warmup", "0"),
        *("--max-batch-size", "1024", "--max-device-dim", "256", "--repetitions", "2"),
        *("--max-repetitions", "2", "--devices-per-host", str(devices_per_host)),
        *("--max-device-bytes", "1048576"),
        processes=processes,
    )
    assert done.returncode == 0, done.stderr
    for kind in (Kind.COMM, Kind.ALL_REDUCE, Kind.REDUCE_SCATTER):
        (url,) = list_parts(str(tmp_path), kind)
        for row in read_part(url, kind).table.to_pylist():
            assert (row["world_size"], row["devices_per_host"]) == (processes, devices_per_host)
            if kind is Kind.COMM:
                assert len(row["forward_ms"]) == len(row["wait_ms"]) == processes
                assert row["forward_ci_percent"] is None  # two times have no interval
            if kind is Kind.REDUCE_SCATTER:
                assert row["num_bytes"] % (4 * processes) == 0


def by_hand(rank: int, port: str, *arguments: str, within: tuple[str, ...] = ()) -> Popen:
    """One rank of two, as torchrun would start it."""
    return subprocess.Popen(
        [*within, sys.executable, *COMM, *arguments],
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


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


OTHER_CLOCK = ("unshare", "--time", "--monotonic", "1000")


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run([*OTHER_CLOCK, "true"], capture_output=True, check=False).returncode != 0,
    reason="needs the right to make a time namespace",
)
def test_hosts_with_other_clocks_measure_the_same_waits(tmp_path: Path) -> None:
    port = free_port()
    arguments = (
        *("--device", "cpu", "--out", str(tmp_path), "--samples", "3", "--warmup", "0"),
        *("--max-batch-size", "512", "--max-device-dim", "16", "--max-skew-ms", "80"),
        *("--repetitions", "5", "--max-repetitions", "5", "--max-device-bytes", "1048576"),
        *("--seed", str(seed_in_which_either_rank_is_late(samples=3, max_skew_ms=80.0))),
    )
    # the monotonic clock of rank 1 is 1000 s ahead, as that of another host may be
    ranks = [by_hand(0, port, *arguments), by_hand(1, port, *arguments, within=OTHER_CLOCK)]
    for rank in ranks:
        _, stderr = rank.communicate(timeout=120)
        assert rank.returncode == 0, stderr
    (url,) = list_parts(str(tmp_path), Kind.COMM)
    part = read_part(url, Kind.COMM)
    assert part.metadata.fingerprint["hosts"] == "2"
    assert 0 < float(part.metadata.measuring["clock_error_ms"]) < 100
    early = set()
    for row in part.table.to_pylist():
        if (skew_ms := max(row["start_skew_ms"])) > 25:
            first = row["start_skew_ms"].index(0.0)
            # an offset left in would make one rank wait all of its time, the other none of it
            assert row["wait_ms"][first] > 0.3 * skew_ms > row["wait_ms"][1 - first]
            early.add(first)
    assert early == {0, 1}


def seed_in_which_either_rank_is_late(samples: int, max_skew_ms: float) -> int:
    limits = CommLimits(
        world_size=2,
        devices_per_host=2,
        max_batch_size=512,
        max_device_dim=16,
        max_skew_ms=max_skew_ms,
        max_device_bytes=2**20,
    )
    for seed in count():
        drawn = [draw_comm_sample(limits, seed, i).start_skew_ms for i in range(samples)]
        if {int(skew.argmax()) for skew in drawn if skew.max() > 25} == {0, 1}:
            return seed
    raise AssertionError


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
    port = free_port()
    # long enough for both to start on a busy machine: the rendezvous has the same limit
    timeout_s = "60" if how is signal.SIGKILL else "15"
    arguments = ("--device", "cpu", "--out", str(tmp_path), "--samples", "1000000")
    arguments += ("--max-batch-size", "512", "--part-size", "5", "--timeout-s", timeout_s)
    arguments += ("--max-repetitions", "9")
    ranks = [by_hand(rank, port, *arguments) for rank in (0, 1)]
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
        assert read_part(url, Kind.COMM).table.num_rows == 5
    assert not [p for p in (tmp_path / "comm").iterdir() if p.suffix != ".parquet"]
