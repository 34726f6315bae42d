"""Forward and backward time of a fused table-batched embedding operator.

An operator costs a fixed part (launches, and what a lone operator cannot hide), and what its
resources need: device memory, L2 cache, instruction issue. Work on each resource ADDS over the
tables. The backward pass also waits for its hottest row, a MAXIMUM over the tables. So fusing
saves the fixed part and lets the hot rows of all tables proceed at once. Sources: see `profile`.

Shapes: `n` tables or pieces of all operators, `m` operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shardwright_benchmark_worker.roofline.profile import GpuProfile
from shardwright_benchmark_worker.sampling.compute import ComputeSample
from shardwright_benchmark_worker.sampling.reuse import BIN_COUNTS

Array = npt.NDArray[np.float64]

_SECTOR_BYTES = 32
"""L2 is read in sectors of this size (CUDA C++ Best Practices Guide, coalesced access)."""
_DRAM_BYTES = 64
"""Device memory is read in bursts of this size (two sectors)."""
_WARP_COLUMNS = 128
"""32 threads load four elements each: fbgemm's kernels spend one warp instruction on up to this
many columns of a row, so narrower rows leave threads idle and save no issue time."""
_INDEX_BYTES, _OFFSET_BYTES, _GRADIENT_BYTES = 8, 8, 4
_SORT_BYTES = 4 * 24 + 8 + 32
"""Traffic of one lookup before the backward kernel: four radix passes that read and write a 64-bit
key and a 32-bit value, their histogram, and linearising, run-length encoding and scanning."""
_OVERLAP = 2.0
"""Norm over the forward's resources, and over the backward's work and its hottest rows; fitted to
[TR2365] (1 and infinity fit worse) and to the fusion medians."""
_BACKWARD_ISSUE = 12.0
"""Issue time of a backward lookup over a forward one; fitted to [MLPERF]'s V100 kernels."""
_BAG_ISSUE = 2.0
"""Issue time of a bag over a lookup: offsets, address arithmetic, writing the result; chosen."""
_GRADIENT_CACHE_SHARE = 0.25
"""Part of L2 that keeps gradients while rows stream through it; fitted to the same kernels."""
_HOT_ROW_NORM = 4
"""Norm that stands for the maximum over rows of their access counts; chosen."""


@dataclass(frozen=True)
class ComputeTimes:
    """Times of `m` fused operators.

    Attributes:
        forward_ms: `[m]`.
        backward_ms: `[m]`, with the optimizer.
    """

    forward_ms: Array
    backward_ms: Array


@dataclass(frozen=True)
class _Shards:
    """Columns of all pieces of all operators, `[n]` but for `reuse` `[n, 17]`."""

    rows: Array
    columns: Array
    lookups: Array
    bags: Array
    weight_bytes: Array
    state_bytes_per_element: Array
    state_bytes_per_row: Array
    reuse: Array


def compute_times(profile: GpuProfile, samples: Sequence[ComputeSample]) -> ComputeTimes:
    """Predicts operators; each one depends on nothing but itself.

    Args:
        profile: The GPU.
        samples: `m` operators of at least one table each.
    """
    shards = _concatenate(samples)
    starts = np.cumsum([0, *(len(s) for s in samples[:-1])])
    sort_ms = shards.lookups * _SORT_BYTES / (profile.sort_gb_per_s * 1e6)
    forward = [np.add.reduceat(w, starts) for w in _forward_work_ms(profile, shards)]
    # a backward warp depends on each step's data before the next: its work does not overlap
    backward = np.add.reduceat(sum(_backward_work_ms(profile, shards)), starts)
    hot_rows = _hottest_row(shards, starts) * profile.hot_row_ns * 1e-6
    return ComputeTimes(
        forward_ms=profile.forward_launch_ms + _norm(forward),
        backward_ms=profile.backward_launch_ms
        + profile.backward_floor_ms
        + np.add.reduceat(sort_ms, starts)
        + _norm([backward, hot_rows]),
    )


def _concatenate(samples: Sequence[ComputeSample]) -> _Shards:
    counts = [len(s) for s in samples]

    def per_shard(values: Sequence[float]) -> Array:
        return np.repeat(np.asarray(values, dtype=np.float64), counts)

    bags = np.concatenate([s.batch_sizes for s in samples]).astype(np.float64)
    return _Shards(
        rows=np.concatenate([s.num_embeddings for s in samples]).astype(np.float64),
        columns=np.concatenate([s.embedding_dim for s in samples]).astype(np.float64),
        lookups=np.concatenate([s.pooling_factor for s in samples]) * bags,
        bags=bags,
        weight_bytes=per_shard([s.weight_dtype.num_bytes for s in samples]),
        state_bytes_per_element=per_shard([s.optimizer.state_bytes_per_element for s in samples]),
        state_bytes_per_row=per_shard([s.optimizer.state_bytes_per_row for s in samples]),
        reuse=np.concatenate([s.reuse_histogram for s in samples]),
    )


