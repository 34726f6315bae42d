"""Real fbgemm kernels, read back as a dataset part."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from shardwright.domain import Optimizer, WeightDtype
from shardwright_benchmark_worker.errors import DeviceError
from shardwright_benchmark_worker.measure.compute import ComputeBench
from shardwright_benchmark_worker.measure.device import open_device
from shardwright_benchmark_worker.measure.fused_operator import HostArena, build_operator
from shardwright_benchmark_worker.measure.lookups import draw_lookups
from shardwright_benchmark_worker.measure.noise import Repetitions
from shardwright_benchmark_worker.measure.placement import Placement
from shardwright_benchmark_worker.sampling import ComputeLimits, ComputeSample
from shardwright_benchmark_worker.sampling.reuse import uniform_histogram
from shardwright_costmodel.dataset import Kind, list_parts, read_part

from .conftest import RunWorker

ONCE = Repetitions(warmup=0, minimum=1, maximum=1)
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
        *("--max-memory-bytes", "20000000", "--repetitions", "7", "--warmup", "1"),
        *("--max-repetitions", "15"),
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
        assert 7 <= row["repetitions"] <= 15 and 1 <= len(row["tables"]) <= 4
        for time in ("forward", "backward"):
            # the runs ended because the interval was narrow, or at a limit
            assert row[f"{time}_ci_percent"] >= 0
            if row["repetitions"] == 7:
                assert row[f"{time}_ci_percent"] <= 2.0
        assert row["placement"] == "device" and row["drift_percent"] is not None
    measuring = {name: float(value) for name, value in metadata.measuring.items()}
    assert measuring["rows"] == 3
    spent = [measuring[f"{a}_seconds"] for a in ("kernel", "flush", "reference", "prepare")]
    assert min(spent) > 0 and sum(spent) <= measuring["total_seconds"]
    assert measuring["measuring_seconds"] == pytest.approx(sum(spent[:2]), abs=1e-5)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_every_supported_optimizer_and_dtype_runs(device: str) -> None:
    bench = ComputeBench(device, ONCE)
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
@pytest.mark.parametrize("rows", [10**11, 10**16])
def test_a_table_larger_than_memory_is_a_row_without_times(
    device: str, rows: int, caplog: pytest.LogCaptureFixture
) -> None:
    bench = ComputeBench(device, ONCE)
    samples = [one_table(), one_table(rows=rows, dim=128), one_table()]
    first, huge, last = bench.rows(samples.__getitem__, range(3))
    assert huge["feasible"] is False and huge["tables"][0]["num_embeddings"] == rows
    assert "forward_ms" not in huge and huge["repetitions"] == 0
    for row in (first, last):
        assert row["forward_ms"] > 0 and row.get("feasible") is not False
    assert f"{rows * 512} bytes of tables) does not fit" in caplog.text
    assert bench.summary()["infeasible"] == "1" and bench.summary()["rows"] == "3"


OUT_OF_MEMORY = """
import resource, sys
import numpy as np
from shardwright_benchmark_worker.measure.compute import ComputeBench
from shardwright_benchmark_worker.measure.fused_operator import HostArena, build_operator
from shardwright_benchmark_worker.measure.lookups import draw_lookups
from shardwright_benchmark_worker.measure.noise import Repetitions
from shardwright_benchmark_worker.measure.placement import Placement
from tests.benchmark_worker.test_measure_compute import one_table
from shardwright_costmodel.dataset import Kind, PartMetadata, write_part

