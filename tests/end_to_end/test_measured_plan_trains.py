"""The whole way on this machine's own hardware.

Measure fused embedding bags and all-to-all on the CPU, train cost models, publish a bundle, serve
it, ask for a plan for two ranks over gRPC, and train with that plan under TorchRec.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from end_to_end_processes import REPOSITORY, run, serving

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

HARDWARE = "test-cpu"
NUM_RANKS = 2
ONCE = ("--max-repetitions", "5", "--repetitions", "5", "--max-drift-percent", "1000")
"""No noise control: whether the parts fit together is tested here, not how sure the medians are."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of cost models, trained on costs measured here and now."""
    root = tmp_path_factory.mktemp("measured")
    dataset = root / "dataset"
    run(
        *("shardwright-worker", "compute", "--device", "cpu", "--hardware", HARDWARE),
        *("--samples", "120", "--seed", "0", "--out", dataset),
        *("--max-batch-size", "2048", "--max-shards", "8", "--max-memory-bytes", str(256 << 20)),
        *ONCE,
    )
    run(
        *("torchrun", "--standalone", "--nproc-per-node", str(NUM_RANKS)),
        *("-m", "shardwright_benchmark_worker", "comm", "--device", "cpu"),
        *("--hardware", HARDWARE, "--samples", "60", "--seed", "0", "--out", dataset),
        *("--max-batch-size", "2048"),
        *ONCE,
    )
    run(
        "shardwright-train",
        "--no-report",
        "--data",
        dataset,
        "--out",
        root / "bundles",
        "--seed",
        "0",
    )
    return root / "bundles"


def request(tables: list[dict[str, object]]) -> dict[str, object]:
    return {
        "request_id": "end-to-end",
        "tables": tables,
        "cluster": {
            "num_devices": NUM_RANKS,
            "devices_per_host": NUM_RANKS,
            "hardware": HARDWARE,
            "device_memory_bytes": 64 << 20,
        },
        "global_batch_size": 1024,
        "optimizer": "OPTIMIZER_SGD",
    }


TABLES: list[dict[str, object]] = [
    # bigger than half of all memory: no plan fits without a column split
    {"name": "users", "num_embeddings": 200_000, "embedding_dim": 96, "pooling_factor": 4.0},
    {"name": "goods", "num_embeddings": 50_000, "embedding_dim": 64, "pooling_factor": 8.0},
    {"name": "pages", "num_embeddings": 10_001, "embedding_dim": 32, "pooling_factor": 2.0},
    {"name": "hours", "num_embeddings": 24, "embedding_dim": 16, "pooling_factor": 1.0},
    {"name": "cities", "num_embeddings": 3_000, "embedding_dim": 4, "pooling_factor": 1.0},
]


def test_a_plan_from_measured_costs_trains_like_the_unsharded_model(
    bundles: Path, tmp_path: Path
) -> None:
    request_path = tmp_path / "request.json"
    response_path = tmp_path / "response.json"
    request_path.write_text(json.dumps(request(TABLES)))

    with serving(bundles, tmp_path / "server.log") as address:
        run("shardwright", "plan", request_path, "--server", address, "-o", response_path)
        models = json.loads(run("shardwright", "models", "--server", address, "--json").stdout)
        scored = json.loads(
            run(
                *("shardwright", "evaluate", request_path, response_path),
                *("--server", address, "--json"),
            ).stdout
        )

    response = json.loads(response_path.read_text())
    assert models["cost_models"][0]["cost_model"]["hardware"] == HARDWARE
    assert response["cost_model"]["source"] == "COST_MODEL_SOURCE_MEASURED"
    assert scored["cost_ms"] == response["cost_ms"]
    assert scored["devices"] == response["devices"]
    shards_of_users = [s for s in response["plan"]["shards"] if s["table"] == "users"]
    assert len(shards_of_users) > 1, "the big table fits nowhere in one piece"

    printed = run(
        *("torchrun", "--standalone", "--nproc-per-node", str(NUM_RANKS)),
        *(REPOSITORY / "tests/end_to_end/train_sharded.py", request_path, response_path),
    ).stdout
    reports = [
        json.loads(line.split("REPORT ", 1)[1]) for line in printed.splitlines() if "REPORT" in line
    ]
    assert len(reports) == NUM_RANKS
    assert sum(r["local_shards"] for r in reports) == len(response["plan"]["shards"])
    for report in reports:
        assert report["sharded"] == "ShardedEmbeddingBagCollection"
        assert report["forward_difference"] < 1e-5
        assert report["step_difference"] < 1e-5
        assert report["moved"] > 1e-2, "the step changed nothing: the comparison proves nothing"
