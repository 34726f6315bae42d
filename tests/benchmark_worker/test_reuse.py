from __future__ import annotations

import csv

import numpy as np
import pytest

from shardwright_benchmark_worker.pool import POOL_PATH, TablePool
from shardwright_benchmark_worker.sampling.reuse import (
    BIN_COUNTS,
    mean_reuse,
    rescale,
    uniform_histogram,
)


def test_bins_stand_for_the_mean_of_their_access_counts() -> None:
    for i in (1, 2, 5):
        low, high = 2 ** (i - 1) + 1, 2**i
        assert BIN_COUNTS[i] == np.mean(np.arange(low, high + 1))


def test_mean_reuse_agrees_with_the_published_estimates(pool: TablePool) -> None:
    with POOL_PATH.open(newline="", encoding="utf-8") as file:
        published = [
            float(row["mean_reuse_est"])
            for row in csv.DictReader(file)
            if float(row["pooling_factor"]) > 0
        ]
    ratio = mean_reuse(pool.reuse_histogram) / np.array(published)
    # they weigh the bins a little differently: 10 % at most
    assert ratio.min() > 0.99 and ratio.max() < 1.12


def test_a_factor_of_one_changes_nothing(pool: TablePool) -> None:
    np.testing.assert_allclose(
        rescale(pool.reuse_histogram, np.ones(len(pool))), pool.reuse_histogram
    )


@pytest.mark.parametrize("rate", [8.0, 40.0, 300.0])
def test_rescaling_agrees_with_uniform_access_at_another_batch(rate: float) -> None:
    # rows that are all equally popular stay so: compare with the histogram computed directly
    for factor in (0.25, 4.0):
        scaled = rescale(uniform_histogram(1.0, rate)[None], np.array([factor]))[0]
        direct = uniform_histogram(1.0, rate * factor)
        assert mean_reuse(scaled) == pytest.approx(mean_reuse(direct), rel=0.2)


def test_larger_batches_reuse_rows_more(pool: TablePool) -> None:
    reuse = [
        mean_reuse(rescale(pool.reuse_histogram, np.full(len(pool), factor)))
        for factor in (1 / 64, 1 / 8, 1 / 2, 1, 2, 8)
    ]
    assert np.all(np.diff(reuse, axis=0) >= -1e-6 * reuse[0])


def test_extreme_factors_give_histograms(pool: TablePool) -> None:
    for factor in (1e-12, 1e12):
        scaled = rescale(pool.reuse_histogram, np.full(len(pool), factor))
        np.testing.assert_allclose(scaled.sum(axis=1), 1.0)
        assert scaled.min() >= 0


@pytest.mark.parametrize(("rows", "lookups"), [(1000, 1), (1000, 1000), (3, 65_536), (3, 10**9)])
def test_uniform_histograms_have_the_expected_reuse(rows: int, lookups: int) -> None:
    histogram = uniform_histogram(rows, lookups)
    distinct = rows * -np.expm1(-lookups / rows)
    # the open last bin stands for 49152.5 accesses
    assert mean_reuse(histogram) == pytest.approx(min(lookups / distinct, 49152.5), rel=0.35)
