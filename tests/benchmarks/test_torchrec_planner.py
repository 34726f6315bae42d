"""TorchRec's planner as a side."""

import pytest
from tests.benchmarks.sides import COLUMNS_ONLY, WITH_ROWS
from tests.benchmarks.tasks import HARDWARE, ROWS, draw_task
from tests.benchmarks.torchrec_planner import plan_apart, plan_here
from tests.benchmarks.truth import true_cost

from shardwright.domain import (
    Cluster,
    EmbeddingTable,
    Optimizer,
    ShardingProblem,
    ShardingType,
    check_plan,
)

pytest.importorskip("torchrec")


def test_its_plans_are_legal_ones_of_ours():
    task = draw_task(ROWS["10-60x4"], 0)
    answer = plan_apart(task, COLUMNS_ONLY)
    assert answer.note == ""
    assert set(check_plan(answer.plan, task).values()) <= set(COLUMNS_ONLY)
    assert true_cost(answer.plan, task).cost_ms > 0
    assert answer.cpu_s > 0


def test_row_ranges_are_those_of_its_runtime():
    # 4 ranges of 1000001 rows: its planner makes them 250000 and the rest, its runtime 250001
    table = EmbeddingTable("t", 1_000_001, 64, 50.0)
    task = ShardingProblem((table,), Cluster(4, 4, HARDWARE, 2**30), 65536, Optimizer.SGD)
    plan, note = plan_here(task, (ShardingType.ROW_WISE,))
    assert note == ""
    assert check_plan(plan, task) == {"t": ShardingType.ROW_WISE}
    assert [shard.num_rows for shard in plan.shards] == [250_001, 250_001, 250_001, 249_998]


def test_memory_counts_weights_alone():
    table = EmbeddingTable("t", 2**20, 128, 50.0)
    fits = Cluster(2, 2, HARDWARE, table.weight_bytes)
    plan, _ = plan_here(ShardingProblem((table,), fits, 65536, Optimizer.SGD), COLUMNS_ONLY)
    assert plan is not None
    small = Cluster(2, 2, HARDWARE, table.weight_bytes // 4 - 1)
    plan, note = plan_here(ShardingProblem((table,), small, 65536, Optimizer.SGD), WITH_ROWS)
    assert plan is None
    assert note


def test_it_is_killed_when_it_takes_too_long():
    answer = plan_apart(draw_task(ROWS["20-120x8"], 1), WITH_ROWS, limit_cpu_s=1)
    assert answer.plan is None
    assert answer.note == "killed after 1 s of processor time"
