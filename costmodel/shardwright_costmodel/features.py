"""Raw feature columns of the cost models; one definition for training and serving.

A bundle's ONNX graphs take these raw columns and do every transform (logarithms, products,
normalisation) inside, so training and serving cannot drift apart.

Shapes in this package: `n` shards, `p` plans, `w` devices of a job (world size).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from shardwright.domain import REUSE_BINS, EmbeddingTable, Optimizer

FloatArray = npt.NDArray[np.float32]

SHARD_COLUMNS: tuple[str, ...] = (
    "num_rows",
    "num_columns",
    "pooling_factor",
    "global_batch_size",
    "weight_bytes_per_element",
    "state_bytes_per_element",
    "state_bytes_per_row",
    *(f"reuse_{i}" for i in range(REUSE_BINS)),
)
"""Columns of a shard: what the computation cost of a fused embedding-bag operator depends on."""

COMM_COLUMNS: tuple[str, ...] = (
    "world_size",
    "devices_per_host",
    "global_batch_size",
    "device_dim",
    "mean_dim",
    "max_dim",
    "host_mean_dim",
    "max_host_mean_dim",
)
"""Columns of a device in an all-to-all. `*_dim` are sums of embedding dims per device: the device's
own, the mean and maximum over all devices, the mean over the device's host, the largest such mean.
They do not change when the other devices (of a host, or whole hosts) are permuted."""

ALL_REDUCE_COLUMNS: tuple[str, ...] = ("world_size", "devices_per_host", "num_bytes")
"""Columns of an all-reduce among all devices of a job: what data-parallel tables need."""

NUM_COLUMNS_INDEX = SHARD_COLUMNS.index("num_columns")

ZIPF_EXPONENT = 1.2
"""Of the access frequencies assumed for a table without a reuse histogram. Among 0.6, 0.7, ... 1.8
it predicts the number of distinct rows per batch best (mean absolute log error) on the 856 tables
of Meta's public dlrm_datasets, embedding_bag/2021 (MIT)."""

_ZIPF_RANKS = 257
_ZIPF_CHUNK = 1024
"""Tables at a time: bounds memory to some 10 MB."""


def shard_features(
    *,
    num_rows: npt.ArrayLike,
    num_columns: npt.ArrayLike,
    pooling_factor: npt.ArrayLike,
    global_batch_size: npt.ArrayLike,
    weight_bytes_per_element: npt.ArrayLike,
    state_bytes_per_element: npt.ArrayLike,
    state_bytes_per_row: npt.ArrayLike,
    reuse_histogram: npt.ArrayLike,
) -> FloatArray:
    """Assembles shard features from columns.

    Args:
        num_rows: `[n]`, and so are all the others (or scalars) but the last.
        num_columns: Width of the shard, elements.
        pooling_factor: Mean lookups per sample that hit this shard.
        global_batch_size: Samples per iteration.
        weight_bytes_per_element: 4 or 2.
        state_bytes_per_element: Optimizer state.
        state_bytes_per_row: Optimizer state.
        reuse_histogram: `[n, 17]`, any positive scale; normalised to sum 1 here.

    Returns:
        `[n, len(SHARD_COLUMNS)] float32`.
    """
    reuse = np.atleast_2d(np.asarray(reuse_histogram, dtype=np.float64))
    features = np.empty((len(reuse), len(SHARD_COLUMNS)), dtype=np.float32)
    scalars = (
        num_rows,
        num_columns,
        pooling_factor,
        global_batch_size,
        weight_bytes_per_element,
        state_bytes_per_element,
        state_bytes_per_row,
    )
    for column, values in enumerate(scalars):
        features[:, column] = values
    features[:, len(scalars) :] = reuse / reuse.sum(axis=1, keepdims=True)
    return features


def table_features(
    tables: Sequence[EmbeddingTable], global_batch_size: int, optimizer: Optimizer
) -> FloatArray:
    """Features of whole tables, `[len(tables), len(SHARD_COLUMNS)] float32`.

    A table without a reuse histogram is given `zipf_reuse_histograms`.
    """
    return shard_features(
        num_rows=[t.num_embeddings for t in tables],
        num_columns=[t.embedding_dim for t in tables],
        pooling_factor=[t.pooling_factor for t in tables],
        global_batch_size=global_batch_size,
        weight_bytes_per_element=[t.weight_dtype.num_bytes for t in tables],
        state_bytes_per_element=optimizer.state_bytes_per_element,
        state_bytes_per_row=optimizer.state_bytes_per_row,
        reuse_histogram=_reuse_histograms(tables, global_batch_size),
    )


