"""The five commands of the worker's README, run as they stand there, shortened and on a CPU."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytestmark = pytest.mark.end_to_end

README = (Path(__file__).parents[2] / "benchmark_worker" / "README.md").read_text()
SHORTER = {"--device cuda": "--device cpu", "--nproc-per-node 8": "--nproc-per-node 2"}
LESS = {
    "compute": "--samples 40 --part-size 20 --max-batch-size 512 --max-shards 2 "
    "--max-lookups 20000 --repetitions 3 --max-repetitions 3 --max-drift-percent 1000",
    "comm": "--samples 40 --part-size 20 --max-batch-size 512 --max-skew-ms 1 --max-device-dim 64 "
    "--repetitions 2 --max-repetitions 2 --max-drift-percent 1000",
    "shardwright-train": "--epochs 2 --max-minutes 0.05 --no-report",
    "shardwright-server": "--port 0 --metrics-port 0",
}
"""Options added to a command that has the word; later ones win."""


def commands() -> list[str]:
    (block,) = re.findall(r"<!-- five commands.*?-->\n```sh\n(.*?)```", README, re.DOTALL)
    return str(block).splitlines()


def shortened(command: str) -> list[str]:
    for long, short in SHORTER.items():
        command = command.replace(long, short)
    words = shlex.split(command)
    for word, more in LESS.items():
        if word in words:
            words += shlex.split(more)
    return words


def test_five_commands_lead_from_nothing_to_a_served_bundle(tmp_path: Path) -> None:
    *measure_and_train, serve = commands()
    assert len(measure_and_train) == 4
    bin_folder = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    for command in measure_and_train:
        done = subprocess.run(
            shortened(command), cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if " status " in command:
            assert done.stdout.count("40 of 40 samples (100.0 %)") >= 3
    with subprocess.Popen(
        shortened(serve), cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as server:
        deadline = threading.Timer(240, server.kill)  # it may compile the search first
        deadline.start()
        assert server.stderr is not None
        log = ""
        for line in server.stderr:
            log += line
            if "serving" in line:
                break
        server.terminate()
        deadline.cancel()
    assert '"serving"' in log, log
    assert list((tmp_path / "BUNDLES" / "my-cluster").glob("*/manifest.json"))
