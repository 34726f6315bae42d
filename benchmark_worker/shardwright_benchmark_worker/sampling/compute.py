"""Draws fused operators: combinations of tables and table pieces as a search asks for them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from shardwright.domain import COLUMN_MULTIPLE, Optimizer, WeightDtype
from shardwright_benchmark_worker.pool import POOL_BATCH_SIZE, TablePool
from shardwright_benchmark_worker.sampling.limits import ComputeLimits, draw_batch_size
from shardwright_benchmark_worker.sampling.reuse import rescale, uniform_histogram
from shardwright_costmodel.features import zipf_reuse_histogram

_STREAM = 1
"""Keeps the random numbers of compute samples apart from those of communication samples."""

TINY_SHARE, MODEL_SHARE = 0.12, 0.10
"""Shares of tiny tables (3 .. 1000 rows, DLRM has them) and of tables like those of published
models (MLPerf DLRM-DCNv2: 40M rows, dim 128, pooling 1 .. 100). All others come from the pool."""
NO_ROW_PIECES_SHARE, NO_COPIES_SHARE = 0.5, 0.75
"""Of operators: without row-wise pieces, and without copies of data-parallel tables."""
HOST_PIECE_SHARE = 0.25
"""Of row-wise tables: cut for the devices of one host rather than for all."""
MAX_DEVICES = 128
"""Largest job whose row pieces and copies are drawn."""
NARROW_SHARE, WIDE_SHARE = 0.10, 0.05
"""Of tables: column pieces of 4 .. 32, and more than 128 columns."""
UNSCALED_SHARE, ZIPF_SHARE = 0.15, 0.10
"""Of pool tables: histogram left as counted at another batch (users have such statistics too), and
replaced by the one assumed for tables without statistics."""
FULL_SHARE = 0.05
"""Of operators: rows scaled up until the device's memory is nearly full."""
DEVICE_GIB = (4, 16, 24, 32, 40, 80, 141)
"""Memory of the devices that are filled, where `max_memory_bytes` does not say."""
ROWS_SIGMA, POOLING_SIGMA = 0.6, 0.5
"""Log-normal spread of rows and pooling factors around those of the pool."""


@dataclass(frozen=True)
class ComputeSample:
    """One fused operator on one device; `t` tables or pieces of tables.

    Attributes:
        index: Its place in the sequence of a seed.
        global_batch_size: Samples per iteration.
        optimizer: Fused into the backward pass.
        weight_dtype: Of every table: one fused operator has one.
        num_embeddings: `[t] int64`, rows.
        embedding_dim: `[t] int64`, columns, multiples of 4.
        pooling_factor: `[t] float64`, mean lookups per sample.
        reuse_histogram: `[t, 17] float64`, each row of sum 1.
        batch_size: `[t] int64`, samples that each table sees, fewer for copies of data-parallel
            tables; None: all see the global batch.
    """

    index: int
    global_batch_size: int
    optimizer: Optimizer
    weight_dtype: WeightDtype
    num_embeddings: npt.NDArray[np.int64]
    embedding_dim: npt.NDArray[np.int64]
    pooling_factor: npt.NDArray[np.float64]
    reuse_histogram: npt.NDArray[np.float64]
    batch_size: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.num_embeddings)

    @property
    def batch_sizes(self) -> npt.NDArray[np.int64]:
        """`[t]`, samples that each table sees."""
        if self.batch_size is not None:
            return self.batch_size
        return np.full(len(self), self.global_batch_size, dtype=np.int64)

    @property
    def lookups(self) -> npt.NDArray[np.float64]:
        """`[t]`, in one iteration."""
        return np.asarray(self.pooling_factor * self.batch_sizes)

    @property
    def memory_bytes(self) -> npt.NDArray[np.int64]:
        """`[t]`, weights and optimizer state."""
        element_bytes = self.weight_dtype.num_bytes + self.optimizer.state_bytes_per_element
        row_bytes = self.embedding_dim * element_bytes + self.optimizer.state_bytes_per_row
        return np.asarray(self.num_embeddings * row_bytes, dtype=np.int64)


