"""The true cost of plans, `tests.benchmarks.truth`, held to the roofline's own samples."""

import numpy as np
import pytest
from tests.benchmarks.row_shards import row_shards
from tests.benchmarks.tasks import HARDWARE, ROWS, draw_task
from tests.benchmarks.truth import UnjudgedPlanError, true_cost

from shardwright.domain import (
    Cluster,
    EmbeddingTable,
    IllegalPlanError,
    Shard,
    ShardingPlan,
    ShardingProblem,
    WeightDtype,
)
from shardwright_benchmark_worker.pool import read_pool
from shardwright_benchmark_worker.roofline import (
    all_reduce_ms,
    comm_times,
    compute_times,
    get_profile,
)
from shardwright_benchmark_worker.roofline.source import compute_rows
from shardwright_benchmark_worker.sampling import AllReduceSample, CommSample, draw_compute_sample
from shardwright_benchmark_worker.sampling.limits import ComputeLimits

PROFILE = get_profile(HARDWARE)


def problem_of(sample, num_devices=1, per_host=None) -> ShardingProblem:
    """The tables of a training sample as a problem."""
    tables = tuple(
        EmbeddingTable(
            f"t{i}",
            int(sample.num_embeddings[i]),
            int(sample.embedding_dim[i]),
            float(sample.pooling_factor[i]),
            tuple(sample.reuse_histogram[i].tolist()),
            sample.weight_dtype,
        )
        for i in range(len(sample))
    )
    cluster = Cluster(num_devices, per_host or num_devices, HARDWARE, 2**45)
    return ShardingProblem(tables, cluster, sample.global_batch_size, sample.optimizer)


def whole(table, device) -> Shard:
    return Shard(table.name, device, 0, table.num_embeddings, 0, table.embedding_dim)


def sample(index=0):
    return draw_compute_sample(read_pool(), ComputeLimits(), seed=1, index=index)


@pytest.mark.parametrize("index", range(8))
def test_a_device_costs_what_the_training_row_of_its_tables_says(index):
    drawn = sample(index)
    (row,) = compute_rows(PROFILE, lambda _: drawn, range(1))
    task = problem_of(drawn)
    cost = true_cost(ShardingPlan(tuple(whole(t, 0) for t in task.tables)), task)
    assert cost.cost_ms == pytest.approx(row["forward_ms"] + row["backward_ms"], rel=1e-9)
    assert cost.forward_comm_ms == cost.backward_comm_ms == 0


def test_the_slowest_device_waits_for_nobody_and_both_transfers_are_paid():
    task = draw_task(ROWS["400x32"], 0)
    rng = np.random.default_rng(0)
    devices = rng.integers(32, size=len(task.tables))
    task = ShardingProblem(
        task.tables, Cluster(32, 8, HARDWARE, 2**45), task.global_batch_size, task.optimizer
    )
    cost = true_cost(
        ShardingPlan(tuple(whole(t, int(d)) for t, d in zip(task.tables, devices, strict=True))),
        task,
    )
    dims = np.bincount(devices, [t.embedding_dim for t in task.tables], 32).astype(np.int64)
    times = comm_times(PROFILE, CommSample(0, 8, 65536, dims, np.zeros(32)))
    assert cost.wait_ms[cost.compute_ms.argmax()] == 0
    assert cost.cost_ms == pytest.approx(
        cost.compute_ms.max() + times.forward_ms[0] + times.backward_ms[0]
    )


