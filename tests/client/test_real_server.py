"""The real command line against the real `shardwright-server` on the shipped cost models."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardwright.domain import (
    CostModelSource,
    InsufficientMemoryError,
    Shard,
    ShardingPlan,
    check_memory,
    check_plan,
)
from shardwright_client import (
    CostModelNotFoundError,
    InfeasibleError,
    InvalidRequestError,
    ShardingPlanClient,
    files,
)

BIN = Path(sys.executable).parent
EXAMPLE = Path(__file__).parents[2] / "client/examples/mlperf_dlrm_dcnv2.json"
HARDWARE = "nvidia-h100-sxm5-80gb"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server that runs as a process of its own."""
    flags = ("--host", "127.0.0.1", "--port", "0", "--metrics-port", "0", "--log-format", "json")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SHARDWRIGHT_")}
    with subprocess.Popen(
        [BIN / "shardwright-server", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as process:
        try:
            assert process.stdout is not None
            seen = ""
            for line in process.stdout:
                seen += line
                if '"serving"' in line:
                    yield f"127.0.0.1:{json.loads(line)['port']}"
                    break
            else:
                pytest.fail(f"the server did not start:\n{seen}")
        finally:
            process.kill()


def shardwright(target: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "shardwright", *map(str, arguments), "--server", target],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=240,
        env={**os.environ, "PYTHONUTF8": "1"},
    )


def changed_example(path: Path, **cluster: object) -> Path:
    request = json.loads(EXAMPLE.read_text())
    request["cluster"].update(cluster)
    path.write_text(json.dumps(request))
    return path


def test_the_example_is_planned_and_the_plan_evaluates_to_its_cost(
    target: str, tmp_path: Path
) -> None:
    response_file = tmp_path / "response.json"
    run = shardwright(target, "plan", EXAMPLE, "-o", response_file)
    assert run.returncode == 0, run.stderr
    assert "26 tables, 8 x nvidia-h100-sxm5-80gb" in run.stdout
    assert "MODELLED" in run.stdout and "MEASURED" not in run.stdout

    response = json.loads(response_file.read_text())
    assert response["request_id"] == "mlperf-dlrm-dcnv2"
    assert {b["name"] for b in response["baselines"]} == {
        *("dim", "size", "lookup", "size_lookup", "random")
    }
    best = min(b["cost_ms"] for b in response["baselines"] if b["feasible"])
    assert response["cost_ms"] < best

    problem = files.read_request(str(EXAMPLE)).problem
    check_plan(files.read_plan(str(response_file)), problem)

    run = shardwright(target, "evaluate", EXAMPLE, response_file, "--json")
    evaluation = json.loads(run.stdout)
    assert evaluation["cost_ms"] == response["cost_ms"]
    assert evaluation["fingerprint"] == response["plan"]["fingerprint"]
    assert evaluation["devices"] == response["devices"]


def test_the_same_request_gives_the_same_plan(target: str) -> None:
    request = files.read_request(str(EXAMPLE))
    with ShardingPlanClient(target) as client:
        first = client.get_sharding_plan(request.problem)
        second = client.get_sharding_plan(request.problem, request_id="again")
    assert first.plan.fingerprint == second.plan.fingerprint
    assert first.cost_ms == second.cost_ms


def test_the_costs_of_an_answer_agree_with_one_another(target: str) -> None:
    problem = files.read_request(str(EXAMPLE)).problem
    with ShardingPlanClient(target) as client:
        result = client.get_sharding_plan(problem)
    assert [d.device for d in result.devices] == list(range(8))
    last_start = max(d.compute_ms + d.backward_comm_ms for d in result.devices)
    for d in result.devices:
        assert d.wait_ms == pytest.approx(last_start - d.compute_ms - d.backward_comm_ms, abs=1e-9)
    assert result.cost_ms == pytest.approx(max(d.total_ms + d.wait_ms for d in result.devices))


def test_models_shows_the_shipped_bundle(target: str) -> None:
    run = shardwright(target, "models")
    assert run.returncode == 0, run.stderr
    assert HARDWARE in run.stdout and "MODELLED" in run.stdout and "(default)" in run.stdout
    with ShardingPlanClient(target) as client:
        (model,) = [m for m in client.list_cost_models(HARDWARE) if m.is_default]
        assert model.cost_model.source is CostModelSource.MODELLED
        version = model.cost_model.version
        problem = files.read_request(str(EXAMPLE)).problem
        result = client.get_sharding_plan(problem, cost_model_version=version)
        assert result.cost_model == model.cost_model


def test_unknown_hardware_lists_what_there_is(target: str, tmp_path: Path) -> None:
    path = changed_example(tmp_path / "r.json", hardware="abacus")
    run = shardwright(target, "plan", path)
    assert run.returncode == 2
    assert "abacus" in run.stderr and HARDWARE in run.stderr
    problem = files.read_request(str(EXAMPLE)).problem
    with ShardingPlanClient(target) as client, pytest.raises(CostModelNotFoundError):
        client.get_sharding_plan(problem, cost_model_version="no-such-version")


def test_tables_that_do_not_fit_say_how_much_is_missing(target: str, tmp_path: Path) -> None:
    path = changed_example(tmp_path / "r.json", num_devices=1, devices_per_host=1)
    run = shardwright(target, "plan", path)
    assert run.returncode == 3
    assert run.stdout == "" and "bytes" in run.stderr
    problem = files.read_request(str(path)).problem
    with ShardingPlanClient(target) as client, pytest.raises(InfeasibleError):
        client.get_sharding_plan(problem)


def test_an_illegal_plan_is_rejected_with_its_violations(target: str) -> None:
    problem = files.read_request(str(EXAMPLE)).problem
    half = ShardingPlan((Shard("t_cat_0", 0, 0, 40_000_000, 0, 64),))
    with (
        ShardingPlanClient(target) as client,
        pytest.raises(InvalidRequestError) as caught,
    ):
        client.evaluate_sharding_plan(problem, half)
    assert any("t_cat_0" in v.description for v in caught.value.violations)
    assert any("t_cat_1" in v.description for v in caught.value.violations)


def test_a_plan_that_overfills_a_device_is_infeasible(target: str) -> None:
    problem = files.read_request(str(EXAMPLE)).problem
    heap = ShardingPlan(
        tuple(Shard(t.name, 0, 0, t.num_embeddings, 0, t.embedding_dim) for t in problem.tables)
    )
    with pytest.raises(InsufficientMemoryError):
        check_memory(heap, problem)
    with ShardingPlanClient(target) as client, pytest.raises(InfeasibleError, match="missing"):
        client.evaluate_sharding_plan(problem, heap)
