"""The search for column splits, `shardwright_server.search.beam`."""

import numpy as np
import pytest
from tests.server.search.fake_cost_model import FakeCostModel
from tests.server.search.problems import GIB, problem, random_task, table
from tests.server.search.reference import Reference

from shardwright.domain import (
    InsufficientMemoryError,
    SearchOptions,
    StoppedBy,
    TableConstraints,
    check_plan,
    merge_columns,
)
from shardwright_server.errors import NoPlanInTimeError
from shardwright_server.search import beam
from shardwright_server.search.beam import search_beam
from shardwright_server.search.budget import Budget
from shardwright_server.search.cost import PlanEvaluator


def search(task, options=None, model=None, budget=None):
    evaluator = PlanEvaluator(task, model or FakeCostModel())
    return search_beam(evaluator, options or SearchOptions(), budget or Budget())


def widths(plan, name):
    return [shard.num_columns for shard in plan.by_table[name]]


def cost_of(task, plan):
    evaluator = PlanEvaluator(task, FakeCostModel())
    return evaluator.layout_costs([evaluator.layout(plan)]).cost_ms[0]


def test_without_splits_tables_stay_whole():
    task = random_task(1)
    plan = search(task, SearchOptions(max_column_splits=0)).plan
    assert len(plan.shards) == len(task.tables)


def test_one_dear_table_is_split_to_balance_two_devices():
    task = problem([table("dear", dim=128, pooling=500), table("cheap", dim=8)], devices=2)
    plan = search(task).plan
    assert len(widths(plan, "dear")) > 1
    assert {shard.device for shard in plan.by_table["dear"]} == {0, 1}


def test_deeper_searches_never_cost_more():
    task = random_task(5, tables=(10, 14))
    costs = [
        cost_of(task, search(task, SearchOptions(max_column_splits=levels)).plan)
        for levels in range(5)
    ]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0]


def test_a_split_halves_one_piece_so_that_a_table_has_unequal_widths():
    task = problem([table(dim=64, rows=10**6)], devices=3, memory_bytes=10**6 * 32 * 4)
    outcome = search(task, SearchOptions(max_column_splits=2))
    assert sorted(widths(outcome.plan, "t")) in ([16, 16, 32], [32, 32])


