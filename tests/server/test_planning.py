"""plan() and evaluate(), `shardwright_server.planning`."""

import math
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server.search.fake_cost_model import FakeCostModel
from tests.server.search.problems import problem, problems, random_task, table

from shardwright.domain import (
    Algorithm,
    CostModelSource,
    EvaluateRequest,
    IllegalPlanError,
    InsufficientMemoryError,
    Optimizer,
    PlanRequest,
    SearchOptions,
    Shard,
    ShardingPlan,
    ShardingType,
    StoppedBy,
    check_plan,
)
from shardwright_server.errors import NoPlanInTimeError
from shardwright_server.planning import evaluate, plan

QUICK = SearchOptions(max_column_splits=2, beam_width=2, candidates=3, grid_steps=3)


def ask(task, options=QUICK, model=None, deadline_s=None, **fields):
    return plan(
        PlanRequest(task, options, **fields), model or FakeCostModel(), deadline_s=deadline_s
    )


def score(task, sharding_plan, model=None):
    return evaluate(EvaluateRequest(task, sharding_plan), model or FakeCostModel())


def timeless(result):
    return replace(result, search=replace(result.search, duration_s=0.0))


options_drawn = st.builds(
    SearchOptions,
    max_column_splits=st.integers(0, 4),
    beam_width=st.integers(1, 3),
    candidates=st.integers(1, 5),
    grid_steps=st.integers(1, 11),
    seed=st.integers(0, 2**64 - 1),
)


@settings(max_examples=150, deadline=None)
@given(task=problems(), options=options_drawn, flat=st.booleans())
def test_a_plan_is_legal_and_its_costs_are_evaluates(task, options, flat):
    model = FakeCostModel(flat=flat)
    try:
        result = ask(task, options, model)
    except InsufficientMemoryError as error:
        assert error.missing_bytes >= 0
        return
    # each table covered exactly once, widths multiples of 4, memory of every device
    types = check_plan(result.plan, task)
    assert set(types.values()) <= {ShardingType.TABLE_WISE, ShardingType.COLUMN_WISE}
    for t in task.tables:
        widths = [s.num_columns for s in result.plan.by_table[t.name]]
        assert len(widths) == 1 or min(widths) >= t.constraints.min_column_width
    scored = score(task, result.plan, model)
    assert (result.cost_ms, result.devices) == (scored.cost_ms, scored.devices)
    assert result.warnings == scored.warnings
    assert result.plan.fingerprint == scored.fingerprint
    assert timeless(ask(task, options, model)) == timeless(result)
    numbers = [result.cost_ms, *(b.cost_ms for b in result.baselines if b.feasible)]
    for d in result.devices:
        numbers += [d.compute_ms, d.forward_comm_ms, d.backward_comm_ms, d.wait_ms]
    assert all(math.isfinite(number) and number >= 0 for number in numbers)


def test_the_answer_adds_up():
    task = random_task(1)
    result = ask(task, request_id="r-1")
    assert result.request_id == "r-1"
    assert result.cost_model == FakeCostModel().id
    assert [d.device for d in result.devices] == [0, 1, 2, 3]
    assert result.cost_ms == max(d.total_ms + d.wait_ms for d in result.devices)
    assert sum(d.memory_bytes for d in result.devices) >= task.total_bytes
    assert min(d.wait_ms for d in result.devices) == 0
    assert [b.name for b in result.baselines] == ["dim", "size", "lookup", "size_lookup", "random"]
    assert result.lower_bound_ms is None
    assert result.search.algorithm is Algorithm.NEUROSHARD
    assert result.search.stopped_by is StoppedBy.COMPLETED
    assert result.search.duration_s > 0


def test_shards_are_in_the_order_of_the_tables_of_the_request():
    task = random_task(2)
    result = ask(task, SearchOptions())
    assert list(result.plan.by_table) == [t.name for t in task.tables]


def test_the_plan_beats_the_baselines_on_plain_tasks():
    for seed in range(5):
        result = ask(random_task(seed, tables=(20, 30)), SearchOptions())
        assert all(result.cost_ms <= b.cost_ms * 1.02 for b in result.baselines if b.feasible)


def test_predictions_are_the_rows_the_model_saw():
    model = FakeCostModel()
    result = ask(random_task(3, tables=(10, 11)), model=model)
    assert result.search.predictions == model.rows
    # one state and some children, each under some caps, five baselines, and the plan itself
    assert result.search.plans_evaluated > 1 + 5 + 1


@pytest.mark.parametrize("devices", [1, 7, 128])
def test_one_table_on_any_number_of_devices(devices):
    task = problem([table()], devices=devices)
    result = ask(task, SearchOptions())
    check_plan(result.plan, task)
    assert len(result.devices) == devices
    empty = [d for d in result.devices if d.memory_bytes == 0]
    assert all(d.compute_ms == 0 for d in empty)


def test_one_device_takes_every_table():
    task = random_task(1, devices=1, memory_gib=20)
    result = ask(task)
    assert {s.device for s in result.plan.shards} == {0}
    assert result.devices[0].wait_ms == 0


