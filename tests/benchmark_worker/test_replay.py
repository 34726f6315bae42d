"""Plans replayed by real processes: fbgemm and gloo, or CUDA and NCCL."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from shardwright.domain import EmbeddingTable, Optimizer, Shard

from .conftest import RunWorker
from .replay_files import (
    HARDWARE,
    MIXED_SHARDS,
    make_problem,
    make_result,
    write_request,
    write_response,
)

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
WORKER = ("-m", "shardwright_benchmark_worker", "replay")
RANK_SCRIPT = str(Path(__file__).parent / "replay_rank.py")
QUICK = ("--rounds", "2", "--warmup", "1", "--iterations", "6", "--batches", "2")


def torchrun(*arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    return subprocess.run(
        [*launcher, "--nproc-per-node", str(processes), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def needs_gpus(device: str) -> None:
    if device == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")


@pytest.fixture
def response(tmp_path: Path) -> Path:
    write_request(tmp_path / "request.json", make_problem())
    return write_response(tmp_path / "response.json", make_result(MIXED_SHARDS))


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_a_replayed_iteration_computes_what_the_unsharded_model_does(
    device: str, response: Path
) -> None:
    needs_gpus(device)
    done = torchrun(RANK_SCRIPT, device, str(response))
    assert done.returncode == 0, done.stderr
    # ranks share the launcher's output, and one's line may begin in the other's
    reports = [json.loads(found) for found in re.findall(r"REPORT (\{.*?\})", done.stdout)]
    assert sorted(report["rank"] for report in reports) == [0, 1]
    for report in reports:
        assert report["output"] < 1e-4
        assert report["step"] < 1e-4
        assert report["moved"] > 1e-2, "the step changed nothing: the comparison proves nothing"


def check_devices(plan: dict[str, Any]) -> None:
    """What holds for every measurement, fast or slow."""
    for device in plan["devices"]:
        measured = device["measured"]
        assert min(measured.values()) >= 0
        assert measured["compute_ms"] > 0 and measured["total_ms"] >= measured["compute_ms"]
        assert measured["forward_comm_ms"] > 0 and measured["backward_comm_ms"] > 0
    assert [device["device"] for device in plan["devices"]] == [0, 1]
    slowest = plan["devices"][plan["slowest_device"]]["measured"]
    assert plan["measured_cost_ms"] >= slowest["total_ms"]
    assert plan["measured_cost_ms"] >= max(d["measured"]["total_ms"] for d in plan["devices"])


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_several_plans_are_compared(device: str, tmp_path: Path) -> None:
    needs_gpus(device)
    tables = tuple(EmbeddingTable(f"t{i}", 20_000, 64, 10.0) for i in range(8))
    write_request(tmp_path / "request.json", make_problem(tables, batch_size=512))

    def plan_of(name: str, devices: list[int]) -> Path:
        shards = (Shard(t.name, d, 0, 20_000, 0, 64) for t, d in zip(tables, devices, strict=True))
        return write_response(tmp_path / f"{name}.json", make_result(tuple(shards)))

    even = plan_of("even", [0, 1] * 4)
    skewed = plan_of("skewed", [0] * 7 + [1])
    done = torchrun(*WORKER, str(even), str(skewed), "--device", device, "--json", *QUICK)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [plan["name"] for plan in answer["plans"]] == ["even", "skewed"]
    for plan in answer["plans"]:
        check_devices(plan)
        assert plan["iterations"] == 12 and len(plan["round_cost_ms"]) == 2
        assert plan["predicted_cost_ms"] == 2.375
        assert plan["devices"][1]["predicted"]["compute_ms"] == 2.0
        assert plan["cost_model"]["hardware"] == HARDWARE
    measured = [[d["measured"] for d in plan["devices"]] for plan in answer["plans"]]
    # seven tables take longer than one
    assert measured[1][0]["compute_ms"] > 2 * measured[1][1]["compute_ms"]
    assert answer["kendall_tau"] is None, "both are predicted to cost the same"


def test_the_printed_table_compares_predicted_with_measured(response: Path) -> None:
    done = torchrun(*WORKER, str(response), "--device", "cpu", *QUICK)
    assert done.returncode == 0, done.stderr
    assert f"predicted by {HARDWARE} v1 (MEASURED)" in done.stdout
    rows = [line for line in done.stdout.splitlines() if "predicted" in line or "measured" in line]
    assert sum("│" in line for line in rows) == 4
    assert "slowest device, with waiting: predicted 2.38 ms, measured" in done.stdout
    # named after what this machine surely is not
    assert done.stderr.count(f"predictions are for {HARDWARE}, this is ") <= 1
    assert "Kendall" not in done.stdout


def test_predictions_for_other_hardware_are_warned_of(response: Path) -> None:
    more = ("--device", "cpu", "--hardware", "my-cluster", "--json", *QUICK)
    done = torchrun(*WORKER, str(response), *more)
    assert done.returncode == 0, done.stderr
    warning = f"predictions are for {HARDWARE}, this is my-cluster: only their order may hold"
    assert json.loads(done.stdout)["warnings"] == [warning]
    assert done.stderr.count(warning) == 1


def test_a_job_of_another_size_is_refused(response: Path) -> None:
    done = torchrun(*WORKER, str(response), "--device", "cpu", processes=1)
    assert done.returncode != 0
    assert "error: response: is a plan for 2 devices, but torchrun started 1 processes" in (
        done.stderr
    )


def test_outside_torchrun_the_error_says_how_to_start(worker: RunWorker, response: Path) -> None:
    done = worker("replay", str(response), "--device", "cpu")
    assert done.returncode == 2
    assert "replay on cpu and cuda runs under torchrun" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_file_is_one_line(worker: RunWorker, tmp_path: Path) -> None:
    done = worker("replay", str(tmp_path / "no.json"), "--device", "cpu")
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path / 'no.json'}: cannot be read: No such file or " + (
        "directory\n"
    )


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (
            make_problem((EmbeddingTable("huge", 10**10, 128, 1.0),)),
            "response: does not fit into the memory of rank 0: its host's ranks need 5120000000000",
        ),
        (
            make_problem((EmbeddingTable("huge", 1000, 128, 1.0),), optimizer=Optimizer.ADAM),
            "response: fbgemm has no cpu kernels for adam",
        ),
    ],
    ids=["memory", "optimizer"],
)
def test_what_the_device_cannot_run_is_refused(problem: Any, message: str, tmp_path: Path) -> None:
    write_request(tmp_path / "request.json", problem)
    rows = problem.tables[0].num_embeddings
    result = make_result((Shard("huge", 0, 0, rows, 0, 128),))
    response = write_response(tmp_path / "response.json", result)
    done = torchrun(*WORKER, str(response), "--device", "cpu")
    assert done.returncode != 0
    assert message in done.stderr and "Traceback" not in done.stderr.split("torch/distributed")[0]


def test_a_killed_rank_ends_the_other_with_an_error(response: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, *WORKER, str(response), "--device", "cpu", "--iterations", "1000000"],
            env={
                **os.environ,
                **shared,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "MASTER_PORT": port,
                "OMP_NUM_THREADS": "1",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        # iterations begin when both have joined
        assert ranks[0].stderr is not None
        started = any("replaying 1 plan on 2 ranks" in line for line in ranks[0].stderr)
        assert started
        ranks[1].send_signal(signal.SIGKILL)
        _, stderr = ranks[0].communicate(timeout=90)
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert ranks[0].returncode == 1, "what may pass is tried again by whoever started it"
    last = stderr.strip().splitlines()[-1]
    assert last.startswith("error: rank 0: a collective failed") and "Traceback" not in stderr
