"""The demo stops what it starts, whatever happens to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from end_to_end_processes import BIN, REPOSITORY

DEMO = REPOSITORY / "client/examples/demo.sh"


def servers_logging_to(folder: Path) -> list[int]:
    """Processes that have a file of the folder open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = [os.readlink(fd) for fd in (process / "fd").iterdir()]
        except OSError:
            continue
        if any(file.startswith(str(folder)) for file in files):
            found.append(int(process.name))
    return found


def test_it_writes_the_request_and_a_plan_that_fits_and_beats_every_baseline(
    tmp_path: Path,
) -> None:
    done = subprocess.run([DEMO, BIN, tmp_path], capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    request = json.loads((tmp_path / "request.json").read_text())
    response = json.loads((tmp_path / "response.json").read_text())
    assert {s["table"] for s in response["plan"]["shards"]} == {
        t["name"] for t in request["tables"]
    }
    assert len(response["devices"]) == request["cluster"]["num_devices"] == 8
    baselines = [b["cost_ms"] for b in response["baselines"] if b["feasible"]]
    assert baselines and response["cost_ms"] < min(baselines)
    assert response["cost_model"]["source"] == "COST_MODEL_SOURCE_MODELLED"
    assert f"{response['cost_ms']:.2f}" in done.stdout
    assert servers_logging_to(tmp_path) == []


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_server_behind(tmp_path: Path, sent: signal.Signals) -> None:
    demo = subprocess.Popen(
        [DEMO, BIN, tmp_path], stdout=subprocess.DEVNULL, start_new_session=True
    )
    log = tmp_path / "server.log"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (log.exists() and log.stat().st_size):
        time.sleep(0.002)
    # held, so that it cannot end before it is interrupted
    os.killpg(demo.pid, signal.SIGSTOP)
    assert servers_logging_to(tmp_path), "no server was started"

    os.killpg(demo.pid, sent)
    os.killpg(demo.pid, signal.SIGCONT)

    assert demo.wait(timeout=60) != 0
    assert servers_logging_to(tmp_path) == []
