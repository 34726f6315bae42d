"""What a bound on the cost of plans relies on: floors lie below, and are convex and monotone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from shardwright_costmodel.bundle import Bundle
from shardwright_costmodel.features import COMM_COLUMNS, FloatArray
from shardwright_costmodel.runtime import OnnxCostModel
from shardwright_costmodel.training.compute_model import WORK_CHANNELS
from shardwright_costmodel.training.export import extreme_devices, extreme_shards

COUNT = 4000
ROUNDING = 2e-6
"""Of float32 results that are equal on paper, relative."""


@pytest.fixture(scope="module", params=["trained here", "shipped"])
def model(request: pytest.FixtureRequest, bundle: Bundle, shipped_bundle: Bundle) -> OnnxCostModel:
    return OnnxCostModel.from_bundle(bundle if request.param == "trained here" else shipped_bundle)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def likely_shards(rng: np.random.Generator, count: int) -> FloatArray:
    """Shards of the size that jobs have."""
    rows = extreme_shards(rng, count)
    rows[:, 0] = np.exp(rng.uniform(np.log(10), np.log(4e7), count))
    rows[:, 1] = 4 * rng.integers(1, 65, count)
    rows[:, 2] = np.exp(rng.uniform(np.log(0.05), np.log(100), count))
    rows[:, 3] = 2.0 ** rng.integers(9, 18, count)
    return rows


def encodings(model: OnnxCostModel, kind: str, rng: np.random.Generator) -> FloatArray:
    """`[COUNT, e]`, non-negative: of devices, of absurd shards, or of nothing at all."""
    size = model.encoding_size
    if kind == "devices":
        alone = model.encode(likely_shards(rng, COUNT))
        members = rng.random((COUNT, 200)) < rng.uniform(0.005, 0.3, (COUNT, 1))
        return np.maximum(alone, members.astype(np.float32) @ alone[:200])
    if kind == "extreme":
        return model.encode(extreme_shards(rng, COUNT))
    random = np.exp(rng.uniform(-30, 30, (COUNT, size)))
    return (random * (rng.random((COUNT, size)) < rng.random((COUNT, 1)))).astype(np.float32)


KINDS = pytest.mark.parametrize("kind", ["devices", "extreme", "random"])


@KINDS
def test_a_compute_floor_is_never_above_the_prediction(
    model: OnnxCostModel, kind: str, rng: np.random.Generator
) -> None:
    rows = encodings(model, kind, rng)
    # whoever has a hottest row has lookups, and so work
    rows = rows[(rows[:, :WORK_CHANNELS] > 0).any(axis=1)]
    floor = model.compute_floor_ms(rows)
    assert (floor > 0).all()
    assert (floor <= model.compute_ms(rows)).all()


@KINDS
def test_a_compute_floor_is_convex_in_the_work(
    model: OnnxCostModel, kind: str, rng: np.random.Generator
) -> None:
    """So that of devices' mean work, with the least of their peaks, is at most their mean floor."""
    first, second = encodings(model, kind, rng), encodings(model, kind, rng)
    first_peak = model.encoding_size - model.peak_channels
    second[:, first_peak:] = first[:, first_peak:]
    share = rng.random((COUNT, 1)).astype(np.float32)
    between = model.compute_floor_ms(share * first + (1 - share) * second)
    chord = share * model.compute_floor_ms(first) + (1 - share) * model.compute_floor_ms(second)
    assert (between <= chord * (1 + ROUNDING)).all()


@KINDS
def test_a_compute_floor_never_falls_in_any_channel(
    model: OnnxCostModel, kind: str, rng: np.random.Generator
) -> None:
    rows = encodings(model, kind, rng)
    more = rows + encodings(model, kind, rng) * (rng.random(rows.shape) < 0.2)
    floor = model.compute_floor_ms(rows)
    assert (model.compute_floor_ms(more) >= floor * (1 - ROUNDING)).all()


def test_the_compute_floor_of_nothing_is_the_fixed_cost(model: OnnxCostModel) -> None:
    nothing = np.zeros((1, model.encoding_size), np.float32)
    almost = nothing + np.float32(1e-12)
    almost[:, model.encoding_size - model.peak_channels :] = 1e-30  # they count by fourth roots
    np.testing.assert_allclose(
        model.compute_floor_ms(nothing), model.compute_floor_ms(almost), rtol=1e-4
    )
    assert (model.compute_floor_ms(nothing) > 0).all()


def directions(model: OnnxCostModel) -> list[tuple[Callable[[FloatArray], FloatArray], ...]]:
    return [
        (model.forward_comm_ms, model.forward_comm_floor_ms),
        (model.backward_comm_ms, model.backward_comm_floor_ms),
    ]


def test_a_transfer_floor_is_never_above_the_prediction(
    model: OnnxCostModel, rng: np.random.Generator
) -> None:
    devices = extreme_devices(rng, 20_000)
    for predict, floor in directions(model):
        assert (floor(devices) <= predict(devices)).all()


def test_a_transfer_floor_depends_on_the_job_and_the_mean_dim_alone(
    model: OnnxCostModel, rng: np.random.Generator
) -> None:
    devices = extreme_devices(rng, COUNT)
    others = devices.copy()
    for column in ("device_dim", "max_dim", "host_mean_dim", "max_host_mean_dim"):
        others[:, COMM_COLUMNS.index(column)] = rng.uniform(0, 1e5, COUNT)
    for _, floor in directions(model):
        np.testing.assert_array_equal(floor(devices), floor(others))


def test_a_transfer_floor_never_falls_with_the_mean_dim(
    model: OnnxCostModel, rng: np.random.Generator
) -> None:
    devices = extreme_devices(rng, COUNT)
    more = devices.copy()
    more[:, COMM_COLUMNS.index("mean_dim")] *= rng.uniform(1, 3, COUNT)
    for _, floor in directions(model):
        assert (floor(more) >= floor(devices)).all()


def test_floors_are_close_enough_to_be_of_use(shipped_bundle: Bundle) -> None:
    tightness = shipped_bundle.manifest.mean_floor_ratio
    assert tightness["compute_forward"] > 0.95
    assert tightness["compute"] > 0.99
    # all-to-alls of very uneven plans are in the mean
    assert tightness["forward_comm"] > 0.5 and tightness["backward_comm"] > 0.5
