"""Workers in processes of their own, and what they left in a dataset."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shardwright_costmodel.dataset import Kind, list_parts, read_part

H100 = "nvidia-h100-sxm5-80gb"
MODELLED = ("--device", f"roofline:{H100}")
ON_CPU = (
    *("--device", "cpu", "--hardware", "this-cpu", "--max-memory-bytes", "16777216"),
    *("--max-shards", "2", "--max-batch-size", "512", "--max-lookups", "20000"),
    *("--warmup", "0", "--repetitions", "3", "--max-repetitions", "3"),
    *("--max-drift-percent", "1000"),
)
"""Samples of some milliseconds."""


def environment(**variables: str) -> dict[str, str]:
    outside = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    return {**outside, "OMP_NUM_THREADS": "1", **variables}


@contextlib.contextmanager
def worker_process(
    *arguments: str, log: Path, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """`shardwright-worker ARGUMENTS`; it is killed at the end if it still runs."""
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "shardwright_benchmark_worker", *arguments],
            env=environment(**variables),
            stderr=stderr,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def eventually(condition: Callable[[], Any], log: Path | None = None, limit_s: float = 120) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        shown = log.read_text() if log else ""
        assert time.monotonic() < deadline_s, f"not within {limit_s} s\n{shown}"
        time.sleep(0.05)


def events(log: Path | str) -> list[dict[str, Any]]:
    """The JSON lines of a log."""
    text = log if isinstance(log, str) else log.read_text()
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def indices(root: Path | str, kind: Kind = Kind.COMPUTE) -> list[int]:
    """Sample indices in the dataset, sorted; every part must be readable and whole."""
    found: list[int] = []
    for url in list_parts(str(root), kind):
        part = read_part(url, kind)
        sampling = part.metadata.sampling
        own = range(int(sampling["first_index"]), int(sampling["last_index"]) + 1)
        assert part.table.num_rows == len(own)
        found += own
    return sorted(found)
