"""Times collectives among the processes of a torchrun job.

All-to-alls are those of TorchRec's pooled embeddings: device d holds `dims[d]` columns of the
whole batch and sends each device its part of the batch; the backward pass sends gradients back.
All-reduces are those of the dense gradients of data-parallel tables.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from shardwright_benchmark_worker.errors import LaunchError
from shardwright_benchmark_worker.measure.device import spin_ms
from shardwright_benchmark_worker.measure.drift import DriftMonitor, reference_burst
from shardwright_benchmark_worker.measure.fingerprint import host_link
from shardwright_benchmark_worker.measure.job import Job, collective, join_job
from shardwright_benchmark_worker.measure.noise import Repetitions, repeat
from shardwright_benchmark_worker.measure.tally import Tally
from shardwright_benchmark_worker.rows import Quantiles, all_reduce_row, comm_row
from shardwright_benchmark_worker.sampling import AllReduceSample, CommSample

FloatArray = npt.NDArray[np.float64]


class CommBench:
    """Measures collectives on one rank of a job; every rank calls the same methods in order.

    Args:
        job: The processes.
        repetitions: How often each sample is timed.
        max_drift_percent: Of the reference kernel; a row beyond it is measured again, then flagged.
    """

    def __init__(self, job: Job, repetitions: Repetitions, max_drift_percent: float) -> None:
        self.job = job
        self._device = job.device
        self._repetitions = repetitions
        self._tally = Tally()
        burst_ms = reference_burst(self._device)
        # together, as later: ranks of one host share its memory and clocks
        job.barrier()
        self._drift = DriftMonitor(burst_ms, max_drift_percent, warns=job.rank == 0)

    def fingerprint(self) -> dict[str, str]:
        """What measures, as text."""
        return {
            **self._device.fingerprint(),
            **host_link(self._device.backend),
            "backend": self._device.backend,
            "world_size": str(self.job.world_size),
            "reference_ms": f"{self._drift.start_ms:.6f}",
        }

    def summary(self) -> Mapping[str, str]:
        """How the part measured last went, see `Tally.summary`."""
        return self._tally.summary()

    def rows(self, draw: Callable[[int], CommSample], indices: range) -> Iterator[dict[str, Any]]:
        """Measures the samples of some indices; every rank yields the same dataset rows."""
        self._tally.reset()
        for index in indices:
            sample = draw(index)
            with self._tally.spend("prepare"):
                once = self._exchanges(sample)
            times_ms, drift = self._measure(index, once)
            mine = [Quantiles.of(times_ms[:, i]) for i in (0, 1)]
            with self._tally.spend("prepare"):
                shared = self.job.gather([(q.median, _known(q.ci_percent)) for q in mine])
            yield comm_row(
                sample,
                forward_ms=shared[:, 0, 0],
                backward_ms=shared[:, 1, 0],
                ci_percent=(_worst(shared[:, 0, 1]), _worst(shared[:, 1, 1])),
                repetitions=len(times_ms),
                drift_percent=drift,
            )

    def all_reduce_rows(
        self, draw: Callable[[int], AllReduceSample], indices: range
    ) -> Iterator[dict[str, Any]]:
        """Measures the all-reduces of some indices; every rank yields the same dataset rows.

        The time of the rank with the largest median is that of the collective.
        """
        self._tally.reset()
        for index in indices:
            sample = draw(index)
            with self._tally.spend("prepare"):
                gradients = torch.zeros(sample.num_bytes // 4, device=self._device.torch_device)
            exchange = partial(dist.all_reduce, gradients)
            times_ms, drift = self._measure(index, partial(self._one_time_ms, exchange))
            mine = Quantiles.of(times_ms[:, 0])
            with self._tally.spend("prepare"):
                shared = self.job.gather((mine.median, mine.p10, mine.p90, _known(mine.ci_percent)))
            slowest = shared[np.argmax(shared[:, 0])]
            median, p10, p90 = slowest[:3].tolist()
            quantiles = Quantiles(median, p10, p90, _worst(shared[:, 3]))
            yield all_reduce_row(sample, quantiles, len(times_ms), drift)

    def _measure(
        self, index: int, once: Callable[[], tuple[float, ...]]
    ) -> tuple[FloatArray, float]:
        """Times of this rank, `[n, k]` ms, and the drift of the rank that drifted most, percent."""
        self._tally.count("rows")
        best: tuple[FloatArray, float] | None = None
        drift = self._drift_percent()
        for _ in range(self._drift.attempts()):
            times_ms = repeat(once, self._repetitions, self._agree)
            before, drift = drift, self._drift_percent()
            worst = max(before, drift, key=abs)
            if best is None or abs(worst) < abs(best[1]):
                best = times_ms, worst
            if not self._drift.exceeds(best[1]):
                break
        assert best is not None
        if self._drift.conclude(index, best[1]):
            self._tally.count("drifted")
        return best

    def _agree(self, ci_percent: float, elapsed_s: float) -> tuple[float, float]:
        """The widest interval and the longest time of any rank: all ranks stop together."""
        with self._tally.spend("prepare"):
            widest, longest = self.job.gather((ci_percent, elapsed_s)).max(axis=0).tolist()
        return widest, longest

    def _drift_percent(self) -> float:
        with self._tally.spend("reference"):
            drifts: list[float] = self.job.gather(self._drift.percent()).tolist()
        return max(drifts, key=abs)

    def _exchanges(self, sample: CommSample) -> Callable[[], tuple[float, float]]:
        """What runs the forward and backward all-to-all once and returns their times, ms."""
        rank, world_size = self.job.rank, self.job.world_size
        local_batch = sample.global_batch_size // world_size
        dims = [int(dim) for dim in sample.dims]
        # what this rank exchanges with each other one: columns it holds, columns they hold
        own = [local_batch * dims[rank]] * world_size
        others = [local_batch * dim for dim in dims]
        embeddings = torch.randn(sum(own), device=self._device.torch_device)
        pooled = torch.randn(sum(others), device=self._device.torch_device)
        forward = partial(dist.all_to_all_single, pooled, embeddings, others, own)
        backward = partial(dist.all_to_all_single, embeddings, pooled, own, others)
        skew_ms = float(sample.start_skew_ms[rank])
        return lambda: (self._timed_ms(forward, skew_ms), self._timed_ms(backward))

    def _one_time_ms(self, exchange: Callable[[], object]) -> tuple[float]:
        return (self._timed_ms(exchange),)

    def _timed_ms(self, exchange: Callable[[], object], skew_ms: float = 0.0) -> float:
        """All ranks meet, each waits its skew; then from this rank's start to its end."""
        with self._tally.spend("kernel"):
            self.job.barrier()
            spin_ms(skew_ms)
            with collective(self.job.timeout_s):
                _, time_ms = self._device.timed_ms(exchange)
        return time_ms


