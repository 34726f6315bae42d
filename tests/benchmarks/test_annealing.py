"""The annealing and the parts it prices plans with."""

import itertools

import numpy as np
import pytest
from tests.benchmarks import annealing_kernel as kernel
from tests.benchmarks.annealing import _arrays, _to_plan, _to_state, anneal
from tests.benchmarks.greedy import place_randomly
from tests.benchmarks.row_shards import row_shards
from tests.benchmarks.tasks import HARDWARE, ROWS, draw_task
from tests.benchmarks.truth import true_cost

from shardwright.domain import (
    Cluster,
    Optimizer,
    Shard,
    ShardingPlan,
    ShardingProblem,
    ShardingType,
    check_plan,
    device_memory_bytes,
)


def roomy(name, index, tables=None, optimizer=Optimizer.SGD) -> ShardingProblem:
    """A task whose memory holds everything anywhere."""
    task, row = draw_task(ROWS[name], index), ROWS[name]
    cluster = Cluster(row.num_devices, row.devices_per_host, HARDWARE, 2**45)
    return ShardingProblem(task.tables[:tables], cluster, task.global_batch_size, optimizer)


def mixed_plan(task) -> ShardingPlan:
    """Tables in turn in columns, in rows, in rows of a host, and whole."""
    shards = []
    devices = task.cluster.num_devices
    for i, table in enumerate(task.tables):
        rows, dim = table.num_embeddings, table.embedding_dim
        if i % 4 == 0 and dim >= 8:
            shards += [
                Shard(table.name, i % devices, 0, rows, 0, 4),
                Shard(table.name, (3 * i + 1) % devices, 0, rows, 4, dim - 4),
            ]
        elif i % 4 == 1:
            shards += row_shards(task, i, range(devices))
        elif i % 4 == 2:
            host = i % task.cluster.num_hosts * 8
            shards += row_shards(task, i, range(host, host + 8))
        else:
            shards.append(Shard(table.name, i % devices, 0, rows, 0, dim))
    return ShardingPlan(tuple(shards))


@pytest.mark.parametrize("optimizer", [Optimizer.SGD, Optimizer.ROWWISE_ADAGRAD])
def test_the_kernel_prices_plans_as_the_truth_does(optimizer):
    task = roomy("400x32", 0, tables=100, optimizer=optimizer)
    plan = mixed_plan(task)
    assert set(check_plan(plan, task).values()) >= {
        ShardingType.COLUMN_WISE,
        ShardingType.ROW_WISE,
        ShardingType.TABLE_ROW_WISE,
    }
    tables, (_, per_host, comm, fixed_ms) = _arrays(task, in_rows=True)
    state = _to_state(plan, task)
    sums = (np.zeros((32, 6)), np.zeros(32, np.int64), np.zeros(32), np.zeros(32, np.int64))
    kernel.sum_up(state.pieces, state.num_pieces, state.modes, *tables, sums, per_host)
    work, used, dims, counts = sums
    compute_ms = [kernel.device_ms(work[d], counts[d], fixed_ms) for d in range(32)]
    truth = true_cost(plan, task)
    assert compute_ms == pytest.approx(truth.compute_ms.tolist(), rel=1e-9)
    assert kernel.transfer_ms(dims, per_host, comm) == pytest.approx(truth.forward_comm_ms[0])
    # the last of a table's row ranges may be shorter: the kernel counts it in full
    real = np.array(device_memory_bytes(plan, task))
    assert (used >= real).all() and used == pytest.approx(real, rel=1e-4)
    assert true_cost(_to_plan(state, task), task).cost_ms == pytest.approx(truth.cost_ms)


def test_it_finds_the_best_of_all_plans_of_a_tiny_task():
    task = roomy("10-60x4", 0, tables=5)
    whole = [
        ShardingPlan(
            tuple(
                Shard(t.name, d, 0, t.num_embeddings, 0, t.embedding_dim)
                for t, d in zip(task.tables, devices, strict=True)
            )
        )
        for devices in itertools.product(range(4), repeat=5)
    ]
    best = min(true_cost(plan, task).cost_ms for plan in whole)
    found = anneal(task, whole[0], seconds=0.5, seed=0)
    assert true_cost(found, task).cost_ms <= best + 1e-9


@pytest.mark.parametrize("in_rows", [False, True])
def test_it_returns_legal_plans_within_memory_and_its_sharding_types(in_rows):
    task = draw_task(ROWS["20-120x8"], 1)
    start = place_randomly(task, seed=0)
    found = anneal(task, start, seconds=0.5, seed=0, in_rows=in_rows)
    kinds = set(check_plan(found, task).values())
    in_columns = {ShardingType.TABLE_WISE, ShardingType.COLUMN_WISE}
    assert kinds <= in_columns | ({ShardingType.ROW_WISE} if in_rows else set())
    assert true_cost(found, task).cost_ms < 0.9 * true_cost(start, task).cost_ms


def test_the_same_seed_and_clock_give_the_same_plan():
    task = draw_task(ROWS["10-60x4"], 1)
    start = place_randomly(task, seed=0)

    def ticks():
        counter = itertools.count()
        return lambda: float(next(counter))

    plans = [anneal(task, start, seconds=40.0, seed=7, clock=ticks()) for _ in range(2)]
    assert plans[0] == plans[1]
    assert true_cost(plans[0], task).cost_ms <= true_cost(start, task).cost_ms
