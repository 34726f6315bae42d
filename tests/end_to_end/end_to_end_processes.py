"""Runs the installed commands as a user would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BIN = Path(sys.executable).parent
REPOSITORY = Path(__file__).resolve().parents[2]


def run(*command: str | Path, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
    """Runs a command of the environment; a failure shows what it printed."""
    program, *arguments = map(str, command)
    done = subprocess.run(
        [str(BIN / program), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done


@contextmanager
def serving(bundles: Path, log: Path) -> Iterator[str]:
    """A real server process on free ports; yields its address."""
    with log.open("w") as file:
        server = subprocess.Popen(
            [
                str(BIN / "shardwright-server"),
                *("--bundles", str(bundles), "--host", "127.0.0.1"),
                *("--port", "0", "--metrics-port", "0", "--log-format", "json"),
            ],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield f"127.0.0.1:{_wait_for_port(server, log)}"
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0, log.read_text()


def _wait_for_port(server: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        for line in log.read_text().splitlines():
            if '"serving"' in line:
                return int(json.loads(line)["port"])
        time.sleep(0.1)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")
