"""How much of a worker's time is measuring, and what the cache flush does: on this CPU.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_worker_overhead --samples 40 --out FILE

Every sample is measured twice in one process: with operators in memory that one sample after
another uses, as the worker does it, and with operators in fresh memory, as before. Then a few
samples are measured behind flushes of several sizes. Writes the results file.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tests.benchmarks.machine import provenance, table

from shardwright_benchmark_worker.measure.compute import ComputeBench
from shardwright_benchmark_worker.measure.device import CpuDevice
from shardwright_benchmark_worker.measure.fused_operator import HostArena
from shardwright_benchmark_worker.measure.noise import Repetitions
from shardwright_benchmark_worker.pool import read_pool
from shardwright_benchmark_worker.sampling import (
    ComputeLimits,
    ComputeSample,
    draw_compute_sample,
)

LONG_MS = 5.0
FLUSHES_MIB = (0, 8, 64, 1024)
FLUSH_SAMPLES = 8
ACTIVITIES = ("kernel", "flush", "reference", "prepare")
PACKAGES = ("numpy", "torch", "fbgemm-gpu-cpu")
TEXT = """Wall time of a worker by activity (`measure/tally.py`): `kernel` is timed runs and their
warm-up, `flush` the eviction of caches before each of them, `reference` the kernel that shows
drift, `prepare` drawing lookups and building operators; Python is all else, drawing of samples
among it. `harness` is all but kernels and flush, and must be at most 10 % for combinations whose
forward and backward together take 5 ms or more; the last column counts the flush as harness too.
`fresh memory` is the same with new memory for every operator.
"""

Draw = Callable[[int], ComputeSample]


class FreshMemory(HostArena):
    """Memory from the system for every operator."""

    def take(self, role: str, dtype: torch.dtype, size: int) -> torch.Tensor:
        """See `HostArena.take`."""
        return torch.zeros(size, dtype=dtype)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    limits = ComputeLimits(max_batch_size=4096, max_shards=12)
    benches = {"worker": ComputeBench("cpu", Repetitions())}
    benches["fresh memory"] = ComputeBench("cpu", Repetitions())
    benches["fresh memory"]._arena = FreshMemory()
    limits = benches["worker"].restrict(limits, chosen_optimizers=False, chosen_dtypes=False)
    draw = partial(draw_compute_sample, read_pool().part(held_out=False), limits, 0)
    # what grows to its largest in the first part of a run is not the steady state
    list(benches["worker"].rows(draw, range(arguments.samples, arguments.samples + 10)))
    rows = [
        {name: measure(bench, draw, index) for name, bench in benches.items()}
        for index in range(arguments.samples)
    ]
    long = [i for i, row in enumerate(rows) if row["worker"]["kernels_ms"] >= LONG_MS]
    command = f"OMP_NUM_THREADS=1 python -m {__spec__.name} --samples {arguments.samples}"
    lines = [
        *provenance("Overhead of the benchmark worker", command, PACKAGES),
        "",
        TEXT,
        *overhead_lines(rows),
        "## What the flush does",
        "",
        f"Medians behind scratches of other sizes, over those behind 64 MiB: {FLUSH_SAMPLES} "
        "samples of 5 ms or more, geometric mean.",
        "",
        *flush_lines([draw(i) for i in long[:FLUSH_SAMPLES]]),
    ]
    arguments.out.write_text("\n".join(lines), encoding="utf-8")


def measure(bench: ComputeBench, draw: Draw, index: int) -> dict[str, float]:
    """Seconds by activity for one sample, and its row in short."""
    (row,) = bench.rows(draw, range(index, index + 1))
    return {
        **bench._tally.seconds(),
        "kernels_ms": row["forward_ms"] + row["backward_ms"],
        "repetitions": row["repetitions"],
        "ci_percent": max(row["forward_ci_percent"], row["backward_ci_percent"]),
        "drift_percent": row["drift_percent"],
    }


def shares(rows: Sequence[dict[str, float]]) -> list[str]:
    """Cells: seconds, share of each activity, of all but kernels and flush, of all but kernels."""
    total = sum(row["total"] for row in rows)
    share = [sum(row[activity] for row in rows) / total for activity in ACTIVITIES]
    harness = [1 - sum(share[:2]), 1 - share[0]]
    cells = [*share, 1 - sum(share), *harness]
    return [f"{total:.1f}", *(f"{100 * cell:.1f} %" for cell in cells)]


def overhead_lines(rows: Sequence[dict[str, dict[str, float]]]) -> list[str]:
    """Over samples of 5 ms or more, and over all."""
    cells = []
    for group, low in ((f"{LONG_MS:g} ms or more", LONG_MS), ("all", 0.0)):
        chosen = [row for row in rows if row["worker"]["kernels_ms"] >= low]
        for name in ("worker", "fresh memory") if chosen else ():
            label = f"{group} ({len(chosen)}), {name}"
            cells.append([label, *shares([row[name] for row in chosen])])
    known = np.mean([row["worker"]["ci_percent"] <= 2.0 for row in rows])
    runs = [row["worker"]["repetitions"] for row in rows]
    drifts = [row["worker"]["drift_percent"] for row in rows]
    head = ["samples", "s", *ACTIVITIES, "Python", "harness", "harness and flush"]
    return [
        *table(head, cells),
        f"Medians known within 2 %: {100 * known:.0f} % of samples; repetitions: median "
        f"{np.median(runs):.0f}, most {max(runs):.0f}.",
        "",
        "Drift of the reference kernel around a sample: median "
        f"{np.median(drifts):+.1f} %, from {min(drifts):+.1f} % to {max(drifts):+.1f} %.",
        "",
    ]


def flush_lines(samples: Sequence[ComputeSample]) -> list[str]:
    """Forward and backward medians behind flushes of several sizes, relative to 64 MiB."""
    bench = ComputeBench("cpu", Repetitions())
    device = CpuDevice()
    bench._device = device
    times_ms = np.zeros((len(samples), len(FLUSHES_MIB), 2))
    flush_ms = np.zeros(len(FLUSHES_MIB))
    for i, sample in enumerate(samples):
        once = bench._prepare(sample)
        for j, mib in enumerate(FLUSHES_MIB):
            device._scratch = torch.zeros(mib * 2**18)
            times_ms[i, j] = np.median([once() for _ in range(9)][2:], axis=0)
            began_s = time.perf_counter()
            device.flush_caches()
            flush_ms[j] = (time.perf_counter() - began_s) * 1e3
    relative = times_ms / times_ms[:, [FLUSHES_MIB.index(64)]]
    means = np.exp(np.log(relative).mean(axis=0))
    cells = [
        [f"{mib} MiB", f"{took:.1f} ms", f"{forward:.3f}", f"{backward:.3f}"]
        for mib, took, (forward, backward) in zip(FLUSHES_MIB, flush_ms, means, strict=True)
    ]
    return table(["scratch", "a flush takes", "forward", "backward"], cells)


if __name__ == "__main__":
    main()
