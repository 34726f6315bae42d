"""One iteration of a replayed plan against the same model unsharded; run under torchrun.

Usage: torchrun --standalone --nproc-per-node N replay_rank.py DEVICE RESPONSE.json
Each rank prints how far its pooled outputs and its updated weights are from the unsharded ones.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as nnf

from shardwright_benchmark_worker.measure.job import Job, join_job
from shardwright_benchmark_worker.replay.batches import draw_table
from shardwright_benchmark_worker.replay.files import PlannedJob, read_jobs
from shardwright_benchmark_worker.replay.iteration import RankReplay
from shardwright_benchmark_worker.replay.operators import LEARNING_RATE
from shardwright_benchmark_worker.replay.pieces import (
    Piece,
    copied_tables,
    local_batches,
    rank_pieces,
)

SEED = 3
GRADIENT = 10.0


class Reference:
    """The model whole, on this rank alone: weights, lookups and gradients of every table."""

    def __init__(self, planned: PlannedJob) -> None:
        problem = planned.problem
        self.batch_size = problem.global_batch_size
        generator = torch.Generator().manual_seed(11)
        shapes = [(t.num_embeddings, t.embedding_dim) for t in problem.tables]
        # on a grid that fp16 holds exactly
        self.weights = [
            torch.randint(-64, 64, shape, generator=generator) / 64.0 for shape in shapes
        ]
        self.gradients = [
            GRADIENT * torch.randn(self.batch_size, dim, generator=generator) for _, dim in shapes
        ]
        cpu = torch.device("cpu")
        self.lookups = [draw_table(problem, i, SEED, 0, cpu) for i in range(len(shapes))]

    def pooled(self, table: int) -> torch.Tensor:
        lookups = self.lookups[table]
        return nnf.embedding_bag(
            lookups.indices, self.weights[table], lookups.offsets[:-1], mode="sum"
        )

    def updated(self, table: int, gradient: torch.Tensor) -> torch.Tensor:
        """Weights after a step of SGD with the gradient of pooled outputs."""
        lookups = self.lookups[table]
        per_lookup = gradient.repeat_interleave(lookups.offsets.diff(), dim=0)
        step = torch.zeros_like(self.weights[table]).index_add(0, lookups.indices, per_lookup)
        return self.weights[table] - LEARNING_RATE * step


def cut(whole: torch.Tensor, piece: Piece) -> torch.Tensor:
    shard = piece.shard
    rows = slice(shard.row_offset, shard.row_offset + shard.num_rows)
    return whole[rows, shard.column_offset : shard.column_offset + shard.num_columns]


def weights_of(replay: RankReplay) -> list[tuple[Piece, torch.Tensor]]:
    """The weights of each piece on this rank."""
    return [
        pair
        for operator, held in replay.operators.fused
        for pair in zip(held, operator.split_embedding_weights(), strict=True)
    ]


def set_up(replay: RankReplay, reference: Reference, planned: PlannedJob, job: Job) -> None:
    """Gives the replay the reference's weights, and gradients of its outputs."""
    for piece, weights in weights_of(replay):
        weights.copy_(cut(reference.weights[piece.table], piece))
    if replay.copies is not None:
        for table, weights in zip(copied_tables(planned), replay.copies.weights, strict=True):
            weights.data.copy_(reference.weights[table].ravel())
    mine = own_samples(reference, job)
    parts = []
    for rank in range(job.world_size):
        columns = [
            reference.gradients[p.table][mine, p.shard.column_offset :][:, : p.shard.num_columns]
            for p in rank_pieces(planned, rank)
        ]
        parts += [torch.cat(columns, dim=1).ravel()] if columns else []
    replay.gradient_sent.copy_(torch.cat(parts))


def own_samples(reference: Reference, job: Job) -> slice:
    counts = local_batches(reference.batch_size, job.world_size)
    begin = sum(counts[: job.rank])
    return slice(begin, begin + counts[job.rank])


def output_difference(
    replay: RankReplay, reference: Reference, planned: PlannedJob, job: Job
) -> float:
    """Of what arrived on this rank, table by table, to the unsharded outputs of its samples."""
    mine, seen, worst = own_samples(reference, job), set(), 0.0
    for rank in range(job.world_size):
        received = replay.received(rank).cpu()
        for piece in rank_pieces(planned, rank):
            if piece.in_rows and piece.table in seen:
                continue  # added to what came from the first rank with rows of it
            seen.add(piece.table)
            begin = piece.shard.column_offset
            expected = reference.pooled(piece.table)[mine, begin : begin + piece.shard.num_columns]
            got = received[:, piece.offset : piece.offset + piece.shard.num_columns]
            assert got.shape == expected.shape, (got.shape, expected.shape)
            worst = max(worst, float((got - expected).abs().max()))
    assert seen | set(copied_tables(planned)) == set(range(len(planned.problem.tables)))
    return worst


def step_difference(
    replay: RankReplay, reference: Reference, planned: PlannedJob
) -> tuple[float, float]:
    """Of updated weights to those of the unsharded model, and how far the step moved them."""
    worst, moved = 0.0, 0.0
    for piece, weights in weights_of(replay):
        before, after = reference.weights[piece.table], weights.cpu().float()
        expected = cut(reference.updated(piece.table, reference.gradients[piece.table]), piece)
        # fp16 weights are rounded, at random on a GPU
        tolerated = 2e-3 if weights.dtype is torch.float16 else 0.0
        worst = max(worst, float((after - expected).abs().max()) - tolerated)
        moved = max(moved, float((after - cut(before, piece)).abs().max()))
    if replay.copies is not None:
        for table, weights in zip(copied_tables(planned), replay.copies.weights, strict=True):
            ones = torch.ones_like(reference.gradients[table])
            expected = reference.updated(table, ones).ravel()
            assert not torch.equal(expected, reference.weights[table].ravel())
            worst = max(worst, float((weights.detach().cpu() - expected).abs().max()))
    return worst, moved


def main() -> None:
    device, response = sys.argv[1:]
    (planned,) = read_jobs([Path(response)], None)
    with join_job("replay ...", device, 60.0) as opened:
        job = Job(opened, 60.0)
        reference = Reference(planned)
        replay = RankReplay(planned, job, SEED, num_batches=1)
        set_up(replay, reference, planned, job)
        replay.once(0.0)
        output = output_difference(replay, reference, planned, job)
        step, moved = step_difference(replay, reference, planned)
        report = {"rank": job.rank, "output": output, "step": step, "moved": moved}
        print("REPORT " + json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
