"""Times collectives among the processes of a torchrun job.

All-to-alls are those of TorchRec's pooled embeddings: device d holds `dims[d]` columns of the
whole batch and sends each device its part of the batch; the backward pass sends gradients back.
All-reduces are those of the dense gradients of data-parallel tables, reduce-scatters those of the
partial sums of row-wise tables.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from shardwright_benchmark_worker.errors import LaunchError
from shardwright_benchmark_worker.measure.clock import CommonClock
from shardwright_benchmark_worker.measure.device import spin_ms
from shardwright_benchmark_worker.measure.drift import DriftMonitor, reference_burst
from shardwright_benchmark_worker.measure.fingerprint import host_link
from shardwright_benchmark_worker.measure.job import Job, collective, join_job
from shardwright_benchmark_worker.measure.noise import Repetitions, repeat
from shardwright_benchmark_worker.measure.tally import Tally
from shardwright_benchmark_worker.rows import Quantiles, all_reduce_row, comm_row
from shardwright_benchmark_worker.sampling import AllReduceSample, CommSample

_reduce_scatter_tensor: Callable[[torch.Tensor, torch.Tensor], object] = getattr(
    dist, "reduce_scatter_single", dist.reduce_scatter_tensor
)
"""Renamed in torch 2.13. On gloo, torch makes an all-reduce and a copy of it, as in a job."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Times:
    """Of one sample on this rank, `[n, k] float64`.

    Attributes:
        ms: From its own start to its end.
        wait_ms: Of these, until the last rank started.
        drift_percent: Of the rank that drifted most.
    """

    ms: FloatArray
    wait_ms: FloatArray
    drift_percent: float

    @property
    def from_last_start_ms(self) -> FloatArray:
        """Without the wait: ranks leave a barrier one after another."""
        return self.ms - self.wait_ms


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
        self._clock = CommonClock(job)
        self._starts_s: list[float] = []

    def fingerprint(self) -> dict[str, str]:
        """What measures, as text."""
        return {
            **self._device.fingerprint(),
            **host_link(self._device.backend),
            "backend": self._device.backend,
            "world_size": str(self.job.world_size),
            "hosts": str(self._clock.hosts),
            "reference_ms": f"{self._drift.start_ms:.6f}",
        }

    def summary(self) -> Mapping[str, str]:
        """How the part measured last went, see `Tally.summary`; the bound on `wait_ms`' error."""
        return {**self._tally.summary(), "clock_error_ms": f"{self._clock.error_s * 1e3:.6f}"}

    def rows(self, draw: Callable[[int], CommSample], indices: range) -> Iterator[dict[str, Any]]:
        """Measures the all-to-alls of some indices; every rank yields the same dataset rows."""
        self._tally.reset()
        for index in indices:
            sample = draw(index)
            with self._tally.spend("prepare"):
                once = self._exchanges(sample)
            times = self._measure(index, once)
            forward = Quantiles.of(times.ms[:, 0])
            backward = Quantiles.of(times.from_last_start_ms[:, 1])
            wait_ms = float(np.median(times.wait_ms[:, 0]))
            with self._tally.spend("prepare"):
                mine = (forward.median, backward.median, wait_ms)
                shared = self.job.gather((*mine, *map(_known, (forward, backward))))
            yield comm_row(
                sample,
                forward_ms=shared[:, 0],
                backward_ms=shared[:, 1],
                wait_ms=shared[:, 2],
                ci_percent=(_worst(shared[:, 3]), _worst(shared[:, 4])),
                repetitions=len(times.ms),
                drift_percent=times.drift_percent,
            )

    def all_reduce_rows(
        self, draw: Callable[[int], AllReduceSample], indices: range
    ) -> Iterator[dict[str, Any]]:
        """Measures the all-reduces of some indices; every rank yields the same dataset rows."""
        return self._reductions(draw, indices, self._all_reduce)

    def reduce_scatter_rows(
        self, draw: Callable[[int], AllReduceSample], indices: range
    ) -> Iterator[dict[str, Any]]:
        """Measures the reduce-scatters of some indices; every rank yields the same dataset rows."""
        return self._reductions(draw, indices, self._reduce_scatter)

    def _reductions(
        self,
        draw: Callable[[int], AllReduceSample],
        indices: range,
        prepare: Callable[[AllReduceSample], Callable[[], object]],
    ) -> Iterator[dict[str, Any]]:
        """The time of the rank with the largest median is that of the collective."""
        self._tally.reset()
        for index in indices:
            sample = draw(index)
            with self._tally.spend("prepare"):
                exchange = prepare(sample)
            times = self._measure(index, partial(self._one_time_ms, exchange))
            mine = Quantiles.of(times.from_last_start_ms[:, 0])
            with self._tally.spend("prepare"):
                shared = self.job.gather((mine.median, mine.p10, mine.p90, _known(mine)))
            median, p10, p90 = shared[np.argmax(shared[:, 0]), :3].tolist()
            quantiles = Quantiles(median, p10, p90, _worst(shared[:, 3]))
            yield all_reduce_row(sample, quantiles, len(times.ms), times.drift_percent)

    def _all_reduce(self, sample: AllReduceSample) -> Callable[[], object]:
        """Of the gradients of data-parallel tables."""
        gradients = torch.zeros(sample.num_bytes // 4, device=self._device.torch_device)
        return partial(dist.all_reduce, gradients)

    def _reduce_scatter(self, sample: AllReduceSample) -> Callable[[], object]:
        """Of the partial sums of row-wise tables: each rank gets its part of the batch."""
        sums = torch.zeros(sample.num_bytes // 4, device=self._device.torch_device)
        own = torch.empty(len(sums) // self.job.world_size, device=self._device.torch_device)
        return partial(_reduce_scatter_tensor, own, sums)

    def _measure(self, index: int, once: Callable[[], tuple[float, ...]]) -> _Times:
        """Measures until no rank drifted meanwhile, a few times at most."""
        self._tally.count("rows")
        with self._tally.spend("prepare"):
            self._clock.synchronize()
        best: _Times | None = None
        drift = self._drift_percent()
        for _ in range(self._drift.attempts()):
            self._starts_s.clear()
            times_ms = repeat(once, self._repetitions, self._agree)
            before, drift = drift, self._drift_percent()
            worst = max(before, drift, key=abs)
            if best is None or abs(worst) < abs(best.drift_percent):
                best = _Times(times_ms, self._waits_ms(times_ms), worst)
            if not self._drift.exceeds(best.drift_percent):
                break
        assert best is not None
        if self._drift.conclude(index, best.drift_percent):
            self._tally.count("drifted")
        return best

    def _waits_ms(self, times_ms: FloatArray) -> FloatArray:
        """How long this rank, in each of its times, waited for the last rank to start."""
        starts_s = np.asarray(self._starts_s[-times_ms.size :]).reshape(times_ms.shape)
        with self._tally.spend("prepare"):
            last_start_s = self.job.gather(starts_s).max(axis=0)
        # who gets nothing from the last starter may be done before it starts
        return np.asarray(np.clip((last_start_s - starts_s) * 1e3, 0.0, times_ms))

    def _agree(self, ci_percent: float, elapsed_s: float) -> tuple[float, float]:
        """The widest interval and the longest time of any rank: all ranks stop together."""
        with self._tally.spend("prepare"):
            widest, longest = self.job.gather((ci_percent, elapsed_s)).max(axis=0).tolist()
        return widest, longest

    def _drift_percent(self) -> float:
        """Of the rank that drifted most."""
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
        """Caches are flushed, all ranks meet, each waits its skew; then from its start to its end.

        In a job an operator has run before, whose rows have filled the caches.
        """

        def run() -> None:
            self._starts_s.append(self._clock.now_s())
            exchange()

        with self._tally.spend("flush"):
            self._device.flush_caches()
        with self._tally.spend("kernel"):
            self.job.barrier()
            spin_ms(skew_ms)
            with collective(self.job.timeout_s):
                _, time_ms = self._device.timed_ms(run)
        return time_ms


@contextmanager
def join(
    device_name: str,
    repetitions: Repetitions,
    timeout_s: float,
    max_drift_percent: float = 15.0,
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


def _known(quantiles: Quantiles) -> float:
    return np.inf if quantiles.ci_percent is None else quantiles.ci_percent


def _worst(ci_percents: FloatArray) -> float | None:
    """The widest interval of any rank; None where one is not known."""
    worst = float(ci_percents.max())
    return worst if np.isfinite(worst) else None
