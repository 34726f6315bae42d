"""The accuracy benchmark of cost models: its baselines learn, and its file has every table."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.benchmarks import bench_costmodel
from tests.benchmarks.costmodel_baselines import (
    linear_comm,
    linear_compute,
    neuroshard_comm,
    neuroshard_compute,
    sum_of_singles,
)

from shardwright_benchmark_worker.pool import read_pool
from shardwright_benchmark_worker.roofline import get_profile
from shardwright_benchmark_worker.roofline import source as roofline
from shardwright_benchmark_worker.sampling import (
    CommLimits,
    ComputeLimits,
    draw_all_reduce_sample,
    draw_comm_sample,
    draw_compute_sample,
)
from shardwright_costmodel.dataset import Kind, PartMetadata, write_part
from shardwright_costmodel.registry import Registry
from shardwright_costmodel.runtime import OnnxCostModel
from shardwright_costmodel.training.data import TrainingData, load
from shardwright_costmodel.training.measurements import Measurements
from shardwright_costmodel.training.metrics import mape_percent

HARDWARE = "nvidia-h100-sxm5-80gb"


def dataset(root: Path, held_out: bool) -> str:
    profile, indices = get_profile(HARDWARE), range(300)
    pool, limits = read_pool().part(held_out), CommLimits(held_out=held_out)
    rows = {
        Kind.COMPUTE: roofline.compute_rows(
            profile, partial(draw_compute_sample, pool, ComputeLimits(max_shards=9), 0), indices
        ),
        Kind.COMM: roofline.comm_rows(profile, partial(draw_comm_sample, limits, 0), indices),
        Kind.ALL_REDUCE: roofline.all_reduce_rows(
            profile, partial(draw_all_reduce_sample, limits, 0), indices
        ),
    }
    for kind, found in rows.items():
        write_part(str(root), kind, "part", list(found), PartMetadata(HARDWARE, "modelled"))
    return str(root)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return dataset(tmp_path_factory.mktemp("data"), held_out=False)


@pytest.fixture(scope="module")
def data(url: str) -> TrainingData:
    torch.set_num_threads(1)
    return load(url)


def test_the_linear_model_finds_a_machine_that_is_linear(data: TrainingData) -> None:
    compute = data.compute
    sums = np.add.reduceat(
        compute.features[:, 2] * compute.features[:, 3], np.cumsum(compute.counts) - compute.counts
    )
    times_ms = np.stack([0.1 + sums / 1e6, 0.5 + 3 * sums / 1e6], axis=1).astype(np.float32)
    exact = Measurements(compute.features, compute.counts, times_ms)
    assert mape_percent(times_ms, linear_compute(exact, exact)) < 0.01


def test_the_linear_model_of_transfers_is_fitted_to_relative_errors(data: TrainingData) -> None:
    predicted = linear_comm(data.comm, data.comm)
    assert mape_percent(data.comm.times_ms, predicted) < 60


def test_a_sum_of_one_table_is_that_tables_cost(data: TrainingData) -> None:
    model = OnnxCostModel(Registry().load(HARDWARE))
    single = data.compute.select(np.flatnonzero(data.compute.counts == 1))
    several = data.compute.select(np.flatnonzero(data.compute.counts > 5))
    np.testing.assert_allclose(
        sum_of_singles(model, single), model.compute_ms(model.encode(single.features)), rtol=1e-6
    )
    assert (sum_of_singles(model, several) > 1.1 * several.times_ms).mean() > 0.9


def test_networks_of_neuroshards_kind_learn(data: TrainingData) -> None:
    truth = data.compute.times_ms
    before, after = (
        mape_percent(truth, neuroshard_compute(data.compute, data.compute, epochs))
        for epochs in (1, 60)
    )
    assert after < 0.5 * before
    _, truth, predicted = neuroshard_comm(HARDWARE, 4, 4, 600, 800)
    assert mape_percent(truth, predicted) < 50


def test_the_results_file_has_every_table(url: str, tmp_path: Path) -> None:
    unseen = dataset(tmp_path / "unseen", held_out=True)
    bench_costmodel.main(data=url, unseen=unseen, epochs=1, out=tmp_path)
    (path,) = tmp_path.glob("costmodel_accuracy_roofline-h100_*.md")
    text = path.read_text()
    for part in (
        "bench_costmodel --data",
        "compute_unseen",
        "sum of single tables",
        "| largest / mean dim |",
        "### unseen world sizes",
        "| 48 .. 96 |",
        "mean floor / prediction",
        "32 (8 a host)",
        "## Beyond the training range",
        "all-to-all: world_size",
    ):
        assert part in text, part
