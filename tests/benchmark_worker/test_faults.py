"""What a worker that is killed, stopped, or cut off from its store leaves behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardwright_costmodel.dataset import Kind, list_parts, remove_orphans

from .conftest import RunWorker
from .fleet_processes import (
    MODELLED,
    ON_CPU,
    events,
    eventually,
    indices,
    worker_process,
)


def compute(out: Path | str, *more: str, samples: int = 40, part_size: int = 10) -> tuple[str, ...]:
    sizes = ("--samples", str(samples), "--part-size", str(part_size))
    return ("compute", *ON_CPU, "--out", str(out), *sizes, *more)


def parts(out: Path | str) -> int:
    return len(list_parts(str(out), Kind.COMPUTE))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_ends_in_mid_part_loses_that_part_alone(
    how: signal.Signals, worker: RunWorker, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    with worker_process(*compute(out, samples=100_000), log=log) as process:
        eventually(lambda: parts(out) >= 2, log)
        began_s = time.monotonic()
        process.send_signal(how)
        status = process.wait(timeout=20)
        assert time.monotonic() - began_s < 10
    there = indices(out)
    assert there == list(range(len(there))) and len(there) >= 20
    assert {path.suffix for path in (out / "compute").iterdir()} <= {".parquet", ".tmp"}
    if how is signal.SIGKILL:
        assert status == -signal.SIGKILL
    else:
        assert status == 128 + how
        assert events(log)[-1]["event"] == "stopped" and "Traceback" not in log.read_text()
        assert [path for path in (out / "compute").iterdir() if path.suffix == ".tmp"] == []
    # a restarted one continues behind what is there
    more = len(there) + 10
    done = worker(*compute(out, samples=more))
    assert done.returncode == 0, done.stderr
    assert indices(out) == list(range(more))
    assert [e["samples"] for e in events(done.stderr) if e["event"] == "part written"] == [10]


SLOW_TO_RENAME = """
import os, signal, sys
from fsspec.implementations.local import LocalFileSystem
from shardwright_benchmark_worker.cli import main

real = LocalFileSystem.mv

def dies(self, source, target, **kwargs):
    if target.endswith(".parquet") and "seed0-000000010-" in target:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, source, target, **kwargs)

LocalFileSystem.mv = dies
main(sys.argv[1:])
"""


def test_a_worker_killed_while_it_writes_shows_no_part(worker: RunWorker, tmp_path: Path) -> None:
    command = ("compute", *MODELLED, "--out", str(tmp_path), "--samples", "30", "--part-size", "10")
    killed = subprocess.run([sys.executable, "-c", SLOW_TO_RENAME, *command], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert indices(tmp_path) == list(range(10))
    (orphan,) = (tmp_path / "compute").glob(".*.tmp")
    assert orphan.stat().st_size > 1000, "all is written but its name"
    # what is young may be another worker's: it stays, and does no harm
    assert worker(*command).returncode == 0
    assert indices(tmp_path) == list(range(30)) and orphan.exists()
    os.utime(orphan, (0, time.time() - 3601))
    assert worker(*command).returncode == 0
    assert not orphan.exists() and indices(tmp_path) == list(range(30))


def test_orphans_of_a_dataset_that_is_not_there_are_none(tmp_path: Path) -> None:
    assert remove_orphans(str(tmp_path / "nowhere"), Kind.COMM) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("may not mount a tmpfs; run as root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_keeps_whole_parts(worker: RunWorker, tiny_disk: Path) -> None:
    out = str(tiny_disk)
    done = worker("compute", *MODELLED, "--out", out, "--samples", "5000", "--part-size", "50")
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "the store is full" in line and "No space left on device" in line
    assert "Traceback" not in done.stderr
    there = indices(out)
    assert there == list(range(len(there))) and there
    assert not list(tiny_disk.glob("compute/*.tmp")), "what could not be finished makes room"


def test_a_missing_gpu_is_a_mistake(worker: RunWorker, tmp_path: Path) -> None:
    done = worker(
        *("compute", "--device", "cuda", "--hardware", "x", "--out", str(tmp_path)),
        *("--samples", "1"),
        CUDA_VISIBLE_DEVICES="",
    )
    assert done.returncode == 2
    assert re.search(r"^error: --device cuda: torch sees no GPU", done.stderr, re.MULTILINE)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00binary", b"rows,pooling_factor\n1,2\n", None])
def test_an_unreadable_pool_is_a_mistake(
    content: bytes | None, worker: RunWorker, tmp_path: Path
) -> None:
    pool = tmp_path / "pool.csv"
    pool.mkdir() if content is None else pool.write_bytes(content)
    done = worker(*compute(tmp_path / "out", "--pool", str(pool)))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert str(pool) in line and "table pool" in line
    assert not (tmp_path / "out").exists()
