"""The default search as a whole, `shardwright_server.search.local_search`."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.server.search.fake_cost_model import FakeCostModel
from tests.server.search.problems import GIB, problem, problems, random_task, table

from shardwright.domain import (
    InsufficientMemoryError,
    SearchOptions,
    Shard,
    ShardingPlan,
    ShardingType,
    StoppedBy,
    TableConstraints,
    check_constraints,
    check_plan,
    contradictions,
    device_memory_bytes,
    merge_columns,
)
from shardwright_server.errors import NoPlanInTimeError
from shardwright_server.search import local_search
from shardwright_server.search.beam import search_beam
from shardwright_server.search.budget import Budget
from shardwright_server.search.cost import PlanEvaluator
from shardwright_server.search.local_search import _cheapest, search_locally

COLUMNS = (ShardingType.TABLE_WISE, ShardingType.COLUMN_WISE)
EVERYTHING = tuple(ShardingType)


def search(task, options=None, model=None, budget=None, on_improvement=None):
    evaluator = PlanEvaluator(task, model or FakeCostModel())
    return search_locally(evaluator, options or SearchOptions(), budget or Budget(), on_improvement)


def cost_ms(task, plan, model=None):
    evaluator = PlanEvaluator(task, model or FakeCostModel())
    return float(evaluator.layout_costs([evaluator.layout(plan)]).cost_ms[0])


def types_of(task, plan):
    return {name: kind for name, kind in check_plan(plan, task).items()}


@st.composite
def constrained(draw: st.DrawFn):
    """Problems whose tables have constraints of every kind, and options."""
    task = draw(problems(max_tables=7, max_devices=6))
    devices = st.integers(0, task.cluster.num_devices - 1)
    kinds = st.lists(st.sampled_from(ShardingType), min_size=1, max_size=5, unique=True)
    tables = []
    for t in task.tables:
        group = draw(st.sampled_from(["", "", "", "a", "b"]))
        limits = dict(min_column_width=4 * draw(st.integers(1, 8)), colocation_group=group)
        if draw(st.booleans()):
            limits["devices"] = tuple(draw(st.sets(devices, min_size=1)))
        if draw(st.integers(0, 3)) == 0:
            left = set(limits.get("devices", range(task.cluster.num_devices)))
            excluded = draw(st.sets(devices))
            limits["excluded_devices"] = tuple(excluded) if left - excluded else ()
        if not group and draw(st.booleans()):
            limits["sharding_types"] = tuple(draw(kinds))
        tables.append(replace(t, constraints=TableConstraints(**limits)))
    options = SearchOptions(sharding_types=tuple(draw(kinds)), seed=draw(st.integers(0, 99)))
    task = replace(task, tables=tuple(tables))
    assume(not contradictions(task, options))
    return task, options


@settings(max_examples=150, deadline=None)
@given(asked=constrained(), flat=st.booleans())
def test_every_plan_is_legal_keeps_all_constraints_and_is_found_again(asked, flat):
    task, options = asked
    try:
        found = search(task, options, FakeCostModel(flat=flat)).plan
    except InsufficientMemoryError:
        return
    check_plan(found, task)  # each table covered exactly once, memory of every device
    check_constraints(found, task, options)
    assert search(task, options, FakeCostModel(flat=flat)).plan == found


def test_large_problems_are_annealed_and_their_plans_legal_cheaper_and_found_again(monkeypatch):
    costs = {True: [], False: []}
    monkeypatch.setattr(local_search, "_SEVERAL", 100)  # climbs: all problems count as large
    for annealed in (True, False):
        monkeypatch.setattr(local_search, "_MOST_ANNEALED", 500 * annealed)
        for seed in range(4):
            task = random_task(seed, tables=(40, 60), devices=8, memory_gib=8)
            found = search(task, SearchOptions(sharding_types=EVERYTHING)).plan
            check_plan(found, task)
            assert search(task, SearchOptions(sharding_types=EVERYTHING)).plan == found
            costs[annealed].append(cost_ms(task, found))
    assert costs[True] != costs[False]
    assert np.mean(costs[True]) < 1.001 * np.mean(costs[False])


@settings(max_examples=60, deadline=None)
@given(task=problems(max_tables=6), seed=st.integers(0, 2**64 - 1))
def test_improvements_are_legal_and_the_cheapest_is_the_answer(task, seed):
    told = []
    options = SearchOptions(sharding_types=EVERYTHING, seed=seed)
    try:
        found = search(task, options, on_improvement=told.append).plan
    except InsufficientMemoryError:
        assert not told
        return
    assert found in told
    # each by what it costs nearly: now and then one costs more than those before
    assert cost_ms(task, found) == min(cost_ms(task, plan) for plan in told)
    for plan in told:
        check_plan(plan, task)


@pytest.mark.parametrize("sharding_types", [COLUMNS, SearchOptions().sharding_types])
def test_as_good_as_neuroshard_on_small_tasks_and_better_on_average(sharding_types):
    ratios = []
    for seed in range(16):
        task = random_task(seed, tables=(10, 40), devices=4 if seed % 2 else 8)
        evaluator = PlanEvaluator(task, FakeCostModel())
        theirs = search_beam(evaluator, SearchOptions(), Budget()).plan
        ours = search(task, SearchOptions(sharding_types=sharding_types)).plan
        assert set(types_of(task, ours).values()) <= set(sharding_types)
        ratios.append(cost_ms(task, ours) / cost_ms(task, merge_columns(theirs)))
    assert max(ratios) < 1.005
    assert np.mean(ratios) < 0.98


def every_plan(task):
    """All plans of a tiny task but data-parallel ones: as shards of each table."""
    cluster = task.cluster
    everywhere = range(cluster.num_devices)

    def ways(t):
        for parts in range(1, t.embedding_dim // 4 + 1):
            for devices in itertools.permutations(everywhere, parts):
                for widths in itertools.product(range(4, t.embedding_dim + 1, 4), repeat=parts):
                    if sum(widths) == t.embedding_dim and list(widths) == sorted(widths):
                        offsets = [sum(widths[:i]) for i in range(parts)]
                        yield tuple(
                            Shard(t.name, d, 0, t.num_embeddings, offset, width)
                            for d, offset, width in zip(devices, offsets, widths, strict=True)
                        )
        block = -(-t.num_embeddings // cluster.num_devices)
        if cluster.num_devices > 1:
            starts = [min(i * block, t.num_embeddings) for i in everywhere]
            yield tuple(
                Shard(t.name, d, start, min(block, t.num_embeddings - start), 0, t.embedding_dim)
                for d, start in zip(everywhere, starts, strict=True)
            )

    for shards in itertools.product(*(list(ways(t)) for t in task.tables)):
        plan = ShardingPlan(tuple(itertools.chain(*shards)))
        used = device_memory_bytes(plan, task)
        if all(u <= cluster.shard_memory_bytes(d) for d, u in enumerate(used)):
            yield plan


@pytest.mark.parametrize("seed", range(12))
def test_on_tiny_tasks_it_is_near_the_best_of_all_plans(seed):
    roomy = random_task(seed, tables=(3, 4), devices=3)
    narrow = [replace(t, embedding_dim=4 + 4 * (i % 2)) for i, t in enumerate(roomy.tables)]
    task = replace(roomy, tables=tuple(narrow))
    best = min(cost_ms(task, plan) for plan in every_plan(task))
    assert cost_ms(task, search(task).plan) <= 1.02 * best


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.integers(2, 40), min_size=1, max_size=3),
    dims=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    memory=st.lists(st.integers(30, 500), min_size=3, max_size=3),
)
def test_a_plan_is_found_wherever_there_is_one(rows, dims, memory):
    tables = [
        table(f"t{i}", 3 * r, 4 * d) for i, (r, d) in enumerate(zip(rows, dims, strict=False))
    ]
    overrides = tuple(enumerate(48 * m for m in memory))
    task = problem(tables, devices=3, memory_bytes=1, device_memory_overrides=overrides)
    exists = next(every_plan(task), None) is not None
    try:
        check_plan(search(task).plan, task)
        found = True
    except InsufficientMemoryError:
        found = False
    assert found == exists


def test_a_hot_table_is_spread_in_rows_and_the_plan_is_cheaper_for_it():
    hot = table("hot", rows=10**6, dim=64, pooling=200)
    task = problem([hot, *(table(f"t{i}", dim=16) for i in range(8))], devices=8)
    spread = search(task).plan
    assert types_of(task, spread)["hot"] is ShardingType.ROW_WISE
    in_columns = search(task, SearchOptions(sharding_types=COLUMNS)).plan
    assert cost_ms(task, spread) < 0.9 * cost_ms(task, in_columns)


def test_on_several_hosts_a_hot_table_can_stay_on_one():
    hot = table("hot", rows=10**6, dim=64, pooling=200)
    others = [table(f"t{i}", dim=64, pooling=60) for i in range(12)]
    task = problem([hot, *others], devices=8, devices_per_host=4)
    options = SearchOptions(sharding_types=(ShardingType.TABLE_WISE, ShardingType.TABLE_ROW_WISE))
    found = search(task, options).plan
    assert types_of(task, found)["hot"] is ShardingType.TABLE_ROW_WISE
    assert len({task.cluster.host_of(s.device) for s in found.by_table["hot"]}) == 1


def test_data_parallel_copies_only_where_asked_for():
    busy = [table(f"t{i}", rows=50, dim=128, pooling=20) for i in range(2)]
    task = problem(busy, devices=4, batch=2**18)
    by_default = types_of(task, search(task).plan)
    assert ShardingType.DATA_PARALLEL not in by_default.values()
    found = search(task, SearchOptions(sharding_types=EVERYTHING)).plan
    assert set(types_of(task, found).values()) == {ShardingType.DATA_PARALLEL}


def test_a_colocation_group_lies_on_one_device_that_all_its_tables_may_use():
    together = [
        table("a", constraints=TableConstraints(colocation_group="g", devices=(0, 1, 3))),
        table("b", constraints=TableConstraints(colocation_group="g", excluded_devices=(0, 1))),
        table("c", constraints=TableConstraints(colocation_group="g")),
    ]
    found = search(problem([*together, table("d")], devices=4)).plan
    assert {found.by_table[name][0].device for name in "abc"} == {3}


@pytest.mark.parametrize("kind", ShardingType)
def test_a_table_with_one_allowed_type_gets_it(kind):
    only = table("only", rows=1000, dim=64, constraints=TableConstraints(sharding_types=(kind,)))
    task = problem([only, table("other")], devices=4, devices_per_host=2)
    assert types_of(task, search(task).plan)["only"] is kind


@pytest.mark.parametrize("devices", [1, 2, 128])
@pytest.mark.parametrize("count", [1, 40])
def test_one_table_and_identical_tables(devices, count):
    task = problem([table(f"t{i}", dim=32) for i in range(count)], devices, devices_per_host=1)
    found = search(task).plan
    check_plan(found, task)
    if count == 40 and devices == 2:
        loads = np.bincount([s.device for s in found.shards if s.num_columns == 32], minlength=2)
        assert abs(int(loads[0]) - int(loads[1])) <= 1


def test_a_table_larger_than_every_device_and_one_that_fills_the_rest():
    # 90 of 96 MiB: 64 MiB in a table, 26 MiB in small ones, four devices of 24 MiB
    big = table("big", rows=2**18, dim=64)
    small = [table(f"s{i}", rows=2**16, dim=8 + 4 * (i % 3)) for i in range(8)]
    for kinds in (COLUMNS, SearchOptions().sharding_types):
        task = problem([big, *small], devices=4, memory_bytes=24 * 2**20)
        found = search(task, SearchOptions(sharding_types=kinds)).plan
        assert len(found.by_table["big"]) >= 3
        check_plan(found, task)


def test_without_a_plan_it_says_what_did_not_fit():
    whole = TableConstraints(sharding_types=(ShardingType.TABLE_WISE,))
    tables = [table(f"t{i}", rows=2**20, dim=16, constraints=whole) for i in range(3)]
    with pytest.raises(InsufficientMemoryError, match="'t2'"):
        search(problem(tables, devices=2, memory_bytes=100 * 2**20))


class Clock:
    """Runs by a second with each prediction."""

    def __init__(self):
        self.now_s = 0.0

    def tick(self):
        self.now_s += 1.0

    def __call__(self):
        return self.now_s


def test_out_of_time_it_returns_the_best_plan_so_far():
    task = random_task(3, tables=(20, 21), devices=4)
    told = []
    clock = Clock()
    assert search(task, model=FakeCostModel(on_predict=clock.tick)).stopped_by is (
        StoppedBy.COMPLETED
    )
    budget = Budget(time_budget_s=0.7 * clock.now_s, clock=clock)
    model = FakeCostModel(on_predict=clock.tick)
    outcome = search(task, model=model, budget=budget, on_improvement=told.append)
    assert outcome.stopped_by is StoppedBy.TIME_BUDGET
    assert outcome.plan == told[-1]
    check_plan(outcome.plan, task)


def test_a_deadline_before_the_first_plan_is_an_error():
    clock = Clock()
    budget = Budget(deadline_s=5, clock=clock)
    with pytest.raises(NoPlanInTimeError):
        search(random_task(3), model=FakeCostModel(on_predict=clock.tick), budget=budget)


def test_many_tables_do_not_delay_that_error():
    asked = 0

    def clock():
        nonlocal asked
        asked += 1
        return float(asked)

    with pytest.raises(NoPlanInTimeError):
        search(random_task(3, tables=(300, 301)), budget=Budget(deadline_s=100, clock=clock))
    assert asked == 100


def test_effort_does_not_depend_on_time():
    task = random_task(5, tables=(30, 31), devices=8)
    patient = Budget(time_budget_s=math.inf, clock=Clock())
    assert search(task, budget=patient).plan == search(task).plan


def test_a_heterogeneous_cluster_is_filled_by_memory():
    overrides = tuple((d, (1 + d) * GIB // 4) for d in range(4))
    tables = [table(f"t{i}", rows=2**20, dim=16) for i in range(38)]
    task = problem(tables, devices=4, memory_bytes=GIB, device_memory_overrides=overrides)
    check_plan(search(task, SearchOptions(sharding_types=COLUMNS)).plan, task)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12).map(float), st.booleans()), min_size=1),
    st.integers(1, 8),
    st.data(),
)
def test_climbs_begin_with_the_cheapest_and_some_of_each_kind(lanes, most, data):
    share = data.draw(st.integers(0, most // 2))
    firsts = {}
    for lane, (cost, alike) in enumerate(lanes):  # of equal costs the first
        firsts.setdefault(cost, (lane, alike))
    ranked = [firsts[cost] for cost in sorted(firsts)]
    kinds = ([lane for lane, alike in ranked if alike is kind][:share] for kind in (True, False))
    wanted = [*itertools.chain(*kinds), *(lane for lane, _ in ranked)]
    wanted = list(dict.fromkeys(wanted))[:most]
    costs = np.array([cost for cost, _ in lanes])
    found = _cheapest(costs, np.array([alike for _, alike in lanes]), most, share)
    assert found.tolist() == sorted(wanted, key=lambda lane: costs[lane])
