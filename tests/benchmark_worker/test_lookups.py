from __future__ import annotations

import numpy as np
import pytest
import torch

from shardwright.domain import Optimizer, WeightDtype
from shardwright_benchmark_worker.measure.lookups import access_counts, draw_lookups
from shardwright_benchmark_worker.pool import POOL_BATCH_SIZE, TablePool
from shardwright_benchmark_worker.sampling import ComputeSample
from shardwright_benchmark_worker.sampling.reuse import mean_reuse, uniform_histogram

CPU = torch.device("cpu")


def binned(counts: np.ndarray) -> np.ndarray:
    bins = np.ceil(np.log2(counts)).clip(0, 16).astype(int)
    return np.bincount(bins, minlength=17) / len(counts)


def test_access_counts_meet_the_histograms_of_the_pool(pool: TablePool) -> None:
    distances = []
    for i in range(0, len(pool), 3):
        histogram = pool.reuse_histogram[i]
        total = round(pool.pooling_factor[i] * POOL_BATCH_SIZE)
        rows = int(pool.num_embeddings[i])
        counts = access_counts(histogram, rows, total, np.random.default_rng(i))
        assert counts.sum() == total and counts.min() >= 1 and len(counts) <= rows
        # a handful of rows cannot be divided by 17 shares
        if len(counts) > 500:
            distances.append(0.5 * np.abs(binned(counts) - histogram).sum())
    assert len(distances) > 100
    assert np.median(distances) < 0.01 and max(distances) < 0.15


def test_hot_rows_are_drawn_without_bias() -> None:
    # one row in 10000 is hot: 1000 distinct rows have one in a tenth of the draws, and it gets
    # the accesses that the total leaves for it
    histogram = np.zeros(17)
    histogram[0], histogram[10] = 0.9999, 0.0001
    total = round(1000 * float(mean_reuse(histogram)))
    hot = [
        (access_counts(histogram, 10**6, total, np.random.default_rng(i)) > 50).sum()
        for i in range(400)
    ]
    assert np.mean(hot) == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize(("rows", "total"), [(1, 1), (1, 10**6), (3, 65_536), (10**9, 1), (7, 7)])
def test_extreme_tables_still_get_every_lookup(rows: int, total: int) -> None:
    for histogram in (np.eye(17)[0], np.eye(17)[16], np.full(17, 1 / 17)):
        counts = access_counts(histogram, rows, total, np.random.default_rng(0))
        assert counts.sum() == total and counts.min() >= 1 and len(counts) <= rows


def sample_of(rows: list[int], pooling: list[float], batch: int) -> ComputeSample:
    histograms = [uniform_histogram(r, p * batch) for r, p in zip(rows, pooling, strict=True)]
    return ComputeSample(
        index=0,
        global_batch_size=batch,
        optimizer=Optimizer.SGD,
        weight_dtype=WeightDtype.FP32,
        num_embeddings=np.array(rows),
        embedding_dim=np.full(len(rows), 4),
        pooling_factor=np.array(pooling),
        reuse_histogram=np.array(histograms),
    )


def test_a_batch_has_every_tables_pooling_factor_and_rows() -> None:
    rows, pooling, batch = [100_000, 3, 50], [12.5, 1.0, 0.25], 1000
    lookups = draw_lookups(sample_of(rows, pooling, batch), np.random.default_rng(0), CPU)
    offsets = lookups.offsets.numpy()
    assert len(offsets) == 3 * batch + 1 and offsets[0] == 0
    assert offsets[-1] == len(lookups.indices)
    lengths = np.diff(offsets).reshape(3, batch)
    assert lengths.sum(axis=1).tolist() == [12_500, 1000, 250]
    assert np.ptp(lengths, axis=1).tolist() == [1, 0, 1]
    for t, table in enumerate(np.split(lookups.indices.numpy(), offsets[[batch, 2 * batch]])):
        assert table.min() >= 0 and table.max() < rows[t]
    # rows come from the whole table and in no order
    first = lookups.indices.numpy()[:12_500]
    assert first.max() > 99_000 and first.min() < 1000
    assert 0.4 < np.mean(np.diff(first) > 0) < 0.6


def test_the_same_generator_gives_the_same_batch() -> None:
    sample = sample_of([1000, 20], [3.0, 7.0], 256)
    first, again, other = (
        draw_lookups(sample, np.random.default_rng(seed), CPU) for seed in (1, 1, 2)
    )
    assert torch.equal(first.indices, again.indices) and torch.equal(first.offsets, again.offsets)
    assert not torch.equal(first.indices, other.indices)
