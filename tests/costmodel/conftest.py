"""A small analytic machine, so that datasets of known truth can be made in no time."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shardwright_costmodel.bundle import Bundle
from shardwright_costmodel.dataset import Kind, PartMetadata, write_part
from shardwright_costmodel.registry import Registry
from shardwright_costmodel.training.data import load
from shardwright_costmodel.training.fit import FitSettings
from shardwright_costmodel.training.trainer import TrainingRun, train

sys.path.insert(0, str(Path(__file__).parent))

HARDWARE = "test-machine"
METADATA = PartMetadata(HARDWARE, "modelled", software={"test-machine": "1"})

Rows = list[dict[str, Any]]


def compute_rows(count: int, seed: int = 0) -> Rows:
    """Fused operators of a machine with 1 GB/ms of bandwidth and 0.02 ms of launch overhead."""
    rng = np.random.default_rng(seed)
    return [_compute_row(rng) for _ in range(count)]


def _compute_row(rng: np.random.Generator) -> dict[str, Any]:
    batch = int(2 ** rng.integers(9, 17))
    tables = [
        {
            "num_embeddings": int(10 ** rng.uniform(2, 7)),
            "embedding_dim": int(4 * rng.integers(1, 33)),
            "pooling_factor": float(10 ** rng.uniform(0, 1.5)),
            "reuse_histogram": (rng.exponential(size=17) ** 2).tolist(),
            "weight_dtype": str(rng.choice(["fp32", "fp16", "bf16"])),
        }
        for _ in range(rng.integers(1, 7))
    ]
    traffic_bytes = sum(
        batch * t["pooling_factor"] * t["embedding_dim"] * (4 if t["weight_dtype"] == "fp32" else 2)
        for t in tables
    )
    forward_ms = 0.02 + traffic_bytes / 1e9
    backward_ms = 0.10 + 2.5 * traffic_bytes / 1e9
    return {
        "global_batch_size": batch,
        "optimizer": str(rng.choice(["sgd", "rowwise_adagrad", "adam"])),
        "tables": tables,
        **{f"forward_ms{suffix}": forward_ms for suffix in ("", "_p10", "_p90")},
        **{f"backward_ms{suffix}": backward_ms for suffix in ("", "_p10", "_p90")},
        "repetitions": 1,
    }


def comm_rows(count: int, seed: int = 0) -> Rows:
    """All-to-alls of a machine whose links carry 0.1 GB/ms."""
    rng = np.random.default_rng(seed)
    return [_comm_row(rng) for _ in range(count)]


def _comm_row(rng: np.random.Generator) -> dict[str, Any]:
    per_host = int(2 ** rng.integers(0, 3))
    world = max(2, per_host * int(rng.integers(1, 5)))
    batch = int(2 ** rng.integers(9, 17))
    dims = 4 * rng.integers(0, 400, world) + 4
    skew_ms = rng.uniform(0, 5, world)
    transfer_ms = 0.01 + float(dims.max()) * 4 * batch * (world - 1) / world / 1e8
    return {
        "world_size": world,
        "devices_per_host": math.gcd(world, per_host),
        "global_batch_size": batch,
        "dims": dims.tolist(),
        "start_skew_ms": skew_ms.tolist(),
        "forward_ms": (skew_ms.max() - skew_ms + transfer_ms).tolist(),
        "backward_ms": [1.5 * transfer_ms] * world,
        "repetitions": 1,
    }


def all_reduce_rows(count: int, seed: int = 0) -> Rows:
    """All-reduces of the same machine: 0.01 ms a peer, and a ring over the same links."""
    rng = np.random.default_rng(seed)
    return [_all_reduce_row(rng) for _ in range(count)]


def _all_reduce_row(rng: np.random.Generator) -> dict[str, Any]:
    per_host = int(2 ** rng.integers(0, 3))
    world = max(2, per_host * int(rng.integers(1, 5)))
    num_bytes = 4 * int(10 ** rng.uniform(3, 8))
    time_ms = 0.01 * (world - 1) + 2 * (world - 1) / world * num_bytes / 1e8
    return {
        "world_size": world,
        "devices_per_host": math.gcd(world, per_host),
        "num_bytes": num_bytes,
        **{f"time_ms{suffix}": time_ms for suffix in ("", "_p10", "_p90")},
        "repetitions": 1,
    }


def write_dataset(
    root: Path,
    compute: Rows,
    comm: Rows,
    metadata: PartMetadata = METADATA,
    all_reduce: Rows | None = None,
) -> str:
    """Writes a dataset of one part of each kind and returns its root."""
    write_part(str(root), Kind.COMPUTE, "part-0", compute, metadata)
    write_part(str(root), Kind.COMM, "part-0", comm, metadata)
    write_part(str(root), Kind.ALL_REDUCE, "part-0", all_reduce or all_reduce_rows(40), metadata)
    return str(root)


@pytest.fixture
def compute() -> Rows:
    """Sixty fused operators, to be spoilt."""
    return compute_rows(60)


@pytest.fixture
def comm() -> Rows:
    """Forty all-to-alls, to be spoilt."""
    return comm_rows(40)


@pytest.fixture
def all_reduce() -> Rows:
    """Forty all-reduces, to be spoilt."""
    return all_reduce_rows(40)


@pytest.fixture(scope="session")
def write() -> Callable[..., str]:
    """`write_dataset`."""
    return write_dataset


@pytest.fixture(scope="session")
def dataset_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sound dataset of the analytic machine."""
    root = tmp_path_factory.mktemp("dataset")
    return write_dataset(root, compute_rows(1500), comm_rows(600), all_reduce=all_reduce_rows(400))


@pytest.fixture(scope="session")
def training_run(dataset_url: str) -> TrainingRun:
    """A training on that dataset of a few seconds."""
    torch.set_num_threads(1)
    settings = FitSettings(epochs=10, min_steps=600)
    return train(load(dataset_url), name="test", version="1", settings=settings)


@pytest.fixture(scope="session")
def bundle(training_run: TrainingRun) -> Bundle:
    """Its bundle."""
    return training_run.bundle


@pytest.fixture
def published(bundle: Bundle, tmp_path: Path) -> Registry:
    """A registry that holds the bundle."""
    registry = Registry(str(tmp_path / "registry"))
    registry.publish(bundle)
    return registry


@pytest.fixture(scope="session")
def shipped_bundle() -> Bundle:
    """The bundle in the package."""
    return Registry().load("nvidia-h100-sxm5-80gb")


@pytest.fixture(scope="session")
def reversion() -> Callable[..., Bundle]:
    """Makes a bundle with other fields in its manifest."""

    def changed(bundle: Bundle, **fields: Any) -> Bundle:
        return Bundle(bundle.manifest.model_copy(update=fields), bundle.graphs)

    return changed
