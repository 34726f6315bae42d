"""Published measurements, and what the roofline says of each (`published/`)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shardwright.domain import Optimizer, WeightDtype
from shardwright_benchmark_worker.pool import POOL_BATCH_SIZE, TablePool, read_pool
from shardwright_benchmark_worker.roofline import (
    GpuProfile,
    comm_times,
    compute_times,
    get_profile,
)
from shardwright_benchmark_worker.sampling import CommSample, ComputeSample
from shardwright_benchmark_worker.sampling.reuse import uniform_histogram

Ints = npt.NDArray[np.int64]
FOLDER = Path(__file__).parent / "published"
H100, A100 = "nvidia-h100-sxm5-80gb", "nvidia-a100-sxm4-80gb"
LARGE_BYTES = 1 << 33
"""Sent by a device where a source only says that the bandwidth is that of large transfers."""
_NDR_SHARE = 8 / 15
"""Of a device's bytes among two hosts of 8, what leaves its host: bus bandwidth counts all."""
_FUSION = {2: 0.749, 3: 0.644, 5: 0.568, 8: 0.490, 12: 0.502, 15: 0.491}
"""Medians of fused cost over the sum of single-table costs, by number of tables, as the networks
predict that NeuroShard's authors published (github.com/anonymoussubmition/neuroshard)."""


@dataclass(frozen=True)
class Comparison:
    """A published number and the roofline's.

    Attributes:
        group: What it is a measurement of.
        case: The row, for people.
        unit: `us`, `GB/s`, or `ratio`.
        published: The number.
        predicted: The roofline's; None where it cannot predict the row.
        standing: What the row was to the roofline's constants; empty where it cannot.
        source: Who published it, and how far to trust it.
        note: How it was read, or why it cannot be predicted.
    """

    group: str
    case: str
    unit: str
    published: float
    predicted: float | None
    standing: str
    source: str
    note: str

    @property
    def error(self) -> float | None:
        """Predicted over published, less 1."""
        return None if self.predicted is None else self.predicted / self.published - 1.0


def comparisons() -> list[Comparison]:
    """Every published row, in order, and the two facts every GPU shows."""
    rows = [_kernel(row) for row in _read("kernels.csv")]
    rows += [_all_to_all(row) for row in _read("all_to_all.csv")]
    return [*rows, *_fusing(), *_halving()]


def _read(name: str) -> Iterator[dict[str, str]]:
    with (FOLDER / name).open(newline="") as file:
        yield from csv.DictReader(file)


def _kernel(row: dict[str, str]) -> Comparison:
    shape = f"{row['tables']} x {row['rows']} x {row['dim']}" if row["tables"] else "tables unnamed"
    details = f", pooling {row['pooling']}, batch {row['batch']}" if row["batch"] else ""
    in_us = bool(row["published_us"])
    return Comparison(
        group=f"{row['gpu']}: embedding bags, {row['direction']}",
        case=f"{row['dtype']} {shape}{details}".strip(),
        unit="us" if in_us else "GB/s",
        published=float(row["published_us"] or row["published_gb_per_s"]),
        predicted=_kernel_us(row) if row["profile"] else None,
        standing=row["standing"],
        source=f"{row['source']} ({row['confidence']})",
        note=row["note"],
    )


def _kernel_us(row: dict[str, str]) -> float:
    profile = get_profile(row["profile"])
    count, rows, dim, pooling, batch = (
        int(row[name]) for name in ("tables", "rows", "dim", "pooling", "batch")
    )
    times = compute_times(profile, [uniform_tables(count, rows, dim, pooling, batch, row["dtype"])])
    forward_ms, backward_ms = float(times.forward_ms[0]), float(times.backward_ms[0])
    # kernels timed alone, without their launch
    alone = "ml_perf_model" in row["source"] and row["direction"] == "forward"
    ms = {
        "forward": forward_ms - (profile.forward_launch_ms if alone else 0.0),
        "backward": backward_ms,
        "forward + backward": forward_ms + backward_ms,
    }
    return 1e3 * ms[row["direction"]]


def uniform_tables(
    tables: int, rows: int, dim: int, pooling: int, batch: int, dtype: str
) -> ComputeSample:
    """Equal tables whose rows are all equally popular: what kernel benchmarks use."""
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


