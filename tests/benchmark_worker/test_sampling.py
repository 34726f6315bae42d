from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest

from shardwright.domain import EmbeddingTable, Optimizer, WeightDtype
from shardwright_benchmark_worker.errors import OptionError
from shardwright_benchmark_worker.pool import TablePool
from shardwright_benchmark_worker.sampling import (
    CommLimits,
    CommSample,
    ComputeLimits,
    ComputeSample,
    draw_all_reduce_sample,
    draw_comm_sample,
    draw_compute_sample,
)
from shardwright_benchmark_worker.sampling.compute import DEVICE_GIB

NUM_SAMPLES = 600


@pytest.fixture(scope="module")
def compute_samples(pool: TablePool) -> list[ComputeSample]:
    return [draw_compute_sample(pool, ComputeLimits(), 0, i) for i in range(NUM_SAMPLES)]


@pytest.fixture(scope="module")
def comm_samples() -> list[CommSample]:
    return [draw_comm_sample(CommLimits(), 0, i) for i in range(NUM_SAMPLES)]


def same(a: ComputeSample | CommSample, b: ComputeSample | CommSample) -> bool:
    return all(
        np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)
    )


def test_a_sample_depends_on_seed_and_index_alone(
    pool: TablePool, compute_samples: list[ComputeSample], comm_samples: list[CommSample]
) -> None:
    for index in (599, 3, 250):
        assert same(draw_compute_sample(pool, ComputeLimits(), 0, index), compute_samples[index])
        assert same(draw_comm_sample(CommLimits(), 0, index), comm_samples[index])
        assert not same(
            draw_compute_sample(pool, ComputeLimits(), 1, index), compute_samples[index]
        )
        assert not same(draw_comm_sample(CommLimits(), 1, index), comm_samples[index])


