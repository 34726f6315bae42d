"""The roofline against published measurements, the facts it must show, and its shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.domain import Optimizer, WeightDtype
from shardwright_benchmark_worker.errors import ProfileError
from shardwright_benchmark_worker.pool import POOL_BATCH_SIZE, TablePool
from shardwright_benchmark_worker.roofline import (
    PROFILES,
    ComputeTimes,
    GpuProfile,
    compute_times,
    get_profile,
)
from shardwright_benchmark_worker.sampling import (
    ComputeLimits,
    ComputeSample,
    draw_compute_sample,
)
from shardwright_benchmark_worker.sampling.reuse import uniform_histogram

H100 = get_profile("nvidia-h100-sxm5-80gb")
A100 = get_profile("nvidia-a100-sxm4-80gb")
V100 = get_profile("nvidia-v100-sxm2-32gb")


def uniform_tables(
    tables: int, rows: int, dim: int, pooling: int, batch: int, dtype: str = "fp32"
) -> ComputeSample:
    return ComputeSample(
        index=0,
        global_batch_size=batch,
        optimizer=Optimizer.SGD,
        weight_dtype=WeightDtype(dtype),
        num_embeddings=np.full(tables, rows),
        embedding_dim=np.full(tables, dim),
        pooling_factor=np.full(tables, float(pooling)),
        reuse_histogram=np.tile(uniform_histogram(rows, pooling * batch), (tables, 1)),
    )


def pool_tables(
    pool: TablePool, picks: npt.NDArray[np.int64], dims: npt.NDArray[np.int64]
) -> ComputeSample:
    return ComputeSample(
        index=0,
        global_batch_size=POOL_BATCH_SIZE,
        optimizer=Optimizer.SGD,
        weight_dtype=WeightDtype.FP32,
        num_embeddings=pool.num_embeddings[picks],
        embedding_dim=dims,
        pooling_factor=pool.pooling_factor[picks],
        reuse_histogram=pool.reuse_histogram[picks],
    )


def total_ms(times: ComputeTimes) -> npt.NDArray[np.float64]:
    return np.asarray(times.forward_ms + times.backward_ms)


# --- published measurements ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pooling", "published_us"),
    [(16, 5136.5), (32, 9891.5), (38, 11538.0), (64, 19622.0), (128, 38814.0)],
)
def test_v100_backward_kernels(pooling: int, published_us: float) -> None:
    # github.com/owensgroup/ml_perf_model: 32 tables, 500k rows, dim 128, batch 4096, exact SGD
    times = compute_times(V100, [uniform_tables(32, 500_000, 128, pooling, 4096)])
    assert times.backward_ms[0] * 1e3 == pytest.approx(published_us, rel=0.20)


@pytest.mark.parametrize(("dim", "published_us"), [(32, 5.0), (64, 7.5), (128, 20.9), (256, 40.4)])
def test_v100_small_forward_kernels(dim: int, published_us: float) -> None:
    # same source: 32 tables, 1000 rows, pooling 8, batch 128; kernel time without its launch
    times = compute_times(V100, [uniform_tables(32, 1000, dim, 8, 128)])
    kernel_us = (times.forward_ms[0] - V100.forward_launch_ms) * 1e3
    assert kernel_us == pytest.approx(published_us, rel=0.35)


def test_v100_half_precision() -> None:
    # pytorch/FBGEMM commit d24451208 (GPU unnamed, likely V100): 32 tables, 1e5 rows, dim 128,
    # pooling 20, batch 512, fp16: forward 138 us, forward + backward 1098-1139 us
    times = compute_times(V100, [uniform_tables(32, 100_000, 128, 20, 512, "fp16")])
    assert times.forward_ms[0] * 1e3 == pytest.approx(138, rel=0.10)
    assert total_ms(times)[0] * 1e3 == pytest.approx(1120, rel=0.30)


@pytest.mark.parametrize(
    ("dim", "published_us"),
    [(4, 121), (8, 134), (16, 161), (32, 174), (64, 310), (128, 648), (256, 1451), (512, 3337)]
    + [(1024, 7019)],
)
def test_a100_forward_by_dim(dim: int, published_us: float) -> None:
    # meta-pytorch/torchrec issue 2365, P90, GPU unnamed, read as an A100's and 262144 bags in all:
    # 4 tables, 1e5 rows, pooling 10
    times = compute_times(A100, [uniform_tables(4, 100_000, dim, 10, 65_536)])
    assert times.forward_ms[0] * 1e3 == pytest.approx(published_us, rel=0.35)


@pytest.mark.parametrize(
    ("dim", "published_us"),
    [(16, 588), (32, 723), (64, 1294), (128, 2735), (256, 6561), (512, 14850), (1024, 31060)],
)
def test_h100_forward_by_dim(dim: int, published_us: float) -> None:
    # same source, 16 tables and batch 131072, read as an H100's
    times = compute_times(H100, [uniform_tables(16, 100_000, dim, 10, 131_072)])
    assert times.forward_ms[0] * 1e3 == pytest.approx(published_us, rel=0.30)


# --- facts of real GPUs --------------------------------------------------------------------------


@pytest.mark.parametrize("profile", [H100, A100], ids=lambda p: p.hardware)
@pytest.mark.parametrize(
    ("tables", "median"), [(2, 0.749), (3, 0.644), (5, 0.568), (8, 0.490), (12, 0.502), (15, 0.491)]
)
def test_fusing_tables_saves_time(
    pool: TablePool, profile: GpuProfile, tables: int, median: float
) -> None:
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(300):
        picks = rng.integers(len(pool), size=tables)
        dims = 4 * rng.integers(1, 33, size=tables)
        fused = pool_tables(pool, picks, dims)
        singles = [pool_tables(pool, picks[k : k + 1], dims[k : k + 1]) for k in range(tables)]
        fused_ms = total_ms(compute_times(profile, [fused]))[0]
        ratios.append(fused_ms / total_ms(compute_times(profile, singles)).sum())
    assert np.median(ratios) == pytest.approx(median, abs=0.06)
    assert max(ratios) < 1


@pytest.mark.parametrize("profile", [H100, A100], ids=lambda p: p.hardware)
def test_halving_a_dim_saves_far_less_than_half(pool: TablePool, profile: GpuProfile) -> None:
    def costs(dim: int) -> npt.NDArray[np.float64]:
        singles = [
            pool_tables(pool, np.array([i]), np.array([dim])) for i in range(0, len(pool), 5)
        ]
        return total_ms(compute_times(profile, singles))

    halved = costs(64) / costs(128)
    # the published fit, 1.88 + 0.075 p + 0.054 p dim/128 ms, gives 0.95 at p = 4 and 0.85 at p = 25
    assert 0.80 < np.median(halved) < 0.97
    assert halved.min() > 0.60
    assert np.median(costs(8) / costs(16)) > 0.95


def test_reuse_makes_lookups_cheaper() -> None:
    cold = uniform_tables(1, 10_000_000, 128, 20, 8192)
    warm = replace(cold, reuse_histogram=uniform_histogram(5000, 20 * 8192)[None])
    cold_ms, warm_ms = compute_times(H100, [cold, warm]).forward_ms
    assert warm_ms < 0.8 * cold_ms


def test_optimizers_cost_what_they_read_and_write() -> None:
    sample = uniform_tables(4, 10_000_000, 64, 10, 65_536)
    order = (Optimizer.SGD, Optimizer.ROWWISE_ADAGRAD, Optimizer.ADAGRAD, Optimizer.ADAM)
    times = compute_times(H100, [replace(sample, optimizer=o) for o in order])
    assert (np.diff(times.backward_ms) > 0).all()
    assert np.ptp(times.forward_ms) == 0


def test_half_precision_is_cheaper() -> None:
    full, half = (uniform_tables(4, 10_000_000, 128, 20, 65_536, d) for d in ("fp32", "fp16"))
    times = compute_times(H100, [full, half])
    assert times.forward_ms[1] < 0.75 * times.forward_ms[0]
    assert times.backward_ms[1] < times.backward_ms[0]


def test_newer_gpus_are_faster(pool: TablePool) -> None:
    samples = [draw_compute_sample(pool, ComputeLimits(), 0, i) for i in range(100)]
    h100, a100, v100 = (total_ms(compute_times(p, samples)) for p in (H100, A100, V100))
    assert (h100 <= a100).all() and (a100 <= v100).all()


# --- shape ---------------------------------------------------------------------------------------

INDICES = st.integers(0, 10_000)
PROFILE = st.sampled_from(sorted(PROFILES)).map(get_profile)


@settings(deadline=None, max_examples=60)
@given(profile=PROFILE, index=INDICES)
def test_times_are_positive_and_finite(profile: GpuProfile, index: int, pool: TablePool) -> None:
    sample = draw_compute_sample(pool, ComputeLimits(), 0, index)
    times = compute_times(profile, [sample])
    for ms in (times.forward_ms, times.backward_ms):
        assert ms.shape == (1,) and np.isfinite(ms).all() and (ms > 0).all()


@settings(deadline=None, max_examples=60)
@given(profile=PROFILE, index=INDICES, factor=st.floats(1.0, 100.0), which=st.integers(0, 39))
def test_times_rise_with_lookups_dim_batch_and_tables(
    profile: GpuProfile, index: int, factor: float, which: int, pool: TablePool
) -> None:
    sample = draw_compute_sample(pool, ComputeLimits(), 1, index)
    one = np.arange(len(sample)) == which % len(sample)
    grown = {
        "lookups": replace(
            sample, pooling_factor=sample.pooling_factor * np.where(one, factor, 1.0)
        ),
        "dim": replace(
            sample, embedding_dim=np.where(one, sample.embedding_dim + 4, sample.embedding_dim)
        ),
        "batch": replace(sample, batch_size=(sample.batch_sizes * factor).astype(np.int64)),
        "tables": replace(
            sample,
            **{
                name: np.concatenate([getattr(sample, name), getattr(sample, name)[one]])
                for name in ("num_embeddings", "embedding_dim", "pooling_factor")
            },
            reuse_histogram=np.concatenate([sample.reuse_histogram, sample.reuse_histogram[one]]),
            batch_size=np.concatenate([sample.batch_sizes, sample.batch_sizes[one]]),
        ),
    }
    before = compute_times(profile, [sample])
    for change, larger in grown.items():
        after = compute_times(profile, [larger])
        assert after.forward_ms[0] >= before.forward_ms[0] * (1 - 1e-12), change
        assert after.backward_ms[0] >= before.backward_ms[0] * (1 - 1e-12), change


@settings(deadline=None, max_examples=30)
@given(index=INDICES)
def test_small_changes_change_little(index: int, pool: TablePool) -> None:
    sample = draw_compute_sample(pool, ComputeLimits(), 2, index)
    nudged = replace(sample, pooling_factor=sample.pooling_factor * 1.001)
    times = compute_times(H100, [sample, nudged])
    assert times.forward_ms[1] <= times.forward_ms[0] * 1.0011
    assert times.backward_ms[1] <= times.backward_ms[0] * 1.0041


def test_a_copy_costs_what_its_share_of_the_batch_does(pool: TablePool) -> None:
    shared = uniform_tables(1, rows=10_000, dim=64, pooling=5, batch=4096)
    copy = replace(shared, global_batch_size=65_536, batch_size=np.array([4096]))
    both = compute_times(H100, [shared, copy])
    assert both.forward_ms[0] == both.forward_ms[1]
    assert both.backward_ms[0] == both.backward_ms[1]


def test_an_operator_does_not_depend_on_its_neighbours(pool: TablePool) -> None:
    samples = [draw_compute_sample(pool, ComputeLimits(), 0, i) for i in range(50)]
    together = compute_times(H100, samples)
    alone = [compute_times(H100, [sample]) for sample in samples]
    np.testing.assert_allclose(together.forward_ms, [t.forward_ms[0] for t in alone], rtol=1e-12)
    np.testing.assert_allclose(together.backward_ms, [t.backward_ms[0] for t in alone], rtol=1e-12)


def test_the_order_of_tables_does_not_matter(pool: TablePool) -> None:
    picks, dims = np.arange(20), 4 * np.arange(1, 21)
    shuffled = np.random.default_rng(0).permutation(20)
    times = compute_times(
        H100, [pool_tables(pool, picks, dims), pool_tables(pool, picks[shuffled], dims[shuffled])]
    )
    assert times.forward_ms[0] == pytest.approx(times.forward_ms[1], rel=1e-12)
    assert times.backward_ms[0] == pytest.approx(times.backward_ms[1], rel=1e-12)


def test_an_unknown_profile_lists_those_there_are() -> None:
    with pytest.raises(ProfileError, match="'h100'; there are: nvidia-a100.*nvidia-h100"):
        get_profile("h100")