def _all_to_all(row: dict[str, str]) -> Comparison:
    gpus, hosts = int(row["gpus"]), int(row["hosts"])
    num_bytes = int(row["num_bytes"] or LARGE_BYTES)
    in_us = bool(row["published_us"])
    predicted = None
    if row["profile"]:
        predicted = 1e3 * all_to_all_ms(_profile(row["profile"]), gpus, gpus // hosts, num_bytes)
        if not in_us:
            predicted = num_bytes * (gpus - 1) / gpus / predicted / 1e3
    size = f"{int(row['num_bytes']):,} bytes" if row["num_bytes"] else "large"
    return Comparison(
        group=f"{row['gpu']}: all-to-all",
        case=f"{gpus} devices, {hosts} host{'s' * (hosts > 1)}, {size}",
        unit="us" if in_us else "GB/s",
        published=float(row["published_us"] or row["published_gb_per_s"]),
        predicted=predicted,
        standing=row["standing"],
        source=f"{row['source']} ({row['confidence']})",
        note=row["note"],
    )


def _profile(name: str) -> GpuProfile:
    """A profile; `b200`: an H100's latencies with B200's bandwidths, to judge the form."""
    if not name.startswith("b200"):
        return get_profile(name)
    bus_gb_per_s = 69.37 if name == "b200-tuned" else 42.4
    return replace(get_profile(H100), nvlink_gb_per_s=600.0, nic_gb_per_s=bus_gb_per_s * _NDR_SHARE)


def all_to_all_ms(profile: GpuProfile, gpus: int, gpus_per_host: int, num_bytes: float) -> float:
    """Time of nccl-tests' alltoall, whose size is the send buffer of a device."""
    batch = 1024 * gpus
    sample = CommSample(
        index=0,
        devices_per_host=gpus_per_host,
        global_batch_size=batch,
        dims=np.full(gpus, num_bytes / 4 / batch),  # type: ignore[arg-type]  # parts of a column
        start_skew_ms=np.zeros(gpus),
    )
    return float(comm_times(profile, sample).backward_ms[0])


def _pool_tables(pool: TablePool, picks: Ints, dims: Ints) -> ComputeSample:
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


def _total_ms(profile: GpuProfile, samples: list[ComputeSample]) -> npt.NDArray[np.float64]:
    times = compute_times(profile, samples)
    return np.asarray(times.forward_ms + times.backward_ms)


def _fusing() -> Iterator[Comparison]:
    """Fused cost over the sum of single-table costs, median of 300 draws of pool tables."""
    pool, rng = read_pool(), np.random.default_rng(0)
    for tables, median in _FUSION.items():
        ratios = []
        for _ in range(300):
            picks = rng.integers(len(pool), size=tables)
            dims = 4 * rng.integers(1, 33, size=tables)
            parts = [_pool_tables(pool, picks[k : k + 1], dims[k : k + 1]) for k in range(tables)]
            fused_ms, *single_ms = _total_ms(
                get_profile(H100), [_pool_tables(pool, picks, dims), *parts]
            )
            ratios.append(fused_ms / np.sum(single_ms))
        yield Comparison(
            group="fused cost over the sum of single-table costs",
            case=f"{tables} tables, median",
            unit="ratio",
            published=median,
            predicted=float(np.median(ratios)),
            standing="fitted",
            source="networks published with NeuroShard (medium)",
            note="an older GPU and fbgemm; read as an H100",
        )


def _halving() -> Iterator[Comparison]:
    """Cost at dim 64 over that at dim 128, median of the pool's tables of about a pooling factor.

    The published fit of single tables: 1.88 + 0.0750 p + 0.0536 p dim / 128 ms for pooling p.
    """
    pool = read_pool()
    for pooling in (5, 10, 20, 50):
        near = np.flatnonzero(np.abs(np.log(pool.pooling_factor / pooling)) < np.log(1.25))
        costs = [
            _total_ms(
                get_profile(H100),
                [_pool_tables(pool, near[i : i + 1], np.array([dim])) for i in range(len(near))],
            )
            for dim in (64, 128)
        ]
        fixed, linear = 1.88 + 0.0750 * pooling, 0.0536 * pooling
        yield Comparison(
            group="cost at half the width over the cost at width 128",
            case=f"pooling factor about {pooling}, median of {len(near)} tables",
            unit="ratio",
            published=(fixed + linear / 2) / (fixed + linear),
            predicted=float(np.median(costs[0] / costs[1])),
            standing="not fitted",
            source="networks published with NeuroShard (medium)",
            note="an older GPU and fbgemm; read as an H100",
        )