@dataclass(frozen=True)
class _Tables:
    """Columns of the tables being drawn, each `[t]`; the reuse histogram `[t, 17]`."""

    rows: npt.NDArray[np.float64]
    pooling: npt.NDArray[np.float64]
    dims: npt.NDArray[np.int64]
    reuse: npt.NDArray[np.float64]


def draw_compute_sample(
    pool: TablePool, limits: ComputeLimits, seed: int, index: int
) -> ComputeSample:
    """Draws sample `index` of the sequence of `seed`; no other sample has an influence.

    Args:
        pool: Tables to draw from, with replacement.
        limits: What may be drawn.
        seed: Of the sequence.
        index: From 0.
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, _STREAM, index)))
    batch_size = draw_batch_size(rng, limits.min_batch_size, limits.max_batch_size)
    count = min(int(math.exp(rng.uniform(0.0, math.log(limits.max_shards + 1)))), limits.max_shards)
    optimizer = limits.optimizers[int(rng.integers(len(limits.optimizers)))]
    weights = np.array([8.0 if d is WeightDtype.FP32 else 1.0 for d in limits.weight_dtypes])
    dtype = limits.weight_dtypes[int(rng.choice(len(weights), p=weights / weights.sum()))]
    tables = _draw_tables(rng, pool, count, batch_size, limits.max_dim)
    pieces, copies = _draw_spread(rng, count, limits.copies)
    sample = ComputeSample(
        index=index,
        global_batch_size=batch_size,
        optimizer=optimizer,
        weight_dtype=dtype,
        num_embeddings=np.ceil(np.maximum(tables.rows, 1.0) / pieces).astype(np.int64),
        embedding_dim=tables.dims,
        pooling_factor=tables.pooling / pieces,
        reuse_histogram=tables.reuse,
        batch_size=np.maximum(batch_size // copies, 1) if (copies > 1).any() else None,
    )
    return _within(_fill_memory(rng, sample, limits), limits)


def _draw_tables(
    rng: np.random.Generator, pool: TablePool, count: int, batch_size: int, max_dim: int
) -> _Tables:
    pick = rng.integers(len(pool), size=count)
    rows_factor = np.exp(rng.normal(0.0, ROWS_SIGMA, count))
    pooling_factor = np.exp(rng.normal(0.0, POOLING_SIGMA, count))
    rows = np.maximum(pool.num_embeddings[pick] * rows_factor, 1.0)
    pooling = pool.pooling_factor[pick] * pooling_factor
    dims = COLUMN_MULTIPLE * rng.integers(1, min(128, max_dim) // COLUMN_MULTIPLE + 1, size=count)
    narrow = rng.random(count) < NARROW_SHARE
    dims = np.where(narrow, np.minimum(dims, COLUMN_MULTIPLE << rng.integers(0, 4, count)), dims)
    wide = (rng.random(count) < WIDE_SHARE) & (max_dim > 128)
    widths = 64 * rng.integers(3, max(max_dim // 64, 3) + 1, size=count)
    dims = np.minimum(np.where(wide, widths, dims), max_dim)
    # popularity of a row grows with the batch and the lookups, and falls with the rows
    popularity = batch_size / POOL_BATCH_SIZE * pooling_factor / rows_factor
    style = rng.random(count)
    popularity = np.where(style < UNSCALED_SHARE, 1.0, popularity)
    reuse = rescale(pool.reuse_histogram[pick], popularity)
    for i in np.flatnonzero(style > 1 - ZIPF_SHARE):
        reuse[i] = zipf_reuse_histogram(int(rows[i]), pooling[i] * batch_size)
    tables = _Tables(rows, pooling, dims, reuse)
    kind = rng.random(count)
    _make_tiny(rng, tables, kind < TINY_SHARE, batch_size)
    _make_model(rng, tables, kind > 1 - MODEL_SHARE, batch_size, max_dim)
    return tables


def _make_tiny(
    rng: np.random.Generator, tables: _Tables, chosen: npt.NDArray[np.bool_], batch_size: int
) -> None:
    for i in np.flatnonzero(chosen):
        tables.rows[i] = int(math.exp(rng.uniform(math.log(3), math.log(1001))))
        tables.pooling[i] = 1.0 if rng.random() < 0.5 else tables.pooling[i]
        tables.reuse[i] = _synthetic_reuse(rng, tables.rows[i], tables.pooling[i] * batch_size)


def _make_model(
    rng: np.random.Generator,
    tables: _Tables,
    chosen: npt.NDArray[np.bool_],
    batch_size: int,
    max_dim: int,
) -> None:
    for i in np.flatnonzero(chosen):
        exponent = rng.uniform(math.log(1e4), math.log(4e8))
        tables.rows[i] = 4e7 if rng.random() < 0.4 else int(math.exp(exponent))
        tables.pooling[i] = int(math.exp(rng.uniform(0.0, math.log(101))))
        halvings = max(int(rng.integers(-2, 4)), 0)
        tables.dims[i] = min(128 >> halvings, max_dim)
        if rng.random() < 0.75:
            lookups = tables.pooling[i] * batch_size
            tables.reuse[i] = _synthetic_reuse(rng, tables.rows[i], lookups)


def _synthetic_reuse(
    rng: np.random.Generator, rows: float, lookups: float
) -> npt.NDArray[np.float64]:
    if rng.random() < 0.5:
        return uniform_histogram(rows, lookups)
    return zipf_reuse_histogram(int(rows), lookups)


def _draw_spread(
    rng: np.random.Generator, count: int, copies_allowed: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of each table, into how many row pieces it is cut, and how many copies share its batch.

    All pieces and copies of an operator are those of one job: row-wise over its devices or over
    those of a host, data-parallel over its devices. A piece of n has rows / n and pooling / n.
    """
    devices = int(math.exp(rng.uniform(math.log(2), math.log(MAX_DEVICES + 1))))
    devices = 2 ** round(math.log2(devices)) if rng.random() < 0.7 else devices
    per_host = min(devices, 1 << int(rng.integers(1, 4)))
    row_share = 0.0 if rng.random() < NO_ROW_PIECES_SHARE else rng.random()
    copy_share = 0.0 if rng.random() < NO_COPIES_SHARE or not copies_allowed else rng.random()
    kind = rng.random(count)
    pieces = np.where(rng.random(count) < HOST_PIECE_SHARE, per_host, devices)
    in_rows = kind < row_share
    copied = ~in_rows & (rng.random(count) < copy_share)
    return np.where(in_rows, pieces, 1), np.where(copied, devices, 1)


