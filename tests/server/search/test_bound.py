"""The lower bound holds for every legal plan, `shardwright_server.search.bound`."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.server.search.convex_cost_model import ConvexCostModel
from tests.server.search.exhaustive import least_cost_ms
from tests.server.search.problems import problem, random_task, table
from tests.server.search.tiny_problems import sharding_options, tiny_problems

from shardwright.domain import PlanRequest, SearchOptions, ShardingType, TableConstraints
from shardwright_server.planning import plan
from shardwright_server.search import least_work, tightening, ways
from shardwright_server.search.bound import MODEL_SLACK, lower_bound_ms
from shardwright_server.search.cost import PlanEvaluator
from shardwright_server.search.tightening import tightened_ms

ANY_TYPE = SearchOptions(sharding_types=tuple(ShardingType))
WHOLE = SearchOptions(sharding_types=(ShardingType.TABLE_WISE,))


def bound(task, model, options=ANY_TYPE):
    return lower_bound_ms(PlanEvaluator(task, model), options, model)


@settings(max_examples=100, deadline=None)
@given(
    task=tiny_problems(),
    options=sharding_options,
    seed=st.integers(0, 10**6),
    waves=st.sampled_from([0.0, 0.1, 0.9]),
)
def test_no_legal_plan_undercuts_the_bound(task, options, seed, waves):
    model = ConvexCostModel(seed, waves)
    least = least_cost_ms(task, options, model)
    assume(least is not None)
    assert 0 < bound(task, model, options) <= least


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(task=tiny_problems(), options=sharding_options)
def test_no_legal_plan_undercuts_the_bound_of_the_shipped_model(task, options, shipped_cost_model):
    least = least_cost_ms(task, options, shipped_cost_model)
    assume(least is not None)
    assert 0 < bound(task, shipped_cost_model, options) <= least


@pytest.mark.parametrize("seed", range(5))
def test_the_bound_of_a_convex_model_is_nearly_reached(seed):
    tables = [table(f"t{i}", pooling=1.0 + i % 3) for i in range(24)]
    task = problem(tables, devices=4, devices_per_host=2)
    model = ConvexCostModel(seed, waves=0.0)
    result = plan(PlanRequest(task, WHOLE), model, deadline_s=None)
    assert 0 <= result.gap < 0.02


@pytest.mark.parametrize("devices", [4, 8])
def test_the_bound_of_the_shipped_model_is_not_trivial(shipped_cost_model, devices):
    for seed in range(3):
        task = random_task(seed, (30, 60), devices)
        result = plan(PlanRequest(task), shipped_cost_model, deadline_s=None)
        assert 0 <= result.gap < 0.8


def test_tables_pinned_to_a_device_bound_that_device():
    pinned = TableConstraints(devices=(2,))
    tables = [table(f"t{i}", constraints=pinned if i < 6 else TableConstraints()) for i in range(9)]
    task, model = problem(tables, devices=4), ConvexCostModel(1, waves=0.0)
    free = problem([table(f"t{i}") for i in range(9)], devices=4)
    result = plan(PlanRequest(task, WHOLE), model, deadline_s=None)
    assert bound(free, model, WHOLE) < 0.75 * result.lower_bound_ms
    assert result.gap < 0.02


def test_a_table_that_lies_whole_bounds_its_device():
    tables = [table("hot", pooling=200.0, dim=128), *(table(f"t{i}", dim=4) for i in range(4))]
    task, model = problem(tables, devices=8), ConvexCostModel(3, waves=0.0)
    result = plan(PlanRequest(task, WHOLE), model, deadline_s=None)
    assert result.gap < 0.35
    assert bound(task, model) < 0.75 * result.lower_bound_ms, "in pieces it could be less"


def test_a_group_is_bound_to_one_device():
    together = TableConstraints(colocation_group="all")
    task = problem([table(f"t{i}", constraints=together) for i in range(8)], devices=8)
    model = ConvexCostModel(2, waves=0.0)
    compute_ms = [d.compute_ms for d in plan(PlanRequest(task), model, deadline_s=None).devices]
    assert bound(task, model) > 0.99 * max(compute_ms)


def test_copies_that_must_be_made_cost_their_all_reduce(monkeypatch):
    monkeypatch.setattr("shardwright_server.search.bound.tightened_ms", lambda ms, *_: ms)

    def asked(rows):
        copied = TableConstraints(sharding_types=(ShardingType.DATA_PARALLEL,))
        return problem([table("a", rows=rows, constraints=copied), table("b")], devices=4)

    model = ConvexCostModel(4, waves=0.0)
    model._exponents[0] = 0  # the computation does not depend on rows
    more_ms = bound(asked(2000), model, WHOLE) - bound(asked(1000), model, WHOLE)
    assert more_ms == pytest.approx(1000 * 64 * 4 * 1e-4, rel=1e-3)


def test_weighing_whole_ways_to_cut_never_weakens_a_bound(monkeypatch):
    task, model = random_task(3), ConvexCostModel(7, waves=0.9)
    with_ways = bound(task, model)
    monkeypatch.setattr(least_work, "MAX_KEPT_ROWS", 0)
    assert 0 < bound(task, model) < with_ways


def test_the_least_of_what_is_at_least_so_wide():
    cheapest = np.random.default_rng(1).random((4, 6, 3)).astype(np.float32)
    cheapest[2, :5] = np.inf  # whole or not at all
    shares = np.array([1, 4, 2, 6])
    expected = [sums[share - 1 :].min(axis=0) for sums, share in zip(cheapest, shares, strict=True)]
    np.testing.assert_array_equal(ways.least_from(cheapest, shares), expected)


@pytest.mark.parametrize("seed", range(30))
def test_tightening_never_lowers_a_bound(seed, shipped_cost_model, monkeypatch):
    given = []

    def recorded(bound_ms, *rest):
        given.append(bound_ms)
        return tightened_ms(bound_ms, *rest)

    monkeypatch.setattr("shardwright_server.search.bound.tightened_ms", recorded)
    # a hot table makes others' pieces matter
    task = random_task(seed, tables=(3, 8), devices=8)
    tables = (*task.tables, table("hot", rows=10**7, dim=32, pooling=60.0))
    found = bound(problem(tables, devices=8), shipped_cost_model, SearchOptions())
    assert found >= (1.0 - MODEL_SLACK) * given[0]


def test_a_table_too_hot_for_one_device_raises_the_bound(shipped_cost_model, monkeypatch):
    # whole it would be least work in all, but make its device the slowest by far
    tables = [table("hot", rows=10**7, dim=128, pooling=100.0)]
    tables += [table(f"t{i}", rows=10**6, pooling=20.0 + i % 7) for i in range(40)]
    task = problem(tables, devices=8)
    raised = bound(task, shipped_cost_model)
    assert raised <= plan(PlanRequest(task), shipped_cost_model, deadline_s=None).cost_ms
    monkeypatch.setattr("shardwright_server.search.bound.tightened_ms", lambda ms, *_: ms)
    assert bound(task, shipped_cost_model) < 0.98 * raised


def hot_task(devices=8):
    """Ever hotter tables, of which the hottest cost less in rows than they alone do whole."""
    tables = [table(f"hot{i}", rows=10**7, dim=128, pooling=100.0 / (1 + i)) for i in range(4)]
    tables += [table(f"t{i}", rows=10**6, pooling=10.0 + i % 7) for i in range(30)]
    return problem(tables, devices=devices)


def test_what_lies_on_every_device_is_counted_on_every_device(shipped_cost_model, monkeypatch):
    task = hot_task()
    raised = bound(task, shipped_cost_model)
    result = plan(PlanRequest(task), shipped_cost_model, deadline_s=None)
    assert raised <= result.cost_ms < 1.3 * raised
    # neither as heat of the average device, nor beside other pieces
    monkeypatch.setattr(tightening._Left, "_base", lambda self, _: np.zeros(32))
    assert bound(task, shipped_cost_model) < 0.9 * raised


def test_what_is_left_out_beside_others_raises_the_bound(shipped_cost_model, monkeypatch):
    raised = bound(hot_task(), shipped_cost_model)
    monkeypatch.setattr(tightening, "_HOT", 10.0)
    assert bound(hot_task(), shipped_cost_model) < 0.99 * raised


def test_raising_the_bound_can_be_stopped_in_every_round(shipped_cost_model, monkeypatch):
    def steps():
        calls = []
        evaluator = PlanEvaluator(hot_task(), shipped_cost_model)
        lower_bound_ms(evaluator, ANY_TYPE, shipped_cost_model, lambda: calls.append(None))
        return len(calls)

    with_rounds = steps()
    monkeypatch.setattr("shardwright_server.search.bound.tightened_ms", lambda ms, *_: ms)
    assert with_rounds > steps() + tightening._STEPS


def test_where_no_plan_costs_less_than_a_limit_the_limit_is_a_bound(monkeypatch):
    # b lies beside a copy of a, wherever it lies
    copied = TableConstraints(sharding_types=(ShardingType.DATA_PARALLEL,))
    task = problem([table("a", dim=8, constraints=copied), table("b", dim=8)], devices=4)
    model = ConvexCostModel(4, waves=0.0)
    raised = bound(task, model, WHOLE)
    assert raised <= least_cost_ms(task, WHOLE, model)
    monkeypatch.setattr("shardwright_server.search.bound.tightened_ms", lambda ms, *_: ms)
    assert bound(task, model, WHOLE) < 0.9 * raised


def test_what_a_limit_leads_to_is_a_bound_where_it_is_not_reached(shipped_cost_model, monkeypatch):
    monkeypatch.setattr(tightening, "_STEPS", 1)
    monkeypatch.setattr(tightening, "_FAR", 2.0)
    raised = bound(hot_task(), shipped_cost_model)
    monkeypatch.setattr("shardwright_server.search.bound.tightened_ms", lambda ms, *_: ms)
    first = bound(hot_task(), shipped_cost_model)
    assert 1.02 * first < raised < 1.9 * first


@pytest.mark.parametrize(
    ("devices", "on_host", "count", "kind"),
    [(2, 2, 4, None), (3, 3, 3, None), (4, 2, 3, ShardingType.TABLE_ROW_WISE)],
)
@pytest.mark.parametrize("seed", range(4))
def test_no_legal_plan_of_hot_tables_undercuts_the_bound(
    devices, on_host, count, kind, seed, shipped_cost_model
):
    draw = np.random.default_rng(seed)
    hot = TableConstraints(sharding_types=(kind,) if kind else ())
    tables = [table("hot", rows=10**6, dim=8, pooling=draw.uniform(100, 1000), constraints=hot)]
    tables += [
        table(f"t{i}", rows=int(draw.integers(1, 10**6)), dim=8, pooling=draw.uniform(1, 60))
        for i in range(1, count)
    ]
    task = problem(tables, devices=devices, devices_per_host=on_host)
    options = ANY_TYPE if seed % 2 else SearchOptions()
    least = least_cost_ms(task, options, shipped_cost_model)
    assert 0.5 * least < bound(task, shipped_cost_model, options) <= least


def test_hot_rows_that_no_device_escapes_raise_the_bound(shipped_cost_model, monkeypatch):
    # without a histogram a table is taken to be Zipf: each has a row that is hit all the time
    task = problem([table(f"t{i}", rows=10**6, pooling=5.0 + i % 7) for i in range(30)], devices=8)
    monkeypatch.setattr("shardwright_server.search.bound.tightened_ms", lambda ms, *_: ms)
    raised = bound(task, shipped_cost_model)
    assert raised <= plan(PlanRequest(task), shipped_cost_model, deadline_s=None).cost_ms
    nothing = np.zeros((30, shipped_cost_model.peak_channels), np.float32)
    monkeypatch.setattr(least_work.LeastWork, "least_peaks", lambda *_: nothing)
    assert bound(task, shipped_cost_model) < 0.95 * raised


def test_tables_too_wide_to_look_at_weaken_a_bound_only():
    model = ConvexCostModel(5)
    narrow = [table(f"t{i}", dim=16) for i in range(6)]
    wide = table("wide", dim=4 * (least_work.MAX_UNITS + 1))
    task = problem([*narrow, wide], devices=2)
    result = plan(PlanRequest(task), model, deadline_s=None)
    assert bound(problem(narrow, devices=2), model) < result.lower_bound_ms <= result.cost_ms


def test_a_job_of_tables_too_wide_to_look_at_has_a_bound():
    model = ConvexCostModel(5)
    task = problem([table("wide", dim=4 * (least_work.MAX_UNITS + 1))], devices=2)
    columns = SearchOptions(sharding_types=(ShardingType.COLUMN_WISE,))
    result = plan(PlanRequest(task, columns), model, deadline_s=None)
    assert 0 < result.lower_bound_ms <= result.cost_ms


def test_the_bound_of_tables_in_any_order_is_the_same(shipped_cost_model):
    task = random_task(5)
    turned = problem(task.tables[::-1], optimizer=task.optimizer)
    forward, backward = (bound(t, shipped_cost_model) for t in (task, turned))
    assert forward == pytest.approx(backward, rel=1e-5)
