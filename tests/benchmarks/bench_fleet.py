"""What a fleet costs: looking at a large dataset, and time that workers do not measure in.

    .venv/bin/python -m tests.benchmarks.bench_fleet     # three minutes, on a quiet machine

Writes `results/fleet_cpu_<date>.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import fsspec
from tests.benchmarks.machine import header, table

from shardwright_benchmark_worker.footers import list_entries
from shardwright_benchmark_worker.recorder import Recording, record_part
from shardwright_benchmark_worker.status import read_status
from shardwright_costmodel.dataset import Kind, list_parts, read_part

RESULTS = Path(__file__).parent / "results"
PART_SIZE = 500
OPTIONS = (
    *("--device", "cpu", "--hardware", "this-cpu", "--max-memory-bytes", str(2**28)),
    *("--max-shards", "12", "--max-batch-size", "4096", "--num-workers", "2"),
)
MUST_MEASURE = 0.95


def main() -> None:
    """Runs both benchmarks and writes the results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=400, help="of the fleet of two workers")
    parser.add_argument("--part-size", type=int, default=50)
    arguments = parser.parse_args()
    lines = header("Fleet: a million rows, and time spent measuring", " ".join(_command()))
    lines += large_dataset(arguments.parts)
    lines += two_workers(arguments.samples, arguments.part_size)
    target = RESULTS / f"fleet_cpu_{date.today().isoformat()}.md"
    target.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


def _command() -> list[str]:
    return [".venv/bin/python", "-m", "tests.benchmarks.bench_fleet", *sys.argv[1:]]


def large_dataset(num_parts: int) -> list[str]:
    """Seconds to list, resume and survey a dataset, on a disk and on an S3 server."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        rows.append(("local disk", *_survey(folder, num_parts)))
    port = 20_000 + os.getpid() % 10_000
    server = subprocess.Popen(
        [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    _wait_for(port)
    bucket = f"bucket-{uuid.uuid4().hex}"
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(bucket)
    rows.append(("S3 (moto)", *_survey(f"s3://{bucket}/data", num_parts)))
    server.kill()
    server.wait()
    return [
        f"## A dataset of {num_parts * PART_SIZE:,} rows in {num_parts:,} parts",
        "",
        f"Parts are copies of one modelled part of {PART_SIZE} rows under the names of the others; "
        "one part is missing. Seconds:",
        "",
        *table(("store", "list", "missing_parts (resume)", "status"), rows),
        "A status reads the end of every part; listing and resuming need names only. The S3 server "
        "is a simulation in Python on the same two cores, so its seconds are mostly its own.",
        "",
    ]


def _wait_for(port: int) -> None:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)


def _survey(root: str, num_parts: int) -> list[str]:
    recording = Recording(
        out_url=root,
        kind=Kind.ALL_REDUCE,
        hardware="a-fleet",
        source="modelled",
        seed=0,
        start_index=0,
        num_samples=num_parts * PART_SIZE,
        part_size=PART_SIZE,
    )
    first, *others = recording.parts()
    row = {"world_size": 2, "devices_per_host": 2, "num_bytes": 4, "repetitions": 1}
    times = {"time_ms": 1.0, "time_ms_p10": 1.0, "time_ms_p90": 1.0}
    url = record_part(recording, first, lambda indices: ({**row, **times} for _ in indices))
    filesystem, path = fsspec.core.url_to_fs(url)
    content = filesystem.cat_file(path)
    folder = path.rpartition("/")[0]
    names = [recording.part_name(indices) for indices in others[:-1]]
    filesystem.pipe({f"{folder}/{name}.parquet": content for name in names})
    timed = (
        _seconds(lambda: len(list_entries(root, Kind.ALL_REDUCE)), num_parts - 1),
        _seconds(lambda: len(recording.missing_parts()), 1),
        _seconds(lambda: read_status(root, 60.0)[0].samples_done, (num_parts - 1) * PART_SIZE),
    )
    return [f"{seconds:.2f}" for seconds in timed]


def _seconds(work: Callable[[], int], expected: int) -> float:
    """Best of three; the answer must be right, and no listing may be a remembered one."""
    best = float("inf")
    for _ in range(3):
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        began_s = time.perf_counter()
        answer = work()
        best = min(best, time.perf_counter() - began_s)
        assert answer == expected, (answer, expected)
    return best


def two_workers(num_samples: int, part_size: int) -> list[str]:
    """What two workers, each on a core of its own, do with their time."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = ("--samples", str(num_samples), "--part-size", str(part_size))
        workers = [
            subprocess.Popen(
                ["taskset", "-c", str(index), sys.executable, "-m", "shardwright_benchmark_worker"]
                + ["compute", *OPTIONS, *sizes, "--worker-index", str(index), "--out", folder],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stderr=subprocess.PIPE,
                text=True,
            )
            for index in (0, 1)
        ]
        logs = [worker.communicate()[1] for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0], logs
        urls = list_parts(folder, Kind.COMPUTE)
        parts = [read_part(url, Kind.COMPUTE).metadata.measuring for url in urls]
    accounts = [_recorded(log) for log in logs]
    shares = [a["measuring_seconds"] / a["running_seconds"] for a in accounts]
    worst = min(shares)
    rows = [
        (
            str(index),
            str(account["samples"]),
            f"{account['running_seconds']:.1f}",
            f"{account['measuring_seconds']:.1f}",
            f"{account['drawing_seconds']:.2f}",
            f"{100 * share:.2f} %",
        )
        for index, (account, share) in enumerate(zip(accounts, shares, strict=True))
    ]
    return [
        "## Two workers, a core each",
        "",
        f"`shardwright-worker compute {' '.join(OPTIONS)} {' '.join(sizes)}`, one process a core.",
        "Running: from the first sample's start until the last part is written. Measuring: of "
        "that, without drawing samples, writing parts and heartbeats (the start of the process and "
        "the first listing come before).",
        "",
        *table(("worker", "samples", "running s", "measuring s", "drawing s", "share"), rows),
        f"Must: at least {100 * MUST_MEASURE:g} % of the time of each worker is measuring: "
        f"{'holds' if worst >= MUST_MEASURE else 'NO'} ({100 * worst:.2f} %).",
        "",
        "Of the seconds measured, by the parts' own account: " + _activities(parts) + ".",
        "",
    ]


def _recorded(log: str) -> dict[str, Any]:
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    (account,) = (line for line in lines if line["event"] == "recorded")
    return dict(account)


def _activities(parts: Sequence[dict[str, str]]) -> str:
    names = sorted({name for part in parts for name in part if name.endswith("_seconds")})
    sums = {name: sum(float(part.get(name, 0)) for part in parts) for name in names}
    total = sums.pop("total_seconds", 0.0) or 1.0
    return ", ".join(
        f"{name.removesuffix('_seconds')} {100 * value / total:.1f} %"
        for name, value in sorted(sums.items(), key=lambda item: -item[1])
    )


if __name__ == "__main__":
    main()