@pytest.mark.parametrize(
    ("dim", "least", "narrowest"),
    [(128, 4, 4), (128, 32, 32), (24, 4, 12), (20, 4, 20), (100, 4, 100), (64, 64, 64), (8, 4, 4)],
)
def test_halves_are_multiples_of_4_and_not_below_the_minimum_width(dim, least, narrowest):
    tight = table("tight", dim=dim, rows=1000, constraints=TableConstraints(least))
    options = SearchOptions(max_column_splits=40, beam_width=1)
    task = problem([tight], devices=dim // narrowest, memory_bytes=1000 * narrowest * 4)
    assert set(widths(search(task, options).plan, "tight")) == {narrowest}
    one_column_less = problem([tight], devices=64, memory_bytes=1000 * (narrowest - 1) * 4)
    with pytest.raises(InsufficientMemoryError):
        search(one_column_less, options)


def test_a_table_larger_than_any_device_is_split_until_it_fits():
    big = table("big", rows=2**20, dim=128)  # 512 MiB
    task = problem([big, table("small")], devices=4, memory_bytes=GIB // 4)
    plan = search(task).plan
    check_plan(merge_columns(plan), task)
    assert max(widths(plan, "big")) <= 64


def test_memory_of_each_device_is_respected_where_devices_differ():
    tables = [table(f"t{i}", rows=2**18, dim=64) for i in range(6)]  # 64 MiB each
    task = problem(
        tables,
        devices=3,
        memory_bytes=128 * 2**20,
        device_memory_overrides=((0, 0), (2, 4 * 2**30)),
    )
    plan = search(task).plan
    check_plan(merge_columns(plan), task)
    assert 0 not in {shard.device for shard in plan.shards}


def test_with_fewer_columns_than_devices_the_cap_on_dims_gives_way():
    task = problem([table(dim=4)], devices=8)
    plan = search(task).plan
    assert [shard.device for shard in plan.shards] == [0]
    assert Reference(task, FakeCostModel(), SearchOptions()).search() is None


def test_equal_states_of_a_level_are_placed_once():
    tables = [table(f"t{i}", dim=128) for i in range(2)]
    task = problem(tables, devices=2)
    evaluator = PlanEvaluator(task, FakeCostModel())
    search_beam(
        evaluator, SearchOptions(max_column_splits=2, grid_steps=1, beam_width=10), Budget()
    )
    # whole; one half each; from these both ways lead to the same (halves, halves)
    distinct = {(1, 1), (2, 1), (1, 2), (2, 2), (3, 1), (1, 3)}
    assert evaluator.plans_evaluated <= len(distinct)


def test_lanes_run_in_lockstep_one_call_of_the_model_a_step():
    task, model = random_task(3, tables=(20, 21)), FakeCostModel()
    levels = 3
    search(task, SearchOptions(max_column_splits=levels), model)
    steps = sum(20 + level for level in range(levels + 1))
    # besides, a level costs the new pieces alone
    assert model.calls["compute"] <= steps + levels + 1
    assert model.calls["encode"] <= levels + 1
    assert model.calls["forward_comm"] == model.calls["backward_comm"] == levels + 1


def test_a_level_too_large_for_memory_runs_in_parts_with_the_same_result(monkeypatch):
    task = random_task(4, tables=(10, 14))
    whole = search(task).plan
    monkeypatch.setattr(beam, "MAX_LOCKSTEP_BYTES", 1)
    assert search(task).plan == whole


def test_128_devices():
    task = random_task(2, tables=(200, 201), devices=128)
    options = SearchOptions(max_column_splits=1, beam_width=1, candidates=4, grid_steps=3)
    plan = search(task, options).plan
    check_plan(merge_columns(plan), task)
    assert {shard.device for shard in plan.shards} == set(range(128))


def test_no_plan_in_reach_says_which_piece_did_not_fit():
    tables = [table(f"big{i}", rows=2**20, dim=128) for i in range(4)]  # 512 MiB each
    task = problem(tables, devices=8, memory_bytes=300 * 2**20)
    with pytest.raises(InsufficientMemoryError) as caught:
        search(task, SearchOptions(max_column_splits=1))
    message = str(caught.value)
    assert "128 of 128 columns of table 'big" in message
    assert str(2**29) in message and str(300 * 2**20) in message
    assert "max_column_splits" in message
    assert caught.value.missing_bytes == 2**29 - 300 * 2**20
    wider = SearchOptions(max_column_splits=4, beam_width=100)
    check_plan(merge_columns(search(task, wider).plan), task)


class Clock:
    """Lets a second pass at every prediction."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s

    def tick(self):
        self.now_s += 1.0


def timed_search(task, time_budget_s=None, deadline_s=None, options=None):
    clock = Clock()
    budget = Budget(time_budget_s, deadline_s, clock=clock)
    outcome = search(task, options, FakeCostModel(on_predict=clock.tick), budget)
    return outcome, clock.now_s


def test_the_time_budget_ends_the_search_with_the_best_plan_so_far():
    task = random_task(3, tables=(20, 21))
    unhurried, duration_s = timed_search(task)
    hurried, hurried_s = timed_search(task, time_budget_s=duration_s / 2)
    assert unhurried.stopped_by is StoppedBy.COMPLETED
    assert hurried.stopped_by is StoppedBy.TIME_BUDGET
    assert hurried_s <= duration_s / 2 + 3  # the step under way is finished, not the level
    check_plan(merge_columns(hurried.plan), task)
    assert cost_of(task, hurried.plan) >= cost_of(task, unhurried.plan)


def test_the_time_budget_is_overrun_until_there_is_a_plan():
    task = random_task(3, tables=(20, 21))
    outcome, _ = timed_search(task, time_budget_s=1e-9)
    assert outcome.stopped_by is StoppedBy.TIME_BUDGET
    assert outcome.plan == search(task, SearchOptions(max_column_splits=0)).plan


def test_a_plan_first_found_after_splits_still_ends_an_overrun_search():
    big = table("big", rows=2**20, dim=128)
    task = problem([big, table("small")], devices=4, memory_bytes=GIB // 4)
    outcome, _ = timed_search(task, time_budget_s=1e-9)
    assert outcome.stopped_by is StoppedBy.TIME_BUDGET
    assert widths(outcome.plan, "big") == [64, 64]


def test_the_deadline_ends_the_search_with_the_best_plan_so_far():
    task = random_task(3, tables=(20, 21))
    _, duration_s = timed_search(task)
    outcome, _ = timed_search(task, deadline_s=duration_s / 2)
    assert outcome.stopped_by is StoppedBy.DEADLINE
    both, _ = timed_search(task, time_budget_s=duration_s, deadline_s=duration_s / 2)
    assert both.stopped_by is StoppedBy.DEADLINE


def test_the_deadline_without_a_plan_is_an_error():
    with pytest.raises(NoPlanInTimeError, match="deadline"):
        timed_search(random_task(3), time_budget_s=1, deadline_s=5)


def test_infeasible_states_stay_in_the_beam_in_the_order_they_were_made():
    # two tables must be split, and only the first beam state leads there
    tables = [table(f"big{i}", rows=2**20, dim=128) for i in range(2)]
    tables += [table(f"t{i}", dim=4, rows=10) for i in range(4)]
    task = problem(tables, devices=4, memory_bytes=300 * 2**20)
    options = SearchOptions(max_column_splits=2, beam_width=1)
    plan = search(task, options).plan
    assert widths(plan, "big0") == widths(plan, "big1") == [64, 64]
    assert plan.fingerprint == Reference(task, FakeCostModel(), options).search().fingerprint


def test_costs_of_the_search_are_finite():
    task = problem([table("t", rows=1, dim=4, pooling=0.001)], devices=1, batch=1)
    assert np.isfinite(cost_of(task, search(task).plan))
