"""How far cost models are from the roofline beyond the range of their training data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from tests.benchmarks.machine import table

from shardwright_benchmark_worker.pool import read_pool
from shardwright_benchmark_worker.roofline import (
    GpuProfile,
    comm_times,
    compute_times,
    get_profile,
)
from shardwright_benchmark_worker.sampling import (
    CommLimits,
    CommSample,
    ComputeLimits,
    ComputeSample,
    draw_comm_sample,
    draw_compute_sample,
)
from shardwright_costmodel.features import comm_features, shard_features
from shardwright_costmodel.runtime import OnnxCostModel

Array = npt.NDArray[np.float64]
FACTORS = (0.1, 0.3, 3.0, 10.0)
"""Below 1: times the least value of the training range; above: times the largest."""
COUNT = 300

_SHARDS: Mapping[str, Callable[[ComputeSample, float], ComputeSample]] = {
    "num_rows": lambda s, value: replace(
        s, num_embeddings=np.full(len(s), max(int(value), 1), dtype=np.int64)
    ),
    "num_columns": lambda s, value: replace(
        s, embedding_dim=np.full(len(s), max(4 * int(value / 4), 4), dtype=np.int64)
    ),
    "pooling_factor": lambda s, value: replace(s, pooling_factor=np.full(len(s), value)),
    "global_batch_size": lambda s, value: replace(
        s, batch_size=np.full(len(s), max(int(value), 1), dtype=np.int64)
    ),
}
"""What gives every table of an operator one value of a column."""


def predict_operators(model: OnnxCostModel, samples: list[ComputeSample]) -> Array:
    """Forward + backward of fused operators, `[m]`, ms."""
    found = []
    for s in samples:
        encodings = model.encode(
            shard_features(
                num_rows=s.num_embeddings,
                num_columns=s.embedding_dim,
                pooling_factor=s.pooling_factor,
                global_batch_size=s.batch_sizes,
                weight_bytes_per_element=s.weight_dtype.num_bytes,
                state_bytes_per_element=s.optimizer.state_bytes_per_element,
                state_bytes_per_row=s.optimizer.state_bytes_per_row,
                reuse_histogram=s.reuse_histogram,
            )
        )
        found.append(model.compute_ms(encodings.sum(axis=0, keepdims=True)).sum())
    return np.array(found, dtype=np.float64)


def true_operators(profile: GpuProfile, samples: list[ComputeSample]) -> Array:
    """The same by the roofline."""
    times = compute_times(profile, samples)
    return np.asarray(times.forward_ms + times.backward_ms)


def extrapolation_lines(
    model: OnnxCostModel, hardware: str, training_range: Mapping[str, tuple[float, float]]
) -> list[str]:
    """Mean absolute error by column and by how far beyond the range all tables are."""
    profile, pool = get_profile(hardware), read_pool().part(held_out=True)
    samples = [draw_compute_sample(pool, ComputeLimits(), 1, index) for index in range(COUNT)]
    rows = []
    for column, change in _SHARDS.items():
        low, high = training_range[f"shard.{column}"]
        cells = []
        for factor in FACTORS:
            value = factor * (low if factor < 1.0 else high)
            changed = [change(sample, value) for sample in samples]
            error = predict_operators(model, changed) / true_operators(profile, changed) - 1.0
            cells.append(f"{100.0 * np.abs(error).mean():.1f} ({100.0 * np.abs(error).max():.0f})")
        rows.append([column, *cells])
    rows += _comm_rows(model, profile, training_range)
    reaches = [f"{factor:g} x {'least' if factor < 1 else 'most'}" for factor in FACTORS]
    return [
        "## Beyond the training range",
        "",
        "Mean (largest) absolute error in percent, against the roofline, of operators of unseen "
        "tables all of which have one value of a column beyond the range of the training data, and "
        "of all-to-alls with the largest sum of dims, the batch or the devices there.",
        "",
        *table(["every table, or device, has", *reaches], rows),
    ]


def _comm_rows(
    model: OnnxCostModel, profile: GpuProfile, training_range: Mapping[str, tuple[float, float]]
) -> list[list[str]]:
    limits = CommLimits(held_out=True)
    samples = [draw_comm_sample(limits, 1, index) for index in range(COUNT)]
    rows = []
    for column in ("device_dim", "global_batch_size", "world_size"):
        low, high = training_range[f"comm.{column}"]
        cells = []
        for factor in FACTORS:
            if factor < 1.0 and column == "world_size":
                cells.append("-")
                continue
            value = factor * (max(low, 4.0) if factor < 1.0 else high)
            errors = [_comm_error(model, profile, _moved(s, column, value)) for s in samples]
            cells.append(f"{100.0 * np.mean(errors):.1f} ({100.0 * np.max(errors):.0f})")
        rows.append([f"all-to-all: {column}", *cells])
    return rows


def _moved(sample: CommSample, column: str, value: float) -> CommSample:
    if column == "device_dim":
        scale = value / max(float(sample.dims.max()), 1.0)
        return replace(sample, dims=np.rint(sample.dims * scale).astype(np.int64))
    if column == "global_batch_size":
        batch = max(int(value) // sample.world_size, 1) * sample.world_size
        return replace(sample, global_batch_size=batch)
    times = max(int(value) // sample.world_size, 1)
    return replace(
        sample,
        dims=np.tile(sample.dims, times),
        start_skew_ms=np.zeros(times * sample.world_size),
        global_batch_size=sample.global_batch_size * times,
    )


def _comm_error(model: OnnxCostModel, profile: GpuProfile, sample: CommSample) -> float:
    truth = comm_times(profile, sample).backward_ms
    features = comm_features(sample.dims[None], sample.devices_per_host, sample.global_batch_size)[
        0
    ]
    return float(np.abs(model.backward_comm_ms(features) / truth - 1.0).mean())