def _fill_memory(
    rng: np.random.Generator, sample: ComputeSample, limits: ComputeLimits
) -> ComputeSample:
    """In `FULL_SHARE` of samples: 90 to 100 % of a device's memory, by more rows in every table."""
    chosen = rng.random() < FULL_SHARE
    device_bytes = limits.max_memory_bytes or int(rng.choice(DEVICE_GIB)) << 30
    scale = rng.uniform(0.9, 1.0) * device_bytes / sample.memory_bytes.sum()
    if not chosen or scale <= 1.0:
        return sample
    rows = np.maximum((sample.num_embeddings * scale).astype(np.int64), 1)
    return replace(sample, num_embeddings=rows)


def _within(sample: ComputeSample, limits: ComputeLimits) -> ComputeSample:
    """Keeps tables, in order, as long as they fit; shrinks the first one when none does."""
    lookups = sample.lookups
    memory_bytes = sample.memory_bytes
    keep, used_bytes, used_lookups = [], 0, 0.0
    max_bytes = limits.max_memory_bytes or math.inf
    max_lookups = limits.max_lookups or math.inf
    for i in range(len(sample)):
        fits = used_bytes + memory_bytes[i] <= max_bytes
        if fits and used_lookups + lookups[i] <= max_lookups:
            keep.append(i)
            used_bytes += int(memory_bytes[i])
            used_lookups += float(lookups[i])
    if len(keep) == len(sample):
        return sample
    rows, pooling = sample.num_embeddings, sample.pooling_factor
    if not keep:
        keep = [0]
        rows = np.maximum((rows * min(1.0, max_bytes / memory_bytes[0])).astype(np.int64), 1)
        pooling = pooling * min(1.0, max_lookups / lookups[0])
    return replace(
        sample,
        num_embeddings=rows[keep],
        embedding_dim=sample.embedding_dim[keep],
        pooling_factor=pooling[keep],
        reuse_histogram=sample.reuse_histogram[keep],
        batch_size=None if sample.batch_size is None else sample.batch_size[keep],
    )