bench = ComputeBench("cpu", Repetitions(warmup=0, minimum=1, maximum=1))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + 800 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
# 500 MiB, 1 GiB, then 600 MiB in another dtype, which fits only in place of the first
samples = [
    one_table(rows=10**6, dim=128),
    one_table(rows=2 * 10**6, dim=128),
    one_table(rows=24 * 10**5, dim=128, dtype=one_table().weight_dtype.FP16),
    one_table(rows=1000, dim=4, batch=8, pooling=10**7),
    one_table(),
]
rows = list(bench.rows(samples.__getitem__, range(len(samples))))
write_part(sys.argv[1], Kind.COMPUTE, "part", rows, PartMetadata("this", "measured"))
"""


def test_running_out_of_memory_is_recorded_and_survived(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (url,) = list_parts(str(tmp_path), Kind.COMPUTE)
    rows = read_part(url, Kind.COMPUTE).table.to_pylist()
    assert [row["feasible"] is not False for row in rows] == [True, False, True, False, True]
    assert [row["forward_ms"] is not None for row in rows] == [True, False, True, False, True]


def test_another_failure_of_a_kernel_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    bench = ComputeBench("cpu", ONCE)
    monkeypatch.setattr(bench._device, "timed_ms", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        list(bench.rows(lambda _: one_table(), range(1)))


def test_a_cpu_has_no_managed_memory() -> None:
    with pytest.raises(DeviceError, match="--placement managed: only a GPU has managed memory"):
        ComputeBench("cpu", ONCE, Placement.MANAGED)


@pytest.mark.gpu
@pytest.mark.parametrize("placement", list(Placement))
def test_a_gpu_reads_weights_wherever_they_live(placement: Placement) -> None:
    bench = ComputeBench("cuda", ONCE, placement)
    samples = [one_table(optimizer=optimizer) for optimizer in Optimizer]
    rows = list(bench.rows(samples.__getitem__, range(len(samples))))
    assert [row["placement"] for row in rows] == [placement.value] * len(Optimizer)
    assert all(row["forward_ms"] > 0 and row["backward_ms"] > 0 for row in rows)


@pytest.mark.parametrize("device", [GPU])  # shared processors are too noisy to compare times
def test_sixty_four_times_the_work_takes_longer(device: str) -> None:
    bench = ComputeBench(device, Repetitions(warmup=2, minimum=7))
    samples = [one_table(dim=128, pooling=p, batch=4096) for p in (1.0, 64.0)]
    small, large = bench.rows(samples.__getitem__, range(2))
    assert large["forward_ms"] > small["forward_ms"]
    assert large["backward_ms"] > small["backward_ms"]


def test_a_cpu_draws_only_what_fbgemm_has_kernels_for() -> None:
    bench = ComputeBench("cpu", ONCE)
    limits = bench.restrict(ComputeLimits(), chosen_optimizers=False, chosen_dtypes=False)
    assert Optimizer.ADAM not in limits.optimizers and len(limits.optimizers) == 3
    assert WeightDtype.BF16 not in limits.weight_dtypes and len(limits.weight_dtypes) == 2
    assert limits.max_memory_bytes is not None and limits.max_lookups is not None


def test_the_limits_of_a_cpu_are_fbgemms_own() -> None:
    # fails when a newer fbgemm gains kernels: then let them be drawn
    bench = ComputeBench("cpu", ONCE)
    for sample in (one_table(optimizer=Optimizer.ADAM), one_table(dtype=WeightDtype.BF16)):
        with pytest.raises((AssertionError, NotImplementedError)):
            list(bench.rows(lambda _, s=sample: s, range(1)))


def test_asking_for_a_missing_kernel_is_an_error() -> None:
    bench = ComputeBench("cpu", ONCE)
    limits = ComputeLimits(optimizers=(Optimizer.ADAM, Optimizer.SGD))
    with pytest.raises(DeviceError, match="no cpu kernels for adam; it has sgd, rowwise"):
        bench.restrict(limits, chosen_optimizers=True, chosen_dtypes=False)


def test_the_users_own_limits_stay() -> None:
    bench = ComputeBench("cpu", ONCE)
    limits = ComputeLimits(max_memory_bytes=5000, max_lookups=6000)
    limits = bench.restrict(limits, chosen_optimizers=False, chosen_dtypes=False)
    assert (limits.max_memory_bytes, limits.max_lookups) == (5000, 6000)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_named() -> None:
    with pytest.raises(DeviceError, match="torch sees no GPU"):
        ComputeBench("cuda", ONCE)


def test_more_threads_than_processors_are_refused(tmp_path: Path) -> None:
    processor = str(min(os.sched_getaffinity(0)))
    done = subprocess.run(
        ["taskset", "-c", processor, sys.executable, "-m", "shardwright_benchmark_worker"]
        + ["compute", "--device", "cpu", "--hardware", "x", "--samples", "1"]
        + ["--out", str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: --device cpu: torch would run 2 threads on the 1 processors" in done.stderr
    assert "OMP_NUM_THREADS=1" in done.stderr


def test_the_same_memory_serves_one_operator_after_another() -> None:
    arena = HostArena()
    first = arena.take("weights", torch.float32, 1000)
    first.fill_(7.0)
    assert arena.take("weights", torch.float32, 10).tolist() == [7.0] * 10
    assert arena.held_bytes == 4000
    # a larger operator replaces the buffer, another dtype has its own
    assert len(arena.take("weights", torch.float32, 2000)) == 2000
    assert arena.take("weights", torch.float16, 10).dtype == torch.float16
    assert arena.held_bytes == 8020
    arena.clear()
    assert arena.held_bytes == 0


@pytest.mark.parametrize("optimizer", [Optimizer.SGD, Optimizer.ROWWISE_ADAGRAD, Optimizer.ADAGRAD])
@pytest.mark.parametrize("dtype", [WeightDtype.FP32, WeightDtype.FP16])
def test_an_operator_in_shared_memory_computes_the_same(
    optimizer: Optimizer, dtype: WeightDtype
) -> None:
    sample = one_table(rows=50, dim=8, batch=16, optimizer=optimizer, dtype=dtype)
    device = open_device("cpu")
    lookups = draw_lookups(sample, np.random.default_rng(0), device.torch_device)
    outputs = []
    for arena in (None, HostArena()):
        operator = build_operator(sample, device, arena=arena)
        operator(lookups.indices, lookups.offsets).backward(torch.ones(16, 8))
        outputs.append(operator(lookups.indices, lookups.offsets).detach())
    assert outputs[0].abs().max() > 0 and torch.equal(*outputs)