def test_another_process_draws_the_same(compute_samples: list[ComputeSample]) -> None:
    script = (
        "from shardwright_benchmark_worker.pool import read_pool\n"
        "from shardwright_benchmark_worker.sampling import *\n"
        "s = draw_compute_sample(read_pool(), ComputeLimits(), 0, 17)\n"
        "print(s.global_batch_size, s.num_embeddings.sum(), s.pooling_factor.sum().hex())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    out = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    ).stdout
    s = compute_samples[17]
    expected = (s.global_batch_size, s.num_embeddings.sum(), s.pooling_factor.sum().hex())
    assert out.split() == [str(value) for value in expected]


def test_samples_differ_from_each_other(compute_samples: list[ComputeSample]) -> None:
    assert len(
        {(s.global_batch_size, len(s), float(s.pooling_factor[0])) for s in compute_samples}
    ) > (0.99 * NUM_SAMPLES)


def test_every_table_is_one_that_a_request_could_name(
    compute_samples: list[ComputeSample],
) -> None:
    for sample in compute_samples:
        for i in range(len(sample)):
            # raises InvalidValueError unless every invariant of a table holds
            EmbeddingTable(
                name="t",
                num_embeddings=int(sample.num_embeddings[i]),
                embedding_dim=int(sample.embedding_dim[i]),
                pooling_factor=float(sample.pooling_factor[i]),
                reuse_histogram=tuple(sample.reuse_histogram[i].tolist()),
            )


def test_compute_samples_cover_what_a_search_asks(compute_samples: list[ComputeSample]) -> None:
    counts = np.array([len(s) for s in compute_samples])
    batches = np.array([s.global_batch_size for s in compute_samples])
    dims = np.concatenate([s.embedding_dim for s in compute_samples])
    rows = np.concatenate([s.num_embeddings for s in compute_samples])
    assert counts.min() == 1 and counts.max() > 35 and 3 <= np.median(counts) <= 10
    assert batches.min() < 1024 and batches.max() > 131_072
    powers = np.log2(batches) == np.rint(np.log2(batches))
    assert 0.35 < powers.mean() < 0.65
    assert set(range(4, 132, 4)) <= set(dims.tolist()) and (dims <= 1024).all()
    assert 0.85 < (dims <= 128).mean() < 1.0
    assert rows.min() < 10 and (rows == 40_000_000).mean() > 0.02
    assert {s.optimizer for s in compute_samples} == set(Optimizer)
    fp32 = np.mean([s.weight_dtype is WeightDtype.FP32 for s in compute_samples])
    assert 0.7 < fp32 < 0.9
    assert {s.weight_dtype for s in compute_samples} == set(WeightDtype)


def test_operators_reach_the_memory_limit_of_a_device(
    pool: TablePool, compute_samples: list[ComputeSample]
) -> None:
    """Where one is given, a quarter do; else a few tables fill one of the usual sizes."""
    device_bytes = 24 << 30
    limits = ComputeLimits(max_memory_bytes=device_bytes)
    filled = np.array(
        [
            draw_compute_sample(pool, limits, 0, i).memory_bytes.sum() / device_bytes
            for i in range(NUM_SAMPLES)
        ]
    )
    assert (filled <= 1).all() and (filled > 0.9).mean() > 0.2
    gib = np.array([s.memory_bytes.sum() / 2**30 for s in compute_samples if len(s) <= 3])
    full = np.any([(gib > 0.9 * size) & (gib <= size) for size in DEVICE_GIB], axis=0)
    assert full.sum() > 0.03 * NUM_SAMPLES


def test_compute_samples_have_row_pieces_and_copies_of_one_job(
    compute_samples: list[ComputeSample],
) -> None:
    pooling = np.concatenate([s.pooling_factor for s in compute_samples])
    assert (pooling < 0.1).mean() > 0.01
    copied = [s for s in compute_samples if s.batch_size is not None]
    assert 0.1 < len(copied) / NUM_SAMPLES < 0.4
    mixed = 0
    for s in copied:
        seen = set(s.batch_sizes.tolist())
        assert len(seen - {s.global_batch_size}) == 1 and min(seen) >= 1
        assert min(seen) < s.global_batch_size
        np.testing.assert_array_equal(s.lookups, s.pooling_factor * s.batch_sizes)
        mixed += len(seen) > 1
    assert mixed > 20
    for s in compute_samples:
        if s.batch_size is None:
            assert set(s.batch_sizes.tolist()) == {s.global_batch_size}


def test_operators_of_fbgemm_have_no_copies(pool: TablePool) -> None:
    limits = ComputeLimits(copies=False)
    for index in range(200):
        assert draw_compute_sample(pool, limits, 0, index).batch_size is None


def test_training_never_has_what_is_held_out(pool: TablePool) -> None:
    training, judging = pool.part(held_out=False), pool.part(held_out=True)
    assert len(training) + len(judging) == len(pool) and len(judging) == len(pool) // 10
    drawn = {limit.held_out: set() for limit in (CommLimits(), CommLimits(held_out=True))}
    for held_out, worlds in drawn.items():
        for index in range(400):
            limits = CommLimits(held_out=held_out)
            worlds.add(draw_comm_sample(limits, 0, index).world_size)
            worlds.add(draw_all_reduce_sample(limits, 0, index).world_size)
    assert drawn[True] == {6, 12, 24, 48, 96}
    assert not drawn[False] & drawn[True] and len(drawn[False]) > 20


def test_held_out_samples_of_a_given_job_are_other_ones() -> None:
    limits = CommLimits().on(4, 2)
    training = draw_comm_sample(limits, 0, 5)
    judging = draw_comm_sample(dataclasses.replace(limits, held_out=True), 0, 5)
    assert judging.world_size == 4 and not same(training, judging)


def test_all_reduces_are_of_every_size_and_shape() -> None:
    samples = [draw_all_reduce_sample(CommLimits(), 0, i) for i in range(NUM_SAMPLES)]
    num_bytes = np.array([s.num_bytes for s in samples])
    assert num_bytes.min() < 4096 and num_bytes.max() > 2**28 and (num_bytes % 4 == 0).all()
    # as many from each decade
    assert 0.4 < (num_bytes < 2**20).mean() < 0.6
    worlds = np.array([s.world_size for s in samples])
    assert worlds.min() == 2 and worlds.max() == 128
    assert all(s.world_size % s.devices_per_host == 0 for s in samples)
    assert draw_all_reduce_sample(CommLimits(), 0, 17) == samples[17]
    assert draw_all_reduce_sample(CommLimits(), 1, 17) != samples[17]
    small = CommLimits(max_device_bytes=2**20)
    assert max(draw_all_reduce_sample(small, 0, i).num_bytes for i in range(200)) <= 2**20


def test_limits_hold_in_every_sample(pool: TablePool) -> None:
    limits = ComputeLimits(
        max_shards=6,
        min_batch_size=700,
        max_batch_size=900,
        max_dim=32,
        max_memory_bytes=2**20,
        max_lookups=5000,
        optimizers=(Optimizer.ADAM,),
        weight_dtypes=(WeightDtype.FP16,),
    )
    for index in range(300):
        s = draw_compute_sample(pool, limits, 0, index)
        assert 1 <= len(s) <= 6 and 700 <= s.global_batch_size <= 900
        assert s.embedding_dim.max() <= 32
        assert s.memory_bytes.sum() <= 2**20
        assert s.lookups.sum() <= 5000 * (1 + 1e-9)
        assert s.optimizer is Optimizer.ADAM and s.weight_dtype is WeightDtype.FP16


def test_memory_counts_weights_and_optimizer_state() -> None:
    def memory_bytes(optimizer: Optimizer, dtype: WeightDtype) -> int:
        one = np.ones(1)
        sample = ComputeSample(
            0, 512, optimizer, dtype, np.array([1000]), np.array([16]), one, np.ones((1, 17)) / 17
        )
        return int(sample.memory_bytes[0])

    assert memory_bytes(Optimizer.SGD, WeightDtype.FP32) == 64_000
    assert memory_bytes(Optimizer.ROWWISE_ADAGRAD, WeightDtype.FP16) == 36_000
    assert memory_bytes(Optimizer.ADAGRAD, WeightDtype.FP32) == 128_000
    assert memory_bytes(Optimizer.ADAM, WeightDtype.FP32) == 192_000


def test_comm_samples_cover_clusters_and_unevenness(comm_samples: list[CommSample]) -> None:
    worlds = np.array([s.world_size for s in comm_samples])
    assert worlds.min() == 2 and worlds.max() == 128
    for s in comm_samples:
        assert s.world_size % s.devices_per_host == 0 and 1 <= s.devices_per_host <= 8
        assert s.global_batch_size % s.world_size == 0
        assert 512 <= s.global_batch_size < 262_144 + s.world_size
        assert (s.dims >= 0).all() and (s.dims % 4 == 0).all() and s.dims.any()
        assert s.start_skew_ms.min() == 0 and s.start_skew_ms.max() <= 20
    imbalance = np.array([s.dims.max() / s.dims.mean() for s in comm_samples])
    assert imbalance.min() == 1.0 and np.percentile(imbalance, 95) > 4
    assert 0.05 < np.mean([(s.dims == 0).any() for s in comm_samples]) < 0.5
    assert {s.devices_per_host for s in comm_samples} >= {1, 2, 4, 8}
    longest = np.array([s.start_skew_ms.max() for s in comm_samples])
    assert (longest == 0).any() and longest.max() > 10


def test_real_hardware_fixes_the_devices() -> None:
    limits = CommLimits(max_device_bytes=2**22).on(6, 3)
    for index in range(200):
        s = draw_comm_sample(limits, 0, index)
        assert (s.world_size, s.devices_per_host) == (6, 3)
        buffers = 4 * s.global_batch_size * (s.dims.max() + s.dims.sum() // 6)
        assert buffers <= max(2**22, 4 * s.global_batch_size * 4)


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        ({"max_shards": 0}, "--max-shards must be in 1 .. 10000, got 0"),
        ({"max_dim": 2}, "--max-dim"),
        ({"max_batch_size": 100}, r"--max-batch-size must be at least --min-batch-size \(512\)"),
        ({"max_memory_bytes": -1}, "--max-memory-bytes"),
        ({"optimizers": ()}, "at least one optimizer"),
    ],
)
def test_senseless_compute_limits_are_refused(limits: dict[str, int], complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        ComputeLimits(**limits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        ({"world_size": 6, "devices_per_host": 4}, "--devices-per-host must divide"),
        ({"world_size": 1}, "the world size must be in 2"),
        ({"max_skew_ms": float("nan")}, "--max-skew-ms"),
        ({"max_device_bytes": 10}, "--max-device-bytes"),
    ],
)
def test_senseless_comm_limits_are_refused(limits: dict[str, float], complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        CommLimits(**limits)  # type: ignore[arg-type]
