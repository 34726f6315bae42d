"""plan() and evaluate() on a real bundle, through ONNX Runtime."""

import math
from dataclasses import replace

import pytest
from tests.benchmarks.tight import tight_task
from tests.server.search.problems import problem, random_task, table

from shardwright.domain import (
    EvaluateRequest,
    Optimizer,
    PlanRequest,
    SearchOptions,
    Shard,
    ShardingPlan,
    ShardingType,
    check_plan,
)
from shardwright_server.planning import evaluate, plan


@pytest.mark.parametrize(
    ("seed", "tables", "devices"), [(1, (10, 60), 4), (2, (20, 60), 8), (3, (1, 4), 2)]
)
def test_a_plan_costs_exactly_what_evaluate_says(shipped_cost_model, seed, tables, devices):
    task = random_task(seed, tables, devices)
    request = PlanRequest(task, SearchOptions(max_column_splits=3))
    result = plan(request, shipped_cost_model, deadline_s=None)
    check_plan(result.plan, task)
    scored = evaluate(EvaluateRequest(task, result.plan), shipped_cost_model)
    assert (result.cost_ms, result.devices) == (scored.cost_ms, scored.devices)
    assert math.isfinite(result.cost_ms) and result.cost_ms > 0
    again = plan(request, shipped_cost_model, deadline_s=None)
    assert replace(again, search=result.search) == result
    assert again.search.predictions == result.search.predictions


def test_one_device_neither_communicates_nor_waits(shipped_cost_model):
    task = problem([table("a"), table("b", dim=128)], devices=1)
    result = plan(PlanRequest(task), shipped_cost_model, deadline_s=None)
    (device,) = result.devices
    assert (device.forward_comm_ms, device.backward_comm_ms, device.wait_ms) == (0, 0, 0)
    assert result.cost_ms == device.compute_ms > 0


def test_a_tiny_table_on_an_otherwise_empty_cluster(shipped_cost_model):
    tiny = problem([table(rows=1, dim=4, pooling=0.01)], devices=16, batch=1)
    result = plan(PlanRequest(tiny), shipped_cost_model, deadline_s=None)
    busy = [device for device in result.devices if device.memory_bytes]
    assert len(busy) == 1
    assert all(device.compute_ms == 0 for device in result.devices if not device.memory_bytes)


def test_spreading_the_rows_of_a_hot_table_relieves_its_device(shipped_cost_model):
    task = problem(
        [table("hot", rows=4 * 10**6, dim=128, pooling=80)], optimizer=Optimizer.ROWWISE_ADAGRAD
    )
    alone = ShardingPlan((Shard("hot", 2, 0, 4 * 10**6, 0, 128),))
    rows = ShardingPlan(tuple(Shard("hot", d, d * 10**6, 10**6, 0, 128) for d in range(4)))
    on_one, on_all = (
        evaluate(EvaluateRequest(task, p), shipped_cost_model).devices for p in (alone, rows)
    )
    assert max(d.compute_ms for d in on_all) < on_one[2].compute_ms
    assert on_one[0].compute_ms == 0 < on_all[0].compute_ms


@pytest.mark.parametrize("index", [0, 51])
def test_with_rows_allowed_tight_plans_are_about_as_cheap_as_in_columns(shipped_cost_model, index):
    # greedy plans that fit have all tables in rows here, which costs a third to three quarters more
    task = tight_task(index).problem
    in_columns = SearchOptions(sharding_types=(ShardingType.TABLE_WISE, ShardingType.COLUMN_WISE))
    costs = [
        plan(PlanRequest(task, options), shipped_cost_model, deadline_s=None).cost_ms
        for options in (SearchOptions(), in_columns)
    ]
    assert costs[0] < 1.1 * costs[1]
