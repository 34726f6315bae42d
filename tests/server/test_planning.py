"""plan() and evaluate(), `shardwright_server.planning`."""

import math
import time
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server.search.fake_cost_model import FakeCostModel
from tests.server.search.problems import problem, problems, random_task, table
from tests.server.search.tiny_problems import sharding_options, tiny_problems

from shardwright.domain import (
    Algorithm,
    CostModelSource,
    EvaluateRequest,
    IllegalPlanError,
    InsufficientMemoryError,
    InvalidValueError,
    Optimizer,
    PlanRequest,
    SearchOptions,
    Shard,
    ShardingPlan,
    ShardingType,
    StoppedBy,
    TableConstraints,
    check_constraints,
    check_plan,
)
from shardwright_server import planning
from shardwright_server.errors import NoPlanInTimeError
from shardwright_server.planning import evaluate, plan
from shardwright_server.search.beam import search_beam
from shardwright_server.search.budget import Budget, ShareSpent
from shardwright_server.search.cost import PlanEvaluator

QUICK = SearchOptions(max_column_splits=2, beam_width=2, candidates=3, grid_steps=3)


ROWS = ShardingType.ROW_WISE
COLUMNS = (ShardingType.TABLE_WISE, ShardingType.COLUMN_WISE)


WHOLE = TableConstraints(sharding_types=(ShardingType.TABLE_WISE,))


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
    max_column_splits=st.integers(0, 3),
    beam_width=st.integers(1, 3),
    candidates=st.integers(1, 5),
    grid_steps=st.integers(1, 11),
    seed=st.integers(0, 2**64 - 1),
    algorithm=st.sampled_from(Algorithm),
)


@settings(max_examples=60, deadline=None)
@given(task=problems(), options=options_drawn, flat=st.booleans())
def test_a_plan_is_legal_and_its_costs_are_evaluates(task, options, flat):
    check_answer(task, options, FakeCostModel(flat=flat))


@settings(max_examples=60, deadline=None)
@given(task=tiny_problems(roomy=False), options=sharding_options, seed=st.integers(0, 2**64 - 1))
def test_a_plan_keeps_every_constraint(task, options, seed):
    check_answer(task, replace(options, seed=seed), FakeCostModel())


def check_answer(task, options, model):
    """A plan that is right in every respect, or an error that is clear."""
    try:
        result = ask(task, options, model)
    except InsufficientMemoryError as error:
        assert error.missing_bytes >= 0
        return
    except InvalidValueError as error:
        assert all(".constraints." in violation.field for violation in error.violations)
        return
    # each table covered exactly once, widths multiples of 4, memory of every device
    check_plan(result.plan, task)
    check_constraints(result.plan, task, options)
    scored = score(task, result.plan, model)
    assert (result.cost_ms, result.devices) == (scored.cost_ms, scored.devices)
    assert result.warnings == scored.warnings
    assert result.plan.fingerprint == scored.fingerprint
    assert timeless(ask(task, options, model)) == timeless(result)
    assert 0 < result.lower_bound_ms <= result.cost_ms
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
    assert 0 < result.lower_bound_ms <= result.cost_ms
    assert result.gap == result.cost_ms / result.lower_bound_ms - 1
    assert result.search.algorithm is Algorithm.LOCAL_SEARCH
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
    holding = {shard.device for shard in result.plan.shards}
    assert all((d.compute_ms > 0) == (d.device in holding) for d in result.devices)


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
    assert result.cost_ms >= ask(random_task(1), SearchOptions()).cost_ms
    assert not any(b.feasible and b.cost_ms < result.cost_ms * 0.98 for b in result.baselines)


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
    task = problem(tables, devices=16, memory_bytes=2**29 + 1)
    with pytest.raises(InsufficientMemoryError, match="'tall' .* fits in none of its allowed ways"):
        ask(task, replace(QUICK, sharding_types=COLUMNS))
    spread = ask(task).plan.by_table["tall"]
    assert len(spread) == 16, "row-wise"


def test_warnings_are_for_people():
    tables = [table("a", dim=128, pooling=2000), table("b", dim=8)]
    plain = ask(problem([table("a"), table("b")], devices=2), SearchOptions(max_column_splits=0))
    assert plain.warnings == ()
    task = problem(tables, devices=128, optimizer=Optimizer.ROWWISE_ADAGRAD)
    options = SearchOptions(sharding_types=COLUMNS[1:])
    task = replace(task, tables=(tables[0], replace(tables[1], constraints=WHOLE)))
    warned = ask(task, options, FakeCostModel(CostModelSource.MODELLED))
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
    assert "hot rows" in warning
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


def test_evaluate_scores_copies_and_warns_of_them():
    task = problem([table("a", dim=4, rows=10), table("b")], devices=2, batch=1024)
    copies = [Shard("a", device, 0, 10, 0, 4) for device in range(2)]
    result = score(task, ShardingPlan((*copies, Shard("b", 1, 0, 1000, 0, 64))))
    (warning,) = result.warnings
    assert warning.startswith("table 'a' is copied to every device") and "optimizer" in warning
    # weights and a dense gradient
    assert result.devices[0].memory_bytes == 2 * 10 * 4 * 4
    whole = score(task, ShardingPlan((copies[0], Shard("b", 1, 0, 1000, 0, 64))))
    assert result.devices[0].compute_ms < whole.devices[0].compute_ms, "half of the samples each"
    all_reduce_ms = 1e-2 + 10 * 4 * 4 / 2**27
    # a copy sends nothing to others
    alone = score(
        problem([table("b")], devices=2, batch=1024), ShardingPlan((Shard("b", 1, 0, 1000, 0, 64),))
    )
    for with_copies, without in zip(result.devices, alone.devices, strict=True):
        assert with_copies.forward_comm_ms == without.forward_comm_ms
        assert with_copies.backward_comm_ms == pytest.approx(
            without.backward_comm_ms + all_reduce_ms
        )


