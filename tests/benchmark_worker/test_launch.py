"""`shardwright_benchmark_worker.launch`: how a job of several ranks ends, in real processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardwright_costmodel.dataset import Kind, list_parts

from .fleet_processes import environment, events, eventually, indices

LAUNCH = (sys.executable, "-m", "shardwright_benchmark_worker.launch")
TWO_RANKS = ("--standalone", "--nproc-per-node", "2", "--monitor-interval", "0.2")
SMALL = (
    *("--samples", "20", "--part-size", "10", "--max-batch-size", "512", "--max-device-dim", "64"),
    *("--max-skew-ms", "5", "--repetitions", "2", "--max-repetitions", "2", "--timeout-s", "20"),
    *("--max-drift-percent", "1000"),
)


def comm(out: Path, *more: str, device: str = "cpu") -> tuple[str, ...]:
    return ("comm", "--device", device, "--hardware", "x", "--out", str(out), *SMALL, *more)


@contextlib.contextmanager
def launched(*arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The launcher with a log of its own and its ranks'; all are stopped if they still run."""
    with (
        log.open("ab") as stderr,
        subprocess.Popen([*LAUNCH, *arguments], env=environment(), stderr=stderr) as launcher,
    ):
        try:
            yield launcher
        finally:
            # it stops its ranks, which would outlive it if it were killed
            launcher.terminate()
            try:
                launcher.wait(timeout=60)
            except subprocess.TimeoutExpired:
                launcher.kill()


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LAUNCH, *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def errors(text: str) -> list[str]:
    return re.findall(r"^error: .*", text, re.MULTILINE)


def ranks(launcher: subprocess.Popen[bytes]) -> list[int]:
    """Process ids of the ranks, without processes that ended or are none of ours."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_text() for pid in children}
    return [pid for pid, command in commands.items() if "--hardware" in command]


def parts(out: Path) -> int:
    return len(list_parts(str(out), Kind.COMM))


def test_a_mistake_of_all_ranks_is_2_and_nothing_is_started_again(tmp_path: Path) -> None:
    mistake = comm(tmp_path / "out", device="cuda")
    done = run(*TWO_RANKS, "--max-restarts", "3", *mistake, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2, done.stderr
    *of_ranks, last = errors(done.stderr)
    # a rank that is slower may be stopped before it says so; four starts would say so four times
    assert len(of_ranks) in (1, 2)
    assert all("--device cuda: torch sees no GPU" in line for line in of_ranks)
    assert " ended with 2" in last
    assert "Traceback" not in done.stderr


def test_a_mistake_that_one_rank_sees_outweighs_the_ranks_it_takes_along(tmp_path: Path) -> None:
    # rank 0 alone looks into the store, when all have joined
    (tmp_path / "file").write_text("no folder")
    done = run(*TWO_RANKS, "--max-restarts", "3", *comm(tmp_path / "file" / "out"))
    assert done.returncode == 2, done.stderr
    of_rank_0 = [line for line in errors(done.stderr) if "cannot read or write" in line]
    assert len(of_rank_0) == 1, f"started again:\n{done.stderr}"


FAILING = """
import atexit, sys
from shardwright_benchmark_worker.cli import main
atexit.register(lambda: print("taken apart"))
main(sys.argv[1:])
"""


@pytest.mark.parametrize("rank", [{}, {"RANK": "0"}])
def test_a_rank_that_fails_takes_nothing_apart(rank: dict[str, str], tmp_path: Path) -> None:
    # that would take seconds, in which other ranks may leave before it
    mistake = comm(tmp_path / "out", "--timeout-s", "0")
    command = [sys.executable, "-c", FAILING, *mistake]
    variables = environment(**rank)
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and len(errors(done.stderr)) == 1, done.stderr
    assert ("taken apart" in done.stdout) == (not rank)


@pytest.mark.parametrize(
    "arguments", [("--no-such-option", "comm"), ("--nproc-per-node", "many", "comm"), ()]
)
def test_a_mistake_in_the_options_of_torchrun_is_2(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: " in done.stderr


def test_a_killed_rank_is_started_again_as_often_as_said_and_then_1(tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    endless = comm(out, "--samples", "100000")
    with launched(*TWO_RANKS, "--max-restarts", "1", *endless, log=log) as launcher:
        eventually(lambda: parts(out), log)
        first = ranks(launcher)[1]
        # a store of the agent would keep addresses of lost ranks, which others may come to read
        assert b"TORCHELASTIC_USE_AGENT_STORE=False" in Path(f"/proc/{first}/environ").read_bytes()
        os.kill(first, signal.SIGKILL)
        before = parts(out)
        # one more may have been on its way
        eventually(lambda: parts(out) > before + 1, log)
        os.kill(ranks(launcher)[1], signal.SIGKILL)
        assert launcher.wait(timeout=120) == 1, log.read_text()
    assert "was killed by SIGKILL" in errors(log.read_text())[-1]
    assert any("already there" in event["event"] for event in events(log)), "behind the last part"
    there = indices(out, Kind.COMM)
    assert there == list(range(len(there)))
    more = len(there) + 20
    done = run(*TWO_RANKS, *comm(out, "--samples", str(more)))
    assert done.returncode == 0, done.stderr
    assert indices(out, Kind.COMM) == list(range(more)), "nothing is lost or measured twice"


def test_a_signal_ends_all_ranks(tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    endless = comm(out, "--samples", "100000")
    with launched(*TWO_RANKS, "--max-restarts", "3", *endless, log=log) as launcher:
        eventually(lambda: parts(out), log)
        started = ranks(launcher)
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(timeout=60) == 128 + signal.SIGTERM
    assert len(started) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)
    assert "Traceback" not in log.read_text()


def test_hosts_that_do_not_find_each_other_may_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    alone = ("--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}")
    done = run(*alone, "--rdzv-conf", "join_timeout=2", "comm")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert errors(done.stderr)[-1].startswith("error: the hosts of the job do not find each other")