def test_a_row_piece_has_a_share_of_rows_and_lookups_and_the_full_width_everywhere():
    task = problem_of(sample(3), num_devices=4)
    task = ShardingProblem(task.tables[:1], task.cluster, task.global_batch_size, task.optimizer)
    (table,) = task.tables
    cost = true_cost(ShardingPlan(tuple(row_shards(task, 0, range(4)))), task)
    piece = EmbeddingTable(
        "piece",
        -(-table.num_embeddings // 4),
        table.embedding_dim,
        table.pooling_factor / 4,
        table.reuse_histogram,
        table.weight_dtype,
    )
    alone = ShardingProblem((piece,), Cluster(1, 1, HARDWARE, 2**45), 1, task.optimizer)
    alone = ShardingProblem(alone.tables, alone.cluster, task.global_batch_size, task.optimizer)
    one = true_cost(ShardingPlan((whole(piece, 0),)), alone)
    assert cost.compute_ms == pytest.approx(np.full(4, one.cost_ms))
    dims = np.full(4, table.embedding_dim)
    times = comm_times(PROFILE, CommSample(0, 4, task.global_batch_size, dims, np.zeros(4)))
    assert cost.forward_comm_ms == pytest.approx(times.forward_ms)


def test_halving_columns_costs_as_two_narrower_tables():
    drawn = sample(5)
    task = problem_of(drawn, num_devices=2)
    wide = next(t for t in task.tables if t.embedding_dim % 8 == 0)
    task = ShardingProblem((wide,), task.cluster, task.global_batch_size, task.optimizer)
    half, rows = wide.embedding_dim // 2, wide.num_embeddings
    plan = ShardingPlan(tuple(Shard(wide.name, d, 0, rows, d * half, half) for d in (0, 1)))
    cost = true_cost(plan, task)
    assert cost.compute_ms[0] == cost.compute_ms[1]
    assert cost.compute_ms[0] / true_cost(ShardingPlan((whole(wide, 0),)), task).compute_ms[0] > 0.5


def test_a_table_without_statistics_is_taken_as_the_search_takes_it():
    tables = (EmbeddingTable("t", 10**6, 64, 20.0),)
    task = ShardingProblem(tables, Cluster(1, 1, HARDWARE, 2**45), 4096, sample().optimizer)
    assert 0 < true_cost(ShardingPlan((whole(tables[0], 0),)), task).cost_ms < 100


def test_an_empty_device_computes_nothing():
    task = problem_of(sample(2), num_devices=2)
    cost = true_cost(ShardingPlan(tuple(whole(t, 1) for t in task.tables)), task)
    assert cost.compute_ms[0] == 0
    assert cost.wait_ms[0] == pytest.approx(cost.compute_ms[1])


def test_copies_share_the_batch_and_reduce_their_gradients():
    task = problem_of(sample(3), num_devices=4)
    plan = ShardingPlan(tuple(whole(t, d) for t in task.tables for d in range(4)))
    cost = true_cost(plan, task)
    quarter = ShardingProblem(
        task.tables,
        Cluster(1, 1, HARDWARE, 2**45),
        task.global_batch_size // 4,
        task.optimizer,
    )
    alone = true_cost(ShardingPlan(tuple(whole(t, 0) for t in task.tables)), quarter)
    assert cost.compute_ms == pytest.approx(np.full(4, alone.cost_ms))
    num_bytes = sum(4 * t.num_embeddings * t.embedding_dim for t in task.tables)
    reduced = all_reduce_ms(PROFILE, AllReduceSample(0, 4, 4, num_bytes))
    nothing = comm_times(PROFILE, CommSample(0, 4, task.global_batch_size, *np.zeros((2, 4), int)))
    assert cost.forward_comm_ms == pytest.approx(nothing.forward_ms)
    assert cost.backward_comm_ms == pytest.approx(nothing.backward_ms + reduced)


def test_illegal_and_mixed_plans_are_not_judged():
    task = problem_of(sample(2), num_devices=2)
    with pytest.raises(IllegalPlanError):
        true_cost(ShardingPlan(()), task)
    tables = (
        EmbeddingTable("a", 100, 8, 1.0),
        EmbeddingTable("b", 100, 8, 1.0, weight_dtype=WeightDtype.FP16),
    )
    mixed = ShardingProblem(tables, task.cluster, 512, task.optimizer)
    with pytest.raises(UnjudgedPlanError, match="one dtype"):
        true_cost(ShardingPlan(tuple(whole(t, 0) for t in tables)), mixed)


def test_several_operators_are_priced_each_for_itself():
    drawn = [sample(i) for i in range(3)]
    times = compute_times(PROFILE, drawn)
    alone = [compute_times(PROFILE, [one]).forward_ms[0] for one in drawn]
    assert times.forward_ms == pytest.approx(alone)