def _reuse_histograms(
    tables: Sequence[EmbeddingTable], global_batch_size: int
) -> npt.NDArray[np.float64]:
    """Given histograms, and Zipf's where none is given, `[len(tables), 17]`."""
    histograms = np.empty((len(tables), REUSE_BINS))
    unknown = []
    for i, table in enumerate(tables):
        if table.reuse_histogram is None:
            unknown.append(i)
        else:
            histograms[i] = table.reuse_histogram
    for start in range(0, len(unknown), _ZIPF_CHUNK):
        chunk = unknown[start : start + _ZIPF_CHUNK]
        histograms[chunk] = zipf_reuse_histograms(
            [tables[i].num_embeddings for i in chunk],
            [tables[i].pooling_factor * global_batch_size for i in chunk],
        )
    return histograms


def zipf_reuse_histogram(num_rows: int, lookups: float) -> npt.NDArray[np.float64]:
    """`zipf_reuse_histograms` of one table, `[17] float64`."""
    return np.asarray(zipf_reuse_histograms([num_rows], [lookups])[0])


def zipf_reuse_histograms(
    num_rows: npt.ArrayLike, lookups: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """The expected reuse histograms of Zipf-distributed tables.

    Row of rank r is accessed c(r) ~ r^-s times a batch, at least once with probability
    1 - exp(-c). Ranks are integrated on a logarithmic grid of 257 points.

    Args:
        num_rows: `[n]`, rows of each table.
        lookups: `[n]`, lookups in one global batch, above 0.

    Returns:
        `[n, 17] float64`, sums 1.
    """
    rows = np.asarray(num_rows, dtype=np.float64)[:, None]
    # powers by exp, which numpy has in vector instructions
    ranks = np.rint(np.exp(np.log(rows) * np.linspace(0.0, 1.0, _ZIPF_RANKS)))
    inner_edges = np.sqrt(ranks[:, 1:] * ranks[:, :-1])
    edges = np.concatenate([np.full_like(rows, 0.5), inner_edges, rows + 0.5], axis=1)
    ranks_at = np.diff(edges, axis=1)
    frequency = np.exp(-ZIPF_EXPONENT * np.log(ranks))
    total = np.sum(frequency * ranks_at, axis=1, keepdims=True)
    count = frequency * (np.asarray(lookups, dtype=np.float64)[:, None] / total)
    distinct = ranks_at * -np.expm1(-count)
    bins = np.clip(np.ceil(np.log2(np.maximum(count, 1e-12))), 0, REUSE_BINS - 1)
    cells = bins.astype(np.int64) + REUSE_BINS * np.arange(len(rows))[:, None]
    size = REUSE_BINS * len(rows)
    histograms = np.bincount(cells.ravel(), weights=distinct.ravel(), minlength=size)
    histograms = histograms.reshape(-1, REUSE_BINS)
    return np.asarray(histograms / histograms.sum(axis=1, keepdims=True))


def comm_features(
    device_dims: npt.ArrayLike, devices_per_host: int, global_batch_size: int
) -> FloatArray:
    """Features of every device of every plan in its all-to-all.

    Args:
        device_dims: `[p, w]`, the sum of embedding dims on each device; device d is on host
            `d // devices_per_host`, and `devices_per_host` divides `w`.
        devices_per_host: Devices that share fast links.
        global_batch_size: Samples per iteration.

    Returns:
        `[p, w, len(COMM_COLUMNS)] float32`.
    """
    dims = np.asarray(device_dims, dtype=np.float64)
    plans, world_size = dims.shape
    hosts = dims.reshape(plans, world_size // devices_per_host, devices_per_host)
    host_mean = hosts.mean(axis=2)
    features = np.empty((plans, world_size, len(COMM_COLUMNS)), dtype=np.float32)
    features[:, :, 0] = world_size
    features[:, :, 1] = devices_per_host
    features[:, :, 2] = global_batch_size
    features[:, :, 3] = dims
    features[:, :, 4] = dims.mean(axis=1)[:, None]
    features[:, :, 5] = dims.max(axis=1)[:, None]
    features[:, :, 6] = np.repeat(host_mean, devices_per_host, axis=1)
    features[:, :, 7] = host_mean.max(axis=1)[:, None]
    return features