def test_identical_tables_spread_evenly():
    task = problem([table(f"t{i}") for i in range(12)], devices=4)
    result = ask(task, SearchOptions(max_column_splits=0))
    on = [s.device for s in result.plan.shards]
    assert [on.count(d) for d in range(4)] == [3, 3, 3, 3]
    assert len({(d.total_ms, d.wait_ms) for d in result.devices}) == 1


def test_devices_without_memory_stay_empty():
    tables = [table(f"t{i}") for i in range(6)]
    overrides = ((0, 0), (2, 5))
    result = ask(problem(tables, device_memory_overrides=overrides), SearchOptions())
    assert {s.device for s in result.plan.shards} == {1, 3}


def test_a_time_budget_returns_the_best_plan_so_far():
    result = ask(random_task(1), SearchOptions(time_budget_s=1e-9))
    assert result.search.stopped_by is StoppedBy.TIME_BUDGET
    unsplit = ask(random_task(1), SearchOptions(max_column_splits=0))
    assert result.plan == unsplit.plan


def test_a_deadline_in_the_past_is_no_plan_in_time():
    with pytest.raises(NoPlanInTimeError, match="deadline"):
        ask(random_task(1), deadline_s=time.monotonic() - 1)


def test_a_deadline_far_away_changes_nothing():
    task = random_task(1)
    assert timeless(ask(task, deadline_s=time.monotonic() + 3600)) == timeless(ask(task))


def test_too_little_memory_in_all_is_said_before_any_search():
    model = FakeCostModel()
    with pytest.raises(InsufficientMemoryError, match="bytes are missing") as caught:
        ask(problem([table(rows=10**6)], devices=2, memory_bytes=10**8), model=model)
    assert caught.value.missing_bytes == 10**6 * 64 * 4 - 2 * 10**8
    assert model.rows == 0


def test_a_table_no_device_can_hold_is_named():
    rows = 2**28  # 1 GiB for four columns
    tables = [table("tall", rows=rows, dim=4), table("small")]
    with pytest.raises(InsufficientMemoryError, match="'tall' fits on no device"):
        ask(problem(tables, devices=16, memory_bytes=2**29 + 1))


def test_warnings_are_for_people():
    tables = [table("a", dim=128, pooling=2000), table("b", dim=8)]
    plain = ask(problem([table("a"), table("b")], devices=2), SearchOptions(max_column_splits=0))
    assert plain.warnings == ()
    task = problem(tables, devices=128, optimizer=Optimizer.ROWWISE_ADAGRAD)
    warned = ask(task, SearchOptions(), FakeCostModel(CostModelSource.MODELLED))
    modelled, cut, *ranges = warned.warnings
    assert "MODELLED" in modelled and "not on measurements" in modelled
    assert cut.startswith("table 'a' is cut in columns") and "Adagrad" in cut
    assert ranges == ["pooling_factor out of range", "world_size out of range"]


def test_evaluate_warns_of_rows_cut():
    task = problem([table("a", rows=10), table("b")], devices=2)
    rows = [Shard("a", 0, 0, 5, 0, 64), Shard("a", 1, 5, 5, 0, 64)]
    result = score(task, ShardingPlan((*rows, Shard("b", 1, 0, 1000, 0, 64))))
    (warning,) = result.warnings
    assert warning.startswith("table 'a' is cut in rows") and "partial sums" in warning
    assert result.devices[0].memory_bytes == 5 * 64 * 4
    assert result.devices[1].memory_bytes == 5 * 64 * 4 + 1000 * 64 * 4


def test_evaluate_rejects_plans_that_cannot_run():
    task = problem([table("a"), table("b")], devices=2)
    with pytest.raises(IllegalPlanError, match="'b' has no shard"):
        score(task, ShardingPlan((Shard("a", 0, 0, 1000, 0, 64),)))
    full = problem([table("a")], devices=2, memory_bytes=1000)
    with pytest.raises(InsufficientMemoryError, match="device 0"):
        score(full, ShardingPlan((Shard("a", 0, 0, 1000, 0, 64),)))


def test_evaluate_scores_any_widths():
    task = problem([table("a", dim=100)], devices=3)
    shards = [Shard("a", 2, 0, 1000, 0, 12), Shard("a", 0, 0, 1000, 12, 76)]
    result = score(task, ShardingPlan((*shards, Shard("a", 2, 0, 1000, 88, 12))))
    compute = [d.compute_ms for d in result.devices]
    assert compute[1] == 0 < min(compute[0], compute[2])


def test_no_device_gets_two_shards_of_a_table():
    # most splits go to the big table: more pieces than devices
    big = table("big", rows=4_000_000, dim=128, pooling=20.0)
    small = [table(f"t{i}", rows=1000, dim=16) for i in range(3)]
    task = problem([big, *small], 3)
    options = SearchOptions(max_column_splits=6)
    found = plan(PlanRequest(task, options), FakeCostModel(), deadline_s=None).plan
    placed = [(shard.table, shard.device) for shard in found.shards]
    assert len(placed) == len(set(placed))
    assert check_plan(found, task)["big"] is ShardingType.COLUMN_WISE
