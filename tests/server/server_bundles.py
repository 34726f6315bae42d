"""Small real bundles (linear ONNX graphs) and requests about them."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from shardwright.v1 import problem_pb2, sharding_plan_service_pb2
from shardwright_costmodel.bundle import (
    ALL_REDUCE,
    BACKWARD_COMM,
    COMPUTE_ENCODER,
    COMPUTE_HEAD,
    FORWARD_COMM,
    GRAPH_PORTS,
    Accuracy,
    Bundle,
    Manifest,
    sha256,
)
from shardwright_costmodel.features import ALL_REDUCE_COLUMNS, COMM_COLUMNS, SHARD_COLUMNS
from shardwright_costmodel.registry import Registry

ENCODING_SIZE = 4


def linear_graph(name: str, *weights: np.ndarray) -> bytes:
    """An ONNX graph that multiplies rows by `weights [in, out]`, those of each output."""
    source, targets = GRAPH_PORTS[name]
    rows_in, rows_out = weights[0].shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", [source, f"to_{target}"], [target]) for target in targets],
        name.removesuffix(".onnx"),
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, ["rows", rows_in])],
        [
            helper.make_tensor_value_info(target, TensorProto.FLOAT, ["rows", rows_out])
            for target in targets
        ],
        [
            numpy_helper.from_array(matrix.astype(np.float32), f"to_{target}")
            for target, matrix in zip(targets, weights, strict=True)
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def make_bundle(hardware: str, version: str, day: int = 1) -> Bundle:
    """A bundle whose costs grow with columns, lookups and bytes sent."""
    encoder = np.zeros((len(SHARD_COLUMNS), ENCODING_SIZE))
    encoder[SHARD_COLUMNS.index("num_columns"), 0] = 1e-2
    encoder[SHARD_COLUMNS.index("pooling_factor"), 1] = 1e-1
    encoder[SHARD_COLUMNS.index("global_batch_size"), 2] = 1e-6
    comm = np.zeros((len(COMM_COLUMNS), 1))
    comm[COMM_COLUMNS.index("device_dim")] = 1e-3
    comm[COMM_COLUMNS.index("max_dim")] = 1e-3
    floor = np.zeros((len(COMM_COLUMNS), 1))
    floor[COMM_COLUMNS.index("mean_dim")] = 1e-3
    head = np.ones((ENCODING_SIZE, 2))
    all_reduce = np.zeros((len(ALL_REDUCE_COLUMNS), 1))
    all_reduce[ALL_REDUCE_COLUMNS.index("num_bytes")] = 1e-6
    graphs = {
        COMPUTE_ENCODER: linear_graph(COMPUTE_ENCODER, encoder),
        COMPUTE_HEAD: linear_graph(COMPUTE_HEAD, head, head),
        FORWARD_COMM: linear_graph(FORWARD_COMM, comm, floor),
        BACKWARD_COMM: linear_graph(BACKWARD_COMM, 2 * comm, 2 * floor),
        ALL_REDUCE: linear_graph(ALL_REDUCE, all_reduce),
    }
    manifest = Manifest(
        name="linear",
        version=version,
        hardware=hardware,
        source="modelled",
        created_at=datetime(2026, 1, day, tzinfo=UTC),
        encoding_size=ENCODING_SIZE,
        num_compute_measurements=10,
        num_comm_measurements=20,
        num_all_reduce_measurements=5,
        accuracy=(
            Accuracy(quantity="compute", mape_percent=1.5, kendall_tau=0.9, num_measurements=5),
        ),
        software={"numpy": "2"},
        files={name: sha256(graph) for name, graph in graphs.items()},
    )
    return Bundle(manifest, graphs)


def publish_bundle(root: Path, hardware: str, version: str, day: int = 1) -> Path:
    """Publishes a bundle and returns its directory."""
    return Path(Registry(str(root)).publish(make_bundle(hardware, version, day)).url)


def plan_request(
    num_tables: int = 4, hardware: str = "test-gpu", request_id: str = "r-1"
) -> sharding_plan_service_pb2.GetShardingPlanRequest:
    """A good request: tables of 64 columns on 2 devices."""
    return sharding_plan_service_pb2.GetShardingPlanRequest(
        request_id=request_id,
        tables=[
            problem_pb2.Table(
                name=f"t{i}", num_embeddings=1000 + i, embedding_dim=64, pooling_factor=1.0 + i
            )
            for i in range(num_tables)
        ],
        cluster=problem_pb2.Cluster(
            num_devices=2, devices_per_host=2, hardware=hardware, device_memory_bytes=1 << 30
        ),
        global_batch_size=1024,
        optimizer=problem_pb2.OPTIMIZER_SGD,
    )
