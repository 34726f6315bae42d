"""Real fbgemm kernels, read back as a dataset part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from shardwright.domain import Optimizer, WeightDtype
from shardwright_benchmark_worker.errors import DeviceError, OptionError
from shardwright_benchmark_worker.measure.compute import ComputeBench
from shardwright_benchmark_worker.measure.device import open_device
from shardwright_benchmark_worker.sampling import ComputeLimits, ComputeSample
from shardwright_benchmark_worker.sampling.reuse import uniform_histogram
from shardwright_costmodel.dataset import Kind, list_parts, read_part

from .conftest import RunWorker

GPU = pytest.param("cuda", marks=pytest.mark.gpu)


def one_table(
    rows: int = 1000,
    dim: int = 16,
    pooling: float = 2.0,
    batch: int = 256,
    optimizer: Optimizer = Optimizer.SGD,
    dtype: WeightDtype = WeightDtype.FP32,
) -> ComputeSample:
    return ComputeSample(
        index=0,
        global_batch_size=batch,
        optimizer=optimizer,
        weight_dtype=dtype,
        num_embeddings=np.array([rows]),
        embedding_dim=np.array([dim]),
        pooling_factor=np.array([pooling]),
        reuse_histogram=uniform_histogram(rows, pooling * batch)[None],
    )


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_a_part_of_real_measurements_is_read_back(
    device: str, worker: RunWorker, tmp_path: Path
) -> None:
    done = worker(
        *("compute", "--device", device, "--hardware", "this-machine", "--out", str(tmp_path)),
        *("--samples", "4", "--part-size", "3", "--max-batch-size", "1024", "--max-shards", "4"),
        *("--max-memory-bytes", "20000000", "--repetitions", "3", "--warmup", "1"),
    )
    assert done.returncode == 0, done.stderr
    parts = [read_part(url, Kind.COMPUTE) for url in list_parts(str(tmp_path), Kind.COMPUTE)]
    assert [part.table.num_rows for part in parts] == [3, 1]
    metadata = parts[0].metadata
    assert (metadata.hardware, metadata.source) == ("this-machine", "measured")
    assert metadata.fingerprint["device"] and "torch" in metadata.software
    assert any(name.startswith("fbgemm-gpu") for name in metadata.software)
    for row in parts[0].table.to_pylist():
        for time in ("forward_ms", "backward_ms"):
            assert 0 < row[f"{time}_p10"] <= row[time] <= row[f"{time}_p90"]
        assert row["repetitions"] == 3 and 1 <= len(row["tables"]) <= 4


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_every_supported_optimizer_and_dtype_runs(device: str) -> None:
    bench = ComputeBench(device, warmup=0, repetitions=1)
    supported = open_device(device)
    samples = [
        one_table(optimizer=optimizer, dtype=dtype)
        for optimizer in supported.optimizers
        for dtype in supported.weight_dtypes
    ]
    rows = list(bench.rows(samples.__getitem__, range(len(samples))))
    assert {(r["optimizer"], r["tables"][0]["weight_dtype"]) for r in rows} == {
        (o.value, d.value) for o in supported.optimizers for d in supported.weight_dtypes
    }


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_a_table_larger_than_memory_is_named(device: str) -> None:
    bench = ComputeBench(device, warmup=0, repetitions=1)
    huge = one_table(rows=10**11, dim=128)
    with pytest.raises(DeviceError, match=r"sample 0 \(51200000000000 bytes of tables\) does not"):
        list(bench.rows(lambda _: huge, range(1)))


@pytest.mark.parametrize("device", [GPU])  # shared processors are too noisy to compare times
def test_sixty_four_times_the_work_takes_longer(device: str) -> None:
    bench = ComputeBench(device, warmup=2, repetitions=7)
    samples = [one_table(dim=128, pooling=p, batch=4096) for p in (1.0, 64.0)]
    small, large = bench.rows(samples.__getitem__, range(2))
    assert large["forward_ms"] > small["forward_ms"]
    assert large["backward_ms"] > small["backward_ms"]


def test_a_cpu_draws_only_what_fbgemm_has_kernels_for() -> None:
    bench = ComputeBench("cpu", warmup=0, repetitions=1)
    limits = bench.restrict(ComputeLimits(), chosen_optimizers=False, chosen_dtypes=False)
    assert Optimizer.ADAM not in limits.optimizers and len(limits.optimizers) == 3
    assert WeightDtype.BF16 not in limits.weight_dtypes and len(limits.weight_dtypes) == 2
    assert limits.max_memory_bytes is not None and limits.max_lookups is not None


def test_the_limits_of_a_cpu_are_fbgemms_own() -> None:
    # fails when a newer fbgemm gains kernels: then let them be drawn
    bench = ComputeBench("cpu", warmup=0, repetitions=1)
    for sample in (one_table(optimizer=Optimizer.ADAM), one_table(dtype=WeightDtype.BF16)):
        with pytest.raises((AssertionError, NotImplementedError)):
            list(bench.rows(lambda _, s=sample: s, range(1)))


def test_asking_for_a_missing_kernel_is_an_error() -> None:
    bench = ComputeBench("cpu", warmup=0, repetitions=1)
    limits = ComputeLimits(optimizers=(Optimizer.ADAM, Optimizer.SGD))
    with pytest.raises(DeviceError, match="no cpu kernels for adam; it has sgd, rowwise"):
        bench.restrict(limits, chosen_optimizers=True, chosen_dtypes=False)


def test_the_users_own_limits_stay() -> None:
    bench = ComputeBench("cpu", warmup=0, repetitions=1)
    limits = ComputeLimits(max_memory_bytes=5000, max_lookups=6000)
    limits = bench.restrict(limits, chosen_optimizers=False, chosen_dtypes=False)
    assert (limits.max_memory_bytes, limits.max_lookups) == (5000, 6000)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_named() -> None:
    with pytest.raises(DeviceError, match="torch sees no GPU"):
        ComputeBench("cuda", warmup=0, repetitions=1)


@pytest.mark.parametrize(("warmup", "repetitions"), [(-1, 1), (0, 0)])
def test_counts_of_runs_are_checked(warmup: int, repetitions: int) -> None:
    with pytest.raises(OptionError, match="--(warmup|repetitions) must be in"):
        ComputeBench("cpu", warmup=warmup, repetitions=repetitions)