@contextmanager
def join(
    device_name: str,
    repetitions: Repetitions,
    timeout_s: float,
    max_drift_percent: float = 10.0,
    *,
    patience_s: float = 0.0,
) -> Iterator[CommBench]:
    """Joins the torchrun job of this process, and leaves it at the end.

    Args:
        device_name: `cpu` (gloo) or `cuda` (NCCL).
        repetitions: How often each sample is timed.
        timeout_s: A collective that takes longer fails: a rank is lost.
        max_drift_percent: See `CommBench`.
        patience_s: How long rank 0 may take to list and write parts.

    Raises:
        LaunchError: When not started by torchrun, or with a single process.
        LostRankError: When a rank is lost.
    """
    if int(os.environ.get("WORLD_SIZE", 2)) < 2:
        raise LaunchError("a collective needs at least two processes; raise --nproc-per-node")
    with join_job("comm ...", device_name, timeout_s) as device:
        yield CommBench(Job(device, timeout_s, patience_s), repetitions, max_drift_percent)


def _known(ci_percent: float | None) -> float:
    return np.inf if ci_percent is None else ci_percent


def _worst(ci_percents: FloatArray) -> float | None:
    """The widest interval of any rank; None where one is not known."""
    worst = float(ci_percents.max())
    return worst if np.isfinite(worst) else None