@pytest.mark.parametrize("algorithm", Algorithm)
def test_improvements_get_better_and_the_last_is_the_answer(algorithm):
    seen = []
    options = SearchOptions(algorithm=algorithm, max_column_splits=4)
    task = random_task(4)
    request = PlanRequest(task, options, request_id="r-9")
    result = plan(request, FakeCostModel(), deadline_s=None, on_improvement=seen.append)
    assert len(seen) > 1
    costs = [better.cost_ms for better in seen]
    assert all(after < before for before, after in pairwise(costs))
    assert seen[-1].plan == result.plan
    assert timeless(ask(task, options)).plan == result.plan
    for better in seen:
        check_plan(better.plan, task)
        assert better.search.stopped_by is None
        assert (better.baselines, better.lower_bound_ms) == (
            result.baselines,
            result.lower_bound_ms,
        )
        assert better.request_id == "r-9"


def test_a_cancelled_search_ends_with_what_it_has():
    seen = []
    result = plan(
        PlanRequest(random_task(4)),
        FakeCostModel(),
        deadline_s=None,
        on_improvement=seen.append,
        cancelled=lambda: bool(seen),
    )
    assert len(seen) == 1
    assert result.plan == seen[0].plan
    assert result.search.stopped_by is StoppedBy.DEADLINE


def test_contradictions_are_named_by_field():
    tables = [
        table("a", dim=8, constraints=TableConstraints(8, (ShardingType.COLUMN_WISE,))),
        table("b", constraints=TableConstraints(devices=(1,), sharding_types=(ROWS,))),
        table("c", constraints=TableConstraints(devices=(0,), colocation_group="g")),
        table("d", constraints=TableConstraints(devices=(1,), colocation_group="g")),
    ]
    with pytest.raises(InvalidValueError) as caught:
        ask(problem(tables, devices=2))
    assert [violation.field for violation in caught.value.violations] == [
        "tables[0].constraints.sharding_types",
        "tables[1].constraints.sharding_types",
        "tables[2].constraints.colocation_group",
    ]


@pytest.mark.parametrize(
    ("constraints", "field"),
    [
        (TableConstraints(devices=(0,)), "devices"),
        (TableConstraints(excluded_devices=(0,)), "excluded_devices"),
        (TableConstraints(colocation_group="g"), "colocation_group"),
        (TableConstraints(sharding_types=(ShardingType.ROW_WISE,)), "sharding_types"),
        (WHOLE, "sharding_types"),
    ],
)
def test_neuroshard_refuses_constraints_that_it_would_break(constraints, field):
    task = problem([table("a"), table("b", constraints=constraints)])
    with pytest.raises(InvalidValueError, match="NEUROSHARD does not know") as caught:
        ask(task, SearchOptions(algorithm=Algorithm.NEUROSHARD))
    (violation,) = caught.value.violations
    assert violation.field == f"tables[1].constraints.{field}"
    check_constraints(ask(task).plan, task, QUICK)


def test_neuroshard_keeps_tables_whole_when_no_split_is_allowed():
    task = problem([table("a"), table("b", constraints=WHOLE)])
    options = SearchOptions(algorithm=Algorithm.NEUROSHARD, max_column_splits=0)
    check_constraints(ask(task, options).plan, task, options)


def test_no_device_gets_two_shards_of_a_table():
    # 512 MiB on 4 devices of 256 MiB: the beam halves until it fits, and puts pieces together
    big = table("big", rows=2**20, dim=128)
    task = problem([big, table("small")], devices=4, memory_bytes=2**28)
    options = SearchOptions(algorithm=Algorithm.NEUROSHARD)
    pieces = search_beam(PlanEvaluator(task, FakeCostModel()), options, Budget()).plan.by_table[
        "big"
    ]
    assert len({piece.device for piece in pieces}) < len(pieces)
    found = plan(PlanRequest(task, options), FakeCostModel(), deadline_s=None).plan
    placed = [(shard.table, shard.device) for shard in found.shards]
    assert len(placed) == len(set(placed))
    assert check_plan(found, task)["big"] is ShardingType.COLUMN_WISE


def test_out_of_time_the_bound_and_the_baselines_are_left_out_and_not_the_plan(monkeypatch):
    task = random_task(3, tables=(20, 30), devices=4)

    def too_long(*arguments):
        raise ShareSpent

    monkeypatch.setattr(planning, "lower_bound_ms", too_long)
    monkeypatch.setattr(planning, "baselines", too_long)
    found = plan(PlanRequest(task), FakeCostModel(), deadline_s=None)
    check_plan(found.plan, task)
    assert found.lower_bound_ms is None and found.gap is None
    assert found.baselines == ()


def test_a_share_of_the_time_is_spent_before_the_limit():
    now_s = 0.0
    budget = Budget(time_budget_s=10.0, deadline_s=40.0, clock=lambda: now_s)
    check = budget.share(0.25)
    now_s = 2.4
    check()
    now_s = 2.6
    with pytest.raises(ShareSpent):
        check()
    now_s = 1e9
    Budget(clock=lambda: now_s).share(0.1)()
