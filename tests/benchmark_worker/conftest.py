from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from shardwright_benchmark_worker.pool import TablePool, read_pool

RunWorker = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def pool() -> TablePool:
    return read_pool()


@pytest.fixture
def worker() -> RunWorker:
    """Runs `shardwright-worker` in a process of its own, outside torchrun."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        outside = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
        return subprocess.run(
            [sys.executable, "-m", "shardwright_benchmark_worker", *arguments],
            env={**outside, "OMP_NUM_THREADS": "1", **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run
