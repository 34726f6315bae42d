"""What the search relies on: rows are independent, encodings add, nothing is negative."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from shardwright.domain import CostModelSource, EmbeddingTable, Optimizer
from shardwright_costmodel.bundle import COMPUTE_HEAD, FORWARD_COMM, GRAPH_NAMES, Bundle
from shardwright_costmodel.errors import BundleError
from shardwright_costmodel.features import (
    COMM_COLUMNS,
    SHARD_COLUMNS,
    FloatArray,
    comm_features,
    table_features,
)
from shardwright_costmodel.graph import MAX_ROWS
from shardwright_costmodel.runtime import OnnxCostModel
from shardwright_costmodel.training.export import extreme_devices, extreme_jobs, extreme_shards

RNG = np.random.default_rng(7)


@pytest.fixture(scope="module", params=["trained here", "shipped"])
def model(request: pytest.FixtureRequest, bundle: Bundle, shipped_bundle: Bundle) -> OnnxCostModel:
    return OnnxCostModel.from_bundle(bundle if request.param == "trained here" else shipped_bundle)


def shards(count: int) -> FloatArray:
    features = extreme_shards(RNG, count)
    features[:, 0] = np.clip(features[:, 0], 1e2, 1e8)
    features[:, 1] = 4 * RNG.integers(1, 65, count)
    features[:, 2] = RNG.uniform(0.5, 100, count)
    features[:, 3] = 65536
    return features


def devices(count: int) -> FloatArray:
    dims = 4 * RNG.integers(0, 2000, (count, 8))
    return comm_features(dims, 4, 65536).reshape(-1, len(COMM_COLUMNS))[:count]


def calls(model: OnnxCostModel) -> dict[str, tuple[Callable[[FloatArray], FloatArray], FloatArray]]:
    """Every prediction of the model with 400 rows for it."""
    return {
        "encode": (model.encode, shards(400)),
        "compute_ms": (model.compute_ms, model.encode(shards(400)) * 3),
        "forward_comm_ms": (model.forward_comm_ms, devices(400)),
        "backward_comm_ms": (model.backward_comm_ms, devices(400)),
        "compute_floor_ms": (model.compute_floor_ms, model.encode(shards(400)) * 3),
        "forward_comm_floor_ms": (model.forward_comm_floor_ms, devices(400)),
        "backward_comm_floor_ms": (model.backward_comm_floor_ms, devices(400)),
        "all_reduce_ms": (model.all_reduce_ms, extreme_jobs(RNG, 400)),
    }


@pytest.mark.parametrize(
    "call",
    [
        *("encode", "compute_ms", "forward_comm_ms", "backward_comm_ms", "all_reduce_ms"),
        *("compute_floor_ms", "forward_comm_floor_ms", "backward_comm_floor_ms"),
    ],
)
def test_a_row_gives_the_same_bits_in_any_batch_at_any_position(
    model: OnnxCostModel, call: str
) -> None:
    predict, rows = calls(model)[call]
    expected = predict(rows)
    for size in [*range(1, 70), 127, 128, 129, 200, 255, 256, 257, 399]:
        start = int(RNG.integers(0, len(rows) - size + 1))
        np.testing.assert_array_equal(
            predict(rows[start : start + size]), expected[start : start + size]
        )
    order = RNG.permutation(len(rows))
    np.testing.assert_array_equal(predict(rows[order]), expected[order])
    repeated = np.tile(rows, (30, 1))
    np.testing.assert_array_equal(predict(repeated), np.concatenate([expected] * 30))


def test_batches_above_the_chunk_size_give_the_same_bits(model: OnnxCostModel) -> None:
    rows = devices(50)
    many = np.tile(rows, (MAX_ROWS // 50 + 2, 1))
    expected = np.tile(model.forward_comm_ms(rows), MAX_ROWS // 50 + 2)
    np.testing.assert_array_equal(model.forward_comm_ms(many), expected)


def test_rows_may_be_a_strided_view(model: OnnxCostModel) -> None:
    rows = devices(64)
    np.testing.assert_array_equal(
        model.backward_comm_ms(rows[::2]), model.backward_comm_ms(rows[::2].copy())
    )


def test_no_rows_give_no_rows(model: OnnxCostModel) -> None:
    no_shards = np.empty((0, len(SHARD_COLUMNS)), np.float32)
    no_devices = np.empty((0, len(COMM_COLUMNS)), np.float32)
    assert model.encode(no_shards).shape == (0, model.encoding_size)
    assert model.compute_ms(model.encode(no_shards)).shape == (0, 2)
    assert model.forward_comm_ms(no_devices).shape == (0,)
    assert model.backward_comm_ms(no_devices).shape == (0,)


def test_rows_of_another_width_are_refused(model: OnnxCostModel) -> None:
    with pytest.raises(ValueError, match=rf"{len(SHARD_COLUMNS)} columns, got shape \(3, 5\)"):
        model.encode(np.zeros((3, 5), np.float32))


def test_a_device_without_shards_computes_nothing(model: OnnxCostModel) -> None:
    encodings = np.zeros((5, model.encoding_size), np.float32)
    encodings[2] = model.encode(shards(1))[0]
    compute_ms = model.compute_ms(encodings)
    assert (compute_ms[[0, 1, 3, 4]] == 0.0).all()
    assert (compute_ms[2] > 0.0).all()


def test_a_single_device_transfers_nothing(model: OnnxCostModel) -> None:
    alone = comm_features([[512], [4096]], 1, 65536).reshape(-1, len(COMM_COLUMNS))
    assert (model.forward_comm_ms(alone) == 0.0).all()
    assert (model.backward_comm_ms(alone) == 0.0).all()
    pair = comm_features([[512, 512]], 1, 65536).reshape(-1, len(COMM_COLUMNS))
    assert (model.forward_comm_ms(pair) > 0.0).all()


def test_an_all_reduce_costs_more_for_more_bytes_and_nothing_alone(model: OnnxCostModel) -> None:
    sizes = np.geomspace(1e4, 1e9, 20)
    jobs = np.array([[world, 2, size] for world in (2, 8) for size in sizes], np.float32)
    for ms in model.all_reduce_ms(jobs).reshape(2, -1):
        assert (ms > 0).all() and ms[-1] > 10 * ms[0]
        assert (np.diff(ms) > -0.05 * ms[:-1]).all()
    alone = np.array([[1, 1, 1e9]], np.float32)
    assert model.all_reduce_ms(alone)[0] == 0.0


def test_encodings_add_like_work(model: OnnxCostModel) -> None:
    encodings = model.encode(shards(50))
    assert (encodings >= 0.0).all()
    one = model.compute_ms(encodings).sum(axis=1)
    two = model.compute_ms(2 * encodings).sum(axis=1)
    assert (two > one).all()
    assert (two < 3 * one).all()


def test_predictions_are_finite_and_positive_over_the_whole_domain(model: OnnxCostModel) -> None:
    encodings = model.encode(extreme_shards(RNG, 2000))
    compute_ms = model.compute_ms(encodings)
    comm_ms = model.forward_comm_ms(extreme_devices(RNG, 2000))
    assert np.isfinite(compute_ms).all() and (compute_ms > 0).all()
    assert np.isfinite(comm_ms).all() and (comm_ms >= 0).all()


def test_communication_is_equivariant_in_devices_and_hosts(model: OnnxCostModel) -> None:
    dims = np.array([[128, 64, 512, 0, 256, 32, 1024, 768]])
    swapped_hosts = np.roll(dims, 4, axis=1)
    swapped_devices = dims[:, [1, 0, 2, 3, 7, 6, 5, 4]]
    costs = [
        model.forward_comm_ms(comm_features(d, 4, 65536)[0])
        for d in (dims, swapped_hosts, swapped_devices)
    ]
    np.testing.assert_allclose(costs[1], np.roll(costs[0], 4), rtol=1e-6)
    np.testing.assert_allclose(costs[2], costs[0][[1, 0, 2, 3, 7, 6, 5, 4]], rtol=1e-6)


def test_identity_and_provenance_are_the_manifests(bundle: Bundle) -> None:
    model = OnnxCostModel.from_bundle(bundle)
    assert (model.id.name, model.id.version) == ("test", "1")
    assert (model.id.hardware, model.id.source) == ("test-machine", CostModelSource.MODELLED)
    description = model.description(is_default=True)
    assert description.is_default
    assert description.cost_model == model.id
    assert description.create_time == bundle.manifest.created_at
    assert description.num_compute_measurements == 1500
    assert description.num_comm_measurements == 600
    assert [a.quantity for a in description.accuracy] == [
        "compute_forward",
        "compute_backward",
        "compute",
        "forward_comm",
        "backward_comm",
        "all_reduce",
    ]


def test_features_outside_the_training_range_are_named(bundle: Bundle) -> None:
    model = OnnxCostModel.from_bundle(bundle)
    tables = [EmbeddingTable("a", 10_000, 64, 10.0), EmbeddingTable("b", 10_000, 2048, 10.0)]
    inside = table_features(tables[:1], 65536, Optimizer.SGD)
    job = comm_features([[512, 256, 512, 256]], 4, 65536)[0]
    assert model.range_warnings(inside, job) == ()
    wide = table_features(tables, 65536, Optimizer.SGD)
    large = comm_features([[512] * 256], 4, 65536)[0]
    warnings = model.range_warnings(wide, large)
    assert [warning.split(" of ")[0] for warning in warnings] == ["num_columns", "world_size"]
    assert "1 of 2 shards" in warnings[0] and "2048" in warnings[0]
    empty = np.empty((0, len(SHARD_COLUMNS)), np.float32)
    assert model.range_warnings(empty, job) == ()


def test_a_graph_that_is_not_onnx_is_named(bundle: Bundle) -> None:
    broken = Bundle(bundle.manifest, {**bundle.graphs, COMPUTE_HEAD: b"junk"}, "/models/x")
    with pytest.raises(BundleError, match=r"^/models/x/compute_head\.onnx: ONNX Runtime cannot"):
        OnnxCostModel.from_bundle(broken)


@pytest.mark.parametrize("graph", GRAPH_NAMES)
def test_a_graph_with_other_ports_is_named(bundle: Bundle, graph: str) -> None:
    other = {**bundle.graphs, graph: bundle.graphs[FORWARD_COMM]}
    if graph == FORWARD_COMM:
        other[graph] = bundle.graphs[COMPUTE_HEAD]
    with pytest.raises(BundleError, match=rf"{graph}: must have (one|2) (in|out)puts?"):
        OnnxCostModel.from_bundle(Bundle(bundle.manifest, other, "/models/x"))


def test_a_graph_of_another_width_is_named(bundle: Bundle) -> None:
    manifest = bundle.manifest.model_copy(update={"encoding_size": 16})
    with pytest.raises(BundleError, match=r"encodings: tensor\(float\)\['rows', 16\]; it has"):
        OnnxCostModel.from_bundle(Bundle(manifest, bundle.graphs, "/models/x"))


def test_graphs_carry_no_trace_of_the_machine_that_made_them(bundle: Bundle) -> None:
    for content in bundle.graphs.values():
        model = onnx.load_from_string(content)
        assert not model.metadata_props
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
        assert b"shardwright_costmodel/training" not in content
