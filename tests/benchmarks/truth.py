"""What a plan really costs: the noise-free roofline that the cost models' training data came from.

Per device one fused operator over its shards, predicted by the same call that makes the training
rows; one all-to-all over the sums of dims; the wait is computed, as in the search's own cost:

    arrival_d = compute_d + backward transfer       wait_d = max(arrival) - arrival_d
    cost      = max_d (arrival_d + wait_d + forward transfer)

A row piece has ceil(rows / n) rows and pooling / n lookups a sample, and its table's full width in
the all-to-alls. A data-parallel copy sees batch / n samples and stays out of the all-to-alls; the
all-reduce of all copies' gradients counts with the backward transfer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from shardwright.domain import (
    EmbeddingTable,
    ShardingPlan,
    ShardingProblem,
    ShardingType,
    WeightDtype,
    check_plan,
)
from shardwright_benchmark_worker.roofline import (
    GpuProfile,
    all_reduce_ms,
    comm_times,
    compute_times,
    get_profile,
)
from shardwright_benchmark_worker.sampling import AllReduceSample, CommSample, ComputeSample
from shardwright_costmodel.features import zipf_reuse_histogram

Array = npt.NDArray[np.float64]

IN_ROWS = (ShardingType.ROW_WISE, ShardingType.TABLE_ROW_WISE)


class UnjudgedPlanError(ValueError):
    """The roofline says nothing about a plan."""


@dataclass(frozen=True)
class TrueCost:
    """Of one plan on `w` devices.

    Attributes:
        compute_ms: `[w]`, forward + backward of the fused operator; 0 without a shard.
        forward_comm_ms: `[w]`, transfer.
        backward_comm_ms: `[w]`, transfer.
    """

    compute_ms: Array
    forward_comm_ms: Array
    backward_comm_ms: Array

    @property
    def wait_ms(self) -> Array:
        """`[w]`, waiting for the device that reaches the forward all-to-all last."""
        arrival_ms = self.compute_ms + self.backward_comm_ms
        return np.asarray(arrival_ms.max() - arrival_ms)

    @property
    def cost_ms(self) -> float:
        """Ms per iteration of the slowest device."""
        total_ms = self.compute_ms + self.backward_comm_ms + self.forward_comm_ms
        return float((total_ms + self.wait_ms).max())


@dataclass(frozen=True)
class Part:
    """What a device's operator sees of one table.

    Attributes:
        table: The table.
        num_rows: Rows.
        num_columns: Columns.
        pooling_factor: Mean lookups per sample.
        copies: Devices that share the batch: 1 but for data-parallel tables.
    """

    table: EmbeddingTable
    num_rows: int
    num_columns: int
    pooling_factor: float
    copies: int = 1


def part(table: EmbeddingTable, num_columns: int, row_parts: int = 1) -> Part:
    """A piece of so many columns, in one of so many row ranges."""
    rows = -(-table.num_embeddings // row_parts)
    return Part(table, rows, num_columns, table.pooling_factor / row_parts)


def _copy(table: EmbeddingTable, copies: int) -> Part:
    whole = part(table, table.embedding_dim)
    return replace(whole, copies=copies)


def true_cost(plan: ShardingPlan, problem: ShardingProblem) -> TrueCost:
    """Judges a legal plan on the hardware that the problem names.

    Raises:
        IllegalPlanError: When a TorchRec job could not run the plan.
        InsufficientMemoryError: When it does not fit.
        UnjudgedPlanError: When it mixes dtypes on a device.
    """
    parts = _device_parts(plan, problem)
    profile = get_profile(problem.cluster.hardware)
    compute_ms = np.zeros(len(parts))
    busy = [device for device, held in enumerate(parts) if held]
    times = compute_times(profile, [operator(parts[device], problem) for device in busy])
    compute_ms[busy] = times.forward_ms + times.backward_ms
    sent = [sum(part.num_columns for part in held if part.copies == 1) for held in parts]
    forward_ms, backward_ms = transfer_ms(profile, np.array(sent, dtype=np.int64), problem)
    return TrueCost(compute_ms, forward_ms, backward_ms + _gradients_ms(profile, parts, problem))


def _device_parts(plan: ShardingPlan, problem: ShardingProblem) -> list[list[Part]]:
    types = check_plan(plan, problem)
    parts: list[list[Part]] = [[] for _ in range(problem.cluster.num_devices)]
    for table in problem.tables:
        shards = plan.by_table[table.name]
        kind = types[table.name]
        if kind is ShardingType.DATA_PARALLEL:
            for held in parts:
                held.append(_copy(table, len(parts)))
            continue
        cuts = len(shards) if kind in IN_ROWS else 1
        for shard in shards:
            parts[shard.device].append(part(table, shard.num_columns, cuts))
    return parts


def operator(parts: list[Part], problem: ShardingProblem) -> ComputeSample:
    """The fused operator of one device, as the roofline takes it."""
    dtypes = {part.table.weight_dtype for part in parts}
    if len(dtypes) > 1:
        raise UnjudgedPlanError(f"a fused operator has one dtype, got {sorted(map(str, dtypes))}")
    return ComputeSample(
        index=0,
        global_batch_size=problem.global_batch_size,
        optimizer=problem.optimizer,
        weight_dtype=next(iter(dtypes), WeightDtype.FP32),
        num_embeddings=np.array([part.num_rows for part in parts], dtype=np.int64),
        embedding_dim=np.array([part.num_columns for part in parts], dtype=np.int64),
        pooling_factor=np.array([part.pooling_factor for part in parts], dtype=np.float64),
        reuse_histogram=np.array([reuse_of(part.table, problem) for part in parts]),
        batch_size=np.array(
            [max(1, problem.global_batch_size // part.copies) for part in parts], dtype=np.int64
        ),
    )


def reuse_of(table: EmbeddingTable, problem: ShardingProblem) -> Array:
    """A table's reuse histogram, sum 1; as the search assumes it where the table has none."""
    histogram = table.reuse_histogram
    if histogram is None:
        lookups = table.pooling_factor * problem.global_batch_size
        return zipf_reuse_histogram(table.num_embeddings, lookups)
    known = np.asarray(histogram, dtype=np.float64)
    return np.asarray(known / known.sum())


def transfer_ms(
    profile: GpuProfile, dims: npt.NDArray[np.int64], problem: ShardingProblem
) -> tuple[Array, Array]:
    """Forward and backward all-to-all without any waiting, each `[w]`; 0 on a single device."""
    if len(dims) == 1:
        return np.zeros(1), np.zeros(1)
    sample = CommSample(
        index=0,
        devices_per_host=problem.cluster.devices_per_host,
        global_batch_size=problem.global_batch_size,
        dims=dims,
        start_skew_ms=np.zeros(len(dims)),
    )
    times = comm_times(profile, sample)
    return times.forward_ms, times.backward_ms


def _gradients_ms(profile: GpuProfile, parts: list[list[Part]], problem: ShardingProblem) -> float:
    """One all-reduce of the dense fp32 gradients of all copies; 0 without any."""
    copied = [part for part in parts[0] if part.copies > 1]
    if not copied:
        return 0.0
    num_bytes = sum(4 * part.num_rows * part.num_columns for part in copied)
    cluster = problem.cluster
    sample = AllReduceSample(0, cluster.num_devices, cluster.devices_per_host, num_bytes)
    return all_reduce_ms(profile, sample)