def _forward_work_ms(profile: GpuProfile, shards: _Shards) -> list[Array]:
    """Reads indices and rows, writes one fp32 row a bag: `[n]` per resource."""
    row_bytes = shards.columns * shards.weight_bytes
    output_bytes = shards.bags * shards.columns * 4
    distinct = _distinct_rows(shards)
    misses = distinct + _repeated_misses(
        profile, shards, distinct, _round_up(row_bytes, _DRAM_BYTES)
    )
    dram_bytes = (
        misses * _round_up(row_bytes, _DRAM_BYTES)
        + shards.lookups * _INDEX_BYTES
        + shards.bags * _OFFSET_BYTES
        + output_bytes
    )
    l2_bytes = shards.lookups * _round_up(row_bytes, _SECTOR_BYTES) + output_bytes
    issues = shards.lookups * _warps(shards) + shards.bags * _BAG_ISSUE
    return [
        dram_bytes / (profile.dram_gb_per_s * 1e6),
        l2_bytes / (profile.l2_gb_per_s * 1e6),
        issues * profile.forward_issue_ns * 1e-6,
    ]


def _backward_work_ms(profile: GpuProfile, shards: _Shards) -> list[Array]:
    """Reads a gradient row a lookup, reads and writes weights and state of the distinct rows."""
    gradient_row_bytes = shards.columns * _GRADIENT_BYTES
    distinct = _distinct_rows(shards)
    touched = _smooth_min(shards.bags, shards.lookups)
    gradient_set_bytes = touched * _round_up(gradient_row_bytes, _DRAM_BYTES)
    hit = _hit_rate(gradient_set_bytes, _GRADIENT_CACHE_SHARE * profile.l2_bytes)
    repeated = np.maximum(shards.lookups - touched, 0.0)
    gradient_misses = touched + repeated * (1.0 - hit)
    updated_bytes = 2.0 * (
        _round_up(shards.columns * shards.weight_bytes, _DRAM_BYTES)
        + _round_up(shards.columns * shards.state_bytes_per_element, _DRAM_BYTES)
        + _round_up(shards.state_bytes_per_row, _DRAM_BYTES)
    )
    dram_bytes = (
        gradient_misses * _round_up(gradient_row_bytes, _DRAM_BYTES) + distinct * updated_bytes
    )
    l2_bytes = shards.lookups * _round_up(gradient_row_bytes, _SECTOR_BYTES)
    issues = _BACKWARD_ISSUE * shards.lookups * _warps(shards)
    return [
        dram_bytes / (profile.dram_gb_per_s * 1e6),
        l2_bytes / (profile.l2_gb_per_s * 1e6),
        issues * profile.forward_issue_ns * 1e-6,
    ]


def _hottest_row(shards: _Shards, starts: npt.NDArray[np.int64]) -> Array:
    """Accesses of the hottest row of an operator, `[m]`, as a norm over all its rows.

    The accesses of one row are summed one after another, whatever else the GPU does meanwhile.
    """
    share = shards.reuse / shards.reuse.sum(axis=1, keepdims=True)
    distinct = _distinct_rows(shards)
    # a table with fewer rows than its histogram suggests is hit that much harder
    excess = shards.lookups / (distinct * (share @ BIN_COUNTS))
    power = distinct * excess**_HOT_ROW_NORM * (share @ BIN_COUNTS**_HOT_ROW_NORM)
    most = shards.lookups**_HOT_ROW_NORM
    bounded = power * most / (power + most)
    return np.asarray(np.add.reduceat(bounded, starts) ** (1.0 / _HOT_ROW_NORM))


def _norm(parts_ms: Sequence[Array]) -> Array:
    return np.asarray(sum(part**_OVERLAP for part in parts_ms) ** (1.0 / _OVERLAP))


def _distinct_rows(shards: _Shards) -> Array:
    """Rows touched in one batch: the histogram's, but never more than the table has."""
    reuse = shards.reuse @ BIN_COUNTS / shards.reuse.sum(axis=1)
    return _smooth_min(shards.lookups / reuse, shards.rows)


def _repeated_misses(
    profile: GpuProfile, shards: _Shards, distinct: Array, row_bytes: Array
) -> Array:
    """Lookups of rows read before in the batch that L2 no longer holds, `[n]`.

    L2 keeps the hottest rows: a bin hits as far as its rows and all hotter ones fit. Tables of an
    operator run one after another, so each has the cache for itself.
    """
    share = shards.reuse / shards.reuse.sum(axis=1, keepdims=True)
    accesses = share * BIN_COUNTS
    accesses *= (shards.lookups / accesses.sum(axis=1))[:, None]
    repeated = np.maximum(accesses - share * distinct[:, None], 0.0)
    hotter = np.cumsum(share[:, ::-1], axis=1)[:, ::-1] * distinct[:, None]
    hit = _hit_rate(hotter * row_bytes[:, None], profile.l2_bytes)
    return np.asarray((repeated * (1.0 - hit)).sum(axis=1))


def _hit_rate(set_bytes: Array, cache_bytes: float) -> Array:
    """1 for sets far below the cache's size, cache / set far above, smooth between."""
    return np.asarray((1.0 + (set_bytes / cache_bytes) ** 4) ** -0.25)


def _smooth_min(a: Array, b: Array) -> Array:
    return np.asarray((a**-4.0 + b**-4.0) ** -0.25)


def _round_up(num_bytes: Array, multiple: int) -> Array:
    return np.asarray(np.ceil(num_bytes / multiple) * multiple)


def _warps(shards: _Shards) -> Array:
    return np.maximum(shards.columns / _WARP_COLUMNS, 1.0)
