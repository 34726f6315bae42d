"""Costs grow with the work, and stay sane far beyond the training data."""

from __future__ import annotations

import numpy as np
import pytest

from shardwright_costmodel.bundle import Bundle
from shardwright_costmodel.features import COMM_COLUMNS, SHARD_COLUMNS, FloatArray
from shardwright_costmodel.runtime import OnnxCostModel
from shardwright_costmodel.training.export import extreme_devices, extreme_jobs, extreme_shards

COUNT = 4000
ROUNDING = 5e-6
"""Of float32 results that are equal on paper, relative."""
POOLING, BATCH = SHARD_COLUMNS.index("pooling_factor"), SHARD_COLUMNS.index("global_batch_size")


@pytest.fixture(scope="module", params=["trained here", "shipped"])
def judged(request: pytest.FixtureRequest, bundle: Bundle, shipped_bundle: Bundle) -> Bundle:
    return bundle if request.param == "trained here" else shipped_bundle


@pytest.fixture(scope="module")
def model(judged: Bundle) -> OnnxCostModel:
    return OnnxCostModel.from_bundle(judged)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def shards_around(bundle: Bundle, rng: np.random.Generator, reach: float) -> FloatArray:
    """Shards whose every feature lies in its training range, or up to `reach` times outside it."""
    shards = extreme_shards(rng, COUNT)
    for i, column in enumerate(SHARD_COLUMNS[: BATCH + 1]):
        low, high = bundle.manifest.training_range[f"shard.{column}"]
        values = np.exp(rng.uniform(np.log(low / reach), np.log(high * reach), COUNT))
        shards[:, i] = np.maximum(values, 1e-3)
    return shards


def device_ms(model: OnnxCostModel, shards: FloatArray) -> FloatArray:
    return model.compute_ms(model.encode(shards))


@pytest.mark.parametrize("column", [POOLING, BATCH], ids=["pooling factor", "batch"])
@pytest.mark.parametrize("factor", [1.0 + 1e-3, 1.05, 1.5, 4.0, 1e3])
def test_a_shard_with_more_lookups_never_costs_less(
    judged: Bundle, model: OnnxCostModel, rng: np.random.Generator, column: int, factor: float
) -> None:
    """By construction: with all else equal, its reuse histogram too. On a dense probe, 10 times
    beyond the training range each way."""
    shards = np.concatenate([shards_around(judged, rng, 10.0), extreme_shards(rng, COUNT)])
    more = shards.copy()
    more[:, column] *= factor
    assert (model.encode(more) >= model.encode(shards) * (1 - ROUNDING)).all()
    assert (device_ms(model, more) >= device_ms(model, shards) * (1 - ROUNDING)).all()


def test_a_device_with_one_more_shard_never_costs_less(
    judged: Bundle, model: OnnxCostModel, rng: np.random.Generator
) -> None:
    device = model.encode(shards_around(judged, rng, 10.0))
    more = device + model.encode(shards_around(judged, rng, 10.0))
    assert (model.compute_ms(more) >= model.compute_ms(device) * (1 - ROUNDING)).all()


@pytest.mark.parametrize("reach", [1.0, 10.0])
def test_costs_are_finite_and_positive_far_beyond_the_training_range(
    judged: Bundle, model: OnnxCostModel, rng: np.random.Generator, reach: float
) -> None:
    assert _sane(device_ms(model, shards_around(judged, rng, reach)))
    devices = extreme_devices(rng, COUNT)
    jobs = extreme_jobs(rng, COUNT)
    several = devices[:, COMM_COLUMNS.index("world_size")] > 1
    assert _sane(model.forward_comm_ms(devices)[several])
    assert _sane(model.backward_comm_ms(devices)[several])
    assert _sane(model.all_reduce_ms(jobs)[jobs[:, 0] > 1])


def _sane(milliseconds: FloatArray) -> bool:
    return bool((np.isfinite(milliseconds) & (milliseconds > 0)).all())
