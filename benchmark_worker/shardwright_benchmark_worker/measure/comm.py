"""Times collectives among the processes of a torchrun job.

All-to-alls are those of TorchRec's pooled embeddings: device d holds `dims[d]` columns of the
whole batch and sends each device its part of the batch; the backward pass sends gradients back.
All-reduces are those of the dense gradients of data-parallel tables.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from shardwright_benchmark_worker.errors import LaunchError
from shardwright_benchmark_worker.measure.compute import check_repetitions
from shardwright_benchmark_worker.measure.device import Device, median_ms, spin_ms
from shardwright_benchmark_worker.measure.job import collective, join_job
from shardwright_benchmark_worker.rows import Quantiles, all_reduce_row, comm_row
from shardwright_benchmark_worker.sampling import AllReduceSample, CommSample


class CommBench:
    """One rank of a job that measures collectives; every rank calls the same methods in order.

    Attributes:
        rank: Of this process.
        world_size: Processes of the job.
        local_world_size: Processes on this host.
    """

    def __init__(
        self,
        device: Device,
        warmup: int,
        repetitions: int,
        timeout_s: float,
        patience_s: float = 0.0,
    ) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.local_world_size = int(os.environ["LOCAL_WORLD_SIZE"])
        self._device = device
        self._warmup = warmup
        self._repetitions = repetitions
        self._timeout_s = timeout_s
        # rank 0 may wait for the store, and the others for it, far longer than for a collective
        self._patience_s = patience_s + timeout_s
        self._patient = dist.new_group(backend="gloo", timeout=timedelta(seconds=self._patience_s))

    def fingerprint(self) -> dict[str, str]:
        """What measures, as text."""
        return {
            **self._device.fingerprint(),
            "backend": self._device.backend,
            "world_size": str(self.world_size),
        }

    def agree(self, parts: list[range]) -> list[range]:
        """What rank 0 has in `parts`, on every rank."""
        payload = [[(part.start, part.stop) for part in parts]]
        with collective(self._patience_s):
            dist.broadcast_object_list(payload, src=0, group=self._patient)
        return [range(start, stop) for start, stop in payload[0]]

    def meet(self) -> None:
        """Waits for all ranks; longer than in a collective, for rank 0 writes parts."""
        with collective(self._patience_s):
            dist.barrier(group=self._patient)

    def rows(self, draw: Callable[[int], CommSample], indices: range) -> Iterator[dict[str, Any]]:
        """Measures the samples of some indices; every rank yields the same dataset rows."""
        for index in indices:
            sample = draw(index)
            times = torch.tensor(
                self._measure(sample), dtype=torch.float64, device=self._device.torch_device
            )
            everyone = [torch.empty_like(times) for _ in range(self.world_size)]
            with collective(self._timeout_s):
                dist.all_gather(everyone, times)
            by_rank = torch.stack(everyone).cpu().numpy()
            yield comm_row(sample, by_rank[:, 0], by_rank[:, 1], self._repetitions)

    def all_reduce_rows(
        self, draw: Callable[[int], AllReduceSample], indices: range
    ) -> Iterator[dict[str, Any]]:
        """Measures the all-reduces of some indices; every rank yields the same dataset rows.

        The time of the rank with the largest median is that of the collective.
        """
        for index in indices:
            sample = draw(index)
            quantiles = Quantiles.of(self._all_reduce_ms(sample))
            mine = torch.tensor(
                [quantiles.median, quantiles.p10, quantiles.p90],
                dtype=torch.float64,
                device=self._device.torch_device,
            )
            everyone = [torch.empty_like(mine) for _ in range(self.world_size)]
            with collective(self._timeout_s):
                dist.all_gather(everyone, mine)
            slowest = max(values.tolist() for values in everyone)
            yield all_reduce_row(sample, Quantiles(*slowest), self._repetitions)

    def _all_reduce_ms(self, sample: AllReduceSample) -> list[float]:
        """Times of this rank."""
        gradients = torch.zeros(sample.num_bytes // 4, device=self._device.torch_device)
        times_ms = []
        for _ in range(self._warmup + self._repetitions):
            with collective(self._timeout_s):
                dist.barrier()
                _, time_ms = self._device.timed_ms(partial(dist.all_reduce, gradients))
            times_ms.append(time_ms)
        return times_ms[self._warmup :]

    def _measure(self, sample: CommSample) -> tuple[float, float]:
        """Median forward and backward time of this rank, ms."""
        local_batch = sample.global_batch_size // self.world_size
        dims = [int(dim) for dim in sample.dims]
        # what this rank exchanges with each other one: columns it holds, columns they hold
        own = [local_batch * dims[self.rank]] * self.world_size
        others = [local_batch * dim for dim in dims]
        device = self._device.torch_device
        embeddings = torch.randn(sum(own), device=device)
        pooled = torch.randn(sum(others), device=device)
        skew_ms = float(sample.start_skew_ms[self.rank])
        forward_ms, backward_ms = [], []
        for repetition in range(self._warmup + self._repetitions):
            forward = self._exchange_ms(pooled, embeddings, others, own, skew_ms)
            backward = self._exchange_ms(embeddings, pooled, own, others, 0.0)
            if repetition >= self._warmup:
                forward_ms.append(forward)
                backward_ms.append(backward)
        return median_ms(forward_ms), median_ms(backward_ms)

    def _exchange_ms(
        self,
        received: torch.Tensor,
        sent: torch.Tensor,
        received_splits: list[int],
        sent_splits: list[int],
        skew_ms: float,
    ) -> float:
        """All ranks meet, each waits its skew; then from this rank's start to its end."""
        exchange = partial(dist.all_to_all_single, received, sent, received_splits, sent_splits)
        with collective(self._timeout_s):
            dist.barrier()
            spin_ms(skew_ms)
            _, time_ms = self._device.timed_ms(exchange)
        return time_ms


@contextmanager
def join(
    device_name: str, warmup: int, repetitions: int, timeout_s: float, *, patience_s: float = 0.0
) -> Iterator[CommBench]:
    """Joins the torchrun job of this process, and leaves it at the end.

    Args:
        device_name: `cpu` (gloo) or `cuda` (NCCL).
        warmup: Untimed runs of each sample.
        repetitions: Timed runs of each sample.
        timeout_s: A collective that takes longer fails: a rank is lost.
        patience_s: How long rank 0 may take to list and write parts.

    Raises:
        LaunchError: When not started by torchrun, or with a single process.
        LostRankError: When a rank is lost.
    """
    check_repetitions(warmup, repetitions)
    if int(os.environ.get("WORLD_SIZE", 2)) < 2:
        raise LaunchError("a collective needs at least two processes; raise --nproc-per-node")
    with join_job("comm ...", device_name, timeout_s) as device:
        with collective(timeout_s):
            bench = CommBench(device, warmup, repetitions, timeout_s, patience_s)
        yield bench
