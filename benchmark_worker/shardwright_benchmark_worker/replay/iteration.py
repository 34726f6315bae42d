"""One training iteration of the embeddings of a plan, on one of the ranks that run it.

forward operator -> all-to-all of pooled outputs -> all-to-all of their gradients -> backward
operator with its optimizer (-> all-reduce of the gradients of copies -> their optimizer)

What a job does between (dense layers, loss) is left out, but for what it does to the caches: they
are flushed before each operator, off the clock, as they are where operators are measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields

import torch
import torch.distributed as dist

from shardwright_benchmark_worker.measure.job import Job, collective
from shardwright_benchmark_worker.replay.batches import draw_table, piece_lookups, samples_of
from shardwright_benchmark_worker.replay.files import PlannedJob
from shardwright_benchmark_worker.replay.operators import CopyOperators, ShardOperators
from shardwright_benchmark_worker.replay.pieces import (
    copied_tables,
    local_batches,
    partial_sums,
    rank_pieces,
    width,
)


@dataclass(frozen=True)
class Stamps:
    """Times of one iteration on one rank, ms; starts are by the clock of rank 0.

    Attributes:
        forward: Forward operators.
        forward_start: When it entered the forward all-to-all.
        forward_exchange: From then to its end, waiting included.
        backward_start: When it entered the backward all-to-all.
        backward_exchange: From then to its end.
        backward: Backward operators with the fused optimizer.
        reduce_start: When it entered the all-reduce of the gradients of copies.
        reduce: From then to its end; 0 without copies.
        step: Optimizer of the copies; 0 without copies.
    """

    forward: float
    forward_start: float
    forward_exchange: float
    backward_start: float
    backward_exchange: float
    backward: float
    reduce_start: float
    reduce: float
    step: float

    def row(self) -> tuple[float, ...]:
        """In the order of `STAMPS`."""
        return astuple(self)


STAMPS = tuple(field.name for field in fields(Stamps))


class RankReplay:
    """Runs iterations of a plan on this rank; all ranks call it together.

    Args:
        planned: The plan and its problem.
        job: The ranks.
        seed: Of the lookups.
        num_batches: Batches drawn; iterations take them in turn.

    Attributes:
        operators: The shards of this rank.
        copies: Its copies of data-parallel tables; None: there are none.
        gradient_sent: What dense layers would send back: for each rank `[own samples, its width]`,
            one after another.
    """

    def __init__(self, planned: PlannedJob, job: Job, seed: int, num_batches: int) -> None:
        problem, device = planned.problem, job.device
        self._job, self._device = job, device
        by_rank = [rank_pieces(planned, rank) for rank in range(job.world_size)]
        pieces, copied = by_rank[job.rank], copied_tables(planned)
        self.operators = ShardOperators(problem, pieces, device)
        self.copies = (
            CopyOperators([problem.tables[i] for i in copied], problem.optimizer, device)
            if copied
            else None
        )
        samples = local_batches(problem.global_batch_size, job.world_size)
        first_sample, num_samples = sum(samples[: job.rank]), samples[job.rank]
        self._batches, self._copy_batches = [], []
        for number in range(num_batches):
            tables = {*(piece.table for piece in pieces), *copied}
            drawn = {
                i: draw_table(problem, i, seed, number, device.torch_device) for i in sorted(tables)
            }
            of_piece = {piece: piece_lookups(drawn[piece.table], piece) for piece in pieces}
            self._batches.append(self.operators.batch(of_piece))
            self._copy_batches.append(
                [samples_of(drawn[i], first_sample, num_samples) for i in copied]
            )
        self._widths = [width(of_rank) for of_rank in by_rank]
        own = self._widths[job.rank]
        self._sent = [count * own for count in samples]
        self._received = [num_samples * wide for wide in self._widths]
        self.pooled = torch.zeros(sum(self._received), device=device.torch_device)
        self._views: list[torch.Tensor] = [
            part.view(num_samples, -1) if part.numel() else part.view(num_samples, 0)
            for part in torch.split(self.pooled, self._received)
        ]
        self._sums = partial_sums(by_rank)
        self.gradient_sent = 1e-3 * torch.randn(len(self.pooled), device=device.torch_device)
        self._gradient = torch.zeros(problem.global_batch_size, own, device=device.torch_device)
        self._iteration = 0

    def once(self, clock_offset_ms: float) -> Stamps:
        """One iteration; the offset is what this rank's clock is ahead of rank 0's."""
        number = self._iteration % len(self._batches)
        self._iteration += 1
        self._device.flush_caches()
        output, forward = self._device.timed_ms(lambda: self.pool(number))
        forward_start, forward_exchange = self._collective(lambda: self.exchange(output))
        backward_start, backward_exchange = self._collective(self._exchange_gradients)
        self._device.flush_caches()
        reduced, backward = self._device.timed_ms(self._propagate)
        reduce_start = reduce = step = 0.0
        if self.copies is not None:
            assert reduced is not None
            reduce_start, reduce = self._collective(lambda: dist.all_reduce(reduced))
            _, step = self._device.timed_ms(lambda: self._step(reduced))
        return Stamps(
            forward,
            forward_start - clock_offset_ms,
            forward_exchange,
            backward_start - clock_offset_ms,
            backward_exchange,
            backward,
            reduce_start - clock_offset_ms,
            reduce,
            step,
        )

    def pool(self, number: int) -> torch.Tensor:
        """Forward operators on a batch, `[batch, own width]`."""
        if self.copies is not None:
            self.copies.forward(self._copy_batches[number])
        return self.operators.forward(self._batches[number])

    def exchange(self, output: torch.Tensor) -> None:
        """Sends each rank its samples; `received` then holds those of this rank."""
        if any(self._widths):
            dist.all_to_all_single(self.pooled, output.view(-1), self._received, self._sent)
        for partial in self._sums:
            begin, end = partial.into_offset, partial.into_offset + partial.num_columns
            into = self._views[partial.into_rank][:, begin:end]
            into += self._views[partial.rank][:, partial.offset : partial.offset + end - begin]

    def received(self, rank: int) -> torch.Tensor:
        """What the last exchange brought from a rank, `[own samples, width of that rank]`.

        Whole sums of a row-wise table stand with the first rank that holds rows of it.
        """
        return self._views[rank]

    def _exchange_gradients(self) -> None:
        if any(self._widths):
            dist.all_to_all_single(
                self._gradient.view(-1), self.gradient_sent, self._sent, self._received
            )

    def _propagate(self) -> torch.Tensor | None:
        self.operators.backward(self._gradient)
        return None if self.copies is None else self.copies.backward()

    def _step(self, gradients: torch.Tensor) -> None:
        assert self.copies is not None
        self.copies.step(gradients)

    def _collective(self, run: Callable[[], object]) -> tuple[float, float]:
        """When this rank entered, and how long it was in it, ms."""
        with collective(self._job.timeout_s):
            start_ms = time.perf_counter() * 1e3
            _, time_ms = self._device.timed_ms(run)
        return start_ms, time_ms
