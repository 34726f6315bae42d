"""ONNX graphs of the torch models, checked against them."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

from shardwright_costmodel.bundle import (
    ALL_REDUCE,
    BACKWARD_COMM,
    COMPUTE_ENCODER,
    COMPUTE_HEAD,
    FORWARD_COMM,
    GRAPH_PORTS,
)
from shardwright_costmodel.errors import ExportError
from shardwright_costmodel.features import (
    ALL_REDUCE_COLUMNS,
    COMM_COLUMNS,
    SHARD_COLUMNS,
    FloatArray,
)
from shardwright_costmodel.graph import Graph
from shardwright_costmodel.training.compute_model import ComputeHead, ShardEncoder
from shardwright_costmodel.training.models import AllReduceModel, CommModel

MAX_RELATIVE_DIFFERENCE = 1e-4
OPSET = 18

_EXTREME_ROWS = 4096
_CHECKED_ROWS, _BATCHES = 1024, 100


def export_graphs(
    encoder: ShardEncoder,
    head: ComputeHead,
    forward_comm: CommModel,
    backward_comm: CommModel,
    all_reduce: AllReduceModel,
    shards: FloatArray,
    devices: FloatArray,
    jobs: FloatArray,
) -> dict[str, bytes]:
    """Exports the five graphs and compares each with its model.

    They are compared on held-out rows and on random rows far outside of any training data.

    Args:
        encoder: Encoder of shards.
        head: Head over sums of encodings.
        forward_comm: Forward communication.
        backward_comm: Backward communication.
        all_reduce: All-reduces.
        shards: `[n, len(SHARD_COLUMNS)] float32`, held out.
        devices: `[m, len(COMM_COLUMNS)] float32`, held out.
        jobs: `[k, len(ALL_REDUCE_COLUMNS)] float32`, held out.

    Returns:
        Serialised ONNX by graph name.

    Raises:
        ExportError: When a graph and its model differ by more than 1e-4 of the value, or when a
            row's result depends on the batch it is in.
    """
    generator = np.random.default_rng(0)
    shards = np.concatenate([shards, extreme_shards(generator, _EXTREME_ROWS)])
    devices = np.concatenate([devices, extreme_devices(generator, _EXTREME_ROWS)])
    jobs = np.concatenate([jobs, extreme_jobs(generator, _EXTREME_ROWS)])
    (encodings,) = _predict(encoder, shards)
    sums = encodings[: len(encodings) // 4 * 4].reshape(-1, 4, encodings.shape[1]).sum(axis=1)
    samples: dict[str, tuple[nn.Module, FloatArray]] = {
        COMPUTE_ENCODER: (encoder, shards),
        COMPUTE_HEAD: (head, np.concatenate([encodings, sums, np.zeros_like(sums[:1])])),
        FORWARD_COMM: (forward_comm, devices),
        BACKWARD_COMM: (backward_comm, devices),
        ALL_REDUCE: (all_reduce, jobs),
    }
    graphs = {}
    for name, (module, rows) in samples.items():
        graphs[name] = _export(name, module, rows[:16])
        _compare(name, graphs[name], module, rows)
        _require_independent_rows(name, graphs[name], rows)
    return graphs


def extreme_shards(generator: np.random.Generator, count: int) -> FloatArray:
    """Random shards over the whole domain of requests, `[count, len(SHARD_COLUMNS)] float32`."""
    rows = np.zeros((count, len(SHARD_COLUMNS)), dtype=np.float32)
    for column, (low, high) in enumerate([(1, 1e12), (4, 65536), (1e-3, 1e6), (1, 2**31)]):
        rows[:, column] = np.exp(generator.uniform(np.log(low), np.log(high), count))
    rows[:, 4] = generator.choice([2, 4], count)
    rows[:, 5] = generator.choice([0, 4, 8], count)
    rows[:, 6] = generator.choice([0, 4], count)
    bins = generator.exponential(size=(count, len(SHARD_COLUMNS) - 7)) ** 4
    rows[:, 7:] = bins / bins.sum(axis=1, keepdims=True)
    return rows


def extreme_devices(generator: np.random.Generator, count: int) -> FloatArray:
    """Random devices over the whole domain of requests, `[count, len(COMM_COLUMNS)] float32`."""
    rows = np.zeros((count, len(COMM_COLUMNS)), dtype=np.float32)
    per_host = 2.0 ** generator.integers(0, 5, count)
    rows[:, 0] = per_host * generator.integers(1, 257, count)
    rows[:, 1] = per_host
    rows[:, 2] = np.exp(generator.uniform(0, np.log(2**31), count))
    dims = np.exp(generator.uniform(0, np.log(1e6), (count, 5))) * (
        generator.random((count, 5)) > 0.1
    )
    rows[:, 3:] = np.sort(dims, axis=1)[:, [0, 1, 4, 2, 3]]
    return rows


def extreme_jobs(generator: np.random.Generator, count: int) -> FloatArray:
    """Random all-reduces over the whole domain, `[count, len(ALL_REDUCE_COLUMNS)] float32`."""
    rows = np.zeros((count, len(ALL_REDUCE_COLUMNS)), dtype=np.float32)
    rows[:, :2] = extreme_devices(generator, count)[:, :2]
    rows[:, 2] = np.exp(generator.uniform(0, np.log(1e13), count))
    return rows


def _export(name: str, module: nn.Module, sample: FloatArray) -> bytes:
    """A graph; tracing takes seconds, so a structure is traced once and filled with weights."""
    state = module.state_dict()
    key = (name, type(module), str(module), *((k, v.shape, v.dtype) for k, v in state.items()))
    if key not in _TRACED:
        _TRACED[key] = _trace(name, module, sample)
    model = ModelProto()
    model.CopyFrom(_TRACED[key])
    for constant in model.graph.initializer:
        if constant.name in state:
            weights = np.ascontiguousarray(state[constant.name].numpy())
            constant.CopyFrom(numpy_helper.from_array(weights, constant.name))
    return _without_traces(model)


_TRACED: dict[tuple[object, ...], ModelProto] = {}
"""By all that the structure of a graph depends on."""


def _trace(name: str, module: nn.Module, sample: FloatArray) -> ModelProto:
    input_name, output_names = GRAPH_PORTS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module.eval(),
            (torch.from_numpy(sample),),
            input_names=[input_name],
            output_names=list(output_names),
            dynamic_shapes=({0: torch.export.Dim("rows")},),
            opset_version=OPSET,
            dynamo=True,
            # its optimizer takes the addition of a small constant for that of 0
            optimize=False,
            verbose=False,
        )
    assert program is not None, "the dynamo exporter returns a program"
    return program.model_proto


def _without_traces(model: ModelProto) -> bytes:
    """Drops what the exporter notes about source files: it is large, and differs by machine."""
    graph = model.graph
    holders: list[Any] = [model, graph, *graph.node, *graph.initializer]
    holders += [*graph.input, *graph.output, *graph.value_info]
    for holder in holders:
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _predict(module: nn.Module, rows: FloatArray) -> list[FloatArray]:
    """Every output of a model."""
    with torch.no_grad():
        outputs: Tensor | tuple[Tensor, ...] = module(torch.from_numpy(rows))
    return [o.numpy() for o in (outputs if isinstance(outputs, tuple) else (outputs,))]


def _compare(name: str, graph: bytes, module: nn.Module, rows: FloatArray) -> None:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    input_name, output_names = GRAPH_PORTS[name]
    outputs = session.run(list(output_names), {input_name: rows})
    for output, found, expected in zip(output_names, outputs, _predict(module, rows), strict=True):
        if not np.isfinite(found).all():
            raise ExportError(f"{name}: {output} of the exported graph is infinity or NaN")
        zeros = expected == 0
        difference = np.abs(found - expected) / np.where(zeros, 1.0, np.abs(expected))
        worst = float(difference.max())
        if worst > MAX_RELATIVE_DIFFERENCE:
            row = int(np.argmax(difference.max(axis=1)))
            raise ExportError(
                f"{name}: {output} of the exported graph differs from its torch model by "
                f"{worst:.2g} of the value (at most {MAX_RELATIVE_DIFFERENCE:g} is accepted), for "
                f"input {rows[row].tolist()}"
            )


def _require_independent_rows(name: str, graph: bytes, rows: FloatArray) -> None:
    """Requires the same bits for a row in any batch, at any place in it and in memory.

    Kernels that work element by element, and products of matrices, do so for batches of a multiple
    of `ROW_MULTIPLE` rows. Sums over columns (ReduceSum, CumSum) do not: ONNX Runtime adds in an
    order that depends on the alignment of the row.
    """
    model = Graph(graph, name, name)
    generator = np.random.default_rng(1)
    rows = generator.permutation(rows)[:_CHECKED_ROWS]
    for output, output_name in enumerate(GRAPH_PORTS[name][1]):
        expected = model.run(rows, output)
        # as many batches of a few rows as of many
        counts = np.exp(generator.uniform(0.0, np.log(2 * _CHECKED_ROWS), _BATCHES)).astype(int)
        for count in counts:
            chosen = generator.integers(0, len(rows), count)
            differing = (model.run(_misaligned(rows[chosen]), output) != expected[chosen]).any(
                axis=1
            )
            if differing.any():
                raise ExportError(
                    f"{name}: {output_name} of {differing.sum()} of {count} rows depends on the "
                    "rest of the batch; sums over columns must be products of matrices"
                )


def _misaligned(rows: FloatArray) -> FloatArray:
    """The same rows, contiguous, at an address that no vector register likes."""
    memory = np.empty(rows.size + 1, dtype=np.float32)
    memory[1:] = rows.ravel()
    return memory[1:].reshape(rows.shape)
