from __future__ import annotations

import torch

from shardwright_benchmark_worker.measure.lookups import Lookups
from shardwright_benchmark_worker.replay.batches import draw_table, rows_of, samples_of, together
from shardwright_benchmark_worker.replay.files import PlannedJob
from shardwright_benchmark_worker.replay.pieces import (
    local_batches,
    partial_sums,
    rank_pieces,
    width,
)

from .replay_files import MIXED_SHARDS, make_problem, make_result

CPU = torch.device("cpu")


def mixed_job() -> PlannedJob:
    from shardwright.domain import check_plan

    problem, result = make_problem(), make_result(MIXED_SHARDS)
    return PlannedJob("mixed", problem, result, check_plan(result.plan, problem))


def bags(lookups: Lookups) -> list[list[int]]:
    ends = lookups.offsets.tolist()
    rows = lookups.indices.tolist()
    return [rows[begin:end] for begin, end in zip(ends, ends[1:], strict=False)]


def test_a_table_has_one_batch_whoever_draws_it() -> None:
    problem = make_problem()
    first, again = (bags(draw_table(problem, 1, 7, 3, CPU)) for _ in range(2))
    assert first == again and len(first) == problem.global_batch_size
    others = [(2, 7, 3), (1, 8, 3), (1, 7, 4)]
    assert all(bags(draw_table(problem, *other, CPU)) != first for other in others)


def test_row_parts_have_each_lookup_once() -> None:
    whole = draw_table(make_problem(), 1, 0, 0, CPU)
    low, high = rows_of(whole, 0, 501), rows_of(whole, 501, 500)
    assert high.indices.min() >= 0 and high.indices.max() < 500
    for bag, part, rest in zip(bags(whole), bags(low), bags(high), strict=True):
        assert sorted(bag) == sorted([*part, *(row + 501 for row in rest)])
    assert len(low.indices) and len(high.indices)


def test_samples_of_a_rank_are_a_part_of_the_batch() -> None:
    whole = draw_table(make_problem(), 0, 0, 0, CPU)
    assert bags(samples_of(whole, 50, 51)) == bags(whole)[50:]


def test_the_tables_of_an_operator_follow_one_another() -> None:
    first, second = (draw_table(make_problem(), i, 0, 0, CPU) for i in (0, 1))
    assert bags(together([first, second])) == bags(first) + bags(second)


def test_a_batch_is_divided_over_all_ranks() -> None:
    assert local_batches(101, 2) == [50, 51]
    assert local_batches(3, 4) == [0, 1, 1, 1]
    assert sum(local_batches(65_537, 48)) == 65_537


def test_every_shard_is_held_once_by_its_rank() -> None:
    job = mixed_job()
    by_rank = [rank_pieces(job, rank) for rank in (0, 1)]
    held = [piece.shard for pieces in by_rank for piece in pieces]
    # copies are no shards that travel, and empty rows no work
    expected = [s for s in MIXED_SHARDS if s.table != "copied" and s.num_rows]
    assert sorted(held, key=str) == sorted(expected, key=str)
    assert all(p.shard.device == rank for rank in (0, 1) for p in by_rank[rank])
    for pieces in by_rank:
        ends = [piece.offset + piece.shard.num_columns for piece in pieces]
        assert [piece.offset for piece in pieces] == [0, *ends[:-1]] and ends[-1] == width(pieces)
    # one operator has one dtype: fp16 comes last
    assert [p.shard.table for p in by_rank[0]][-1] == "half"


def test_only_row_parts_are_added_up() -> None:
    job = mixed_job()
    by_rank = [rank_pieces(job, rank) for rank in (0, 1)]
    (only,) = partial_sums(by_rank)
    (there,) = (p for p in by_rank[1] if p.shard.table == "rows")
    (here,) = (p for p in by_rank[0] if p.shard.table == "rows")
    assert (only.rank, only.offset, only.num_columns) == (1, there.offset, 32)
    assert (only.into_rank, only.into_offset) == (0, here.offset)
