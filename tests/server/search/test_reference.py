"""The lockstep search chooses the plan of the sequential reference, shard for shard."""

import pytest
from tests.server.search.fake_cost_model import FakeCostModel
from tests.server.search.problems import problem, random_task, table
from tests.server.search.reference import Reference

from shardwright.domain import InsufficientMemoryError, SearchOptions
from shardwright_server.search.beam import search_beam
from shardwright_server.search.budget import Budget
from shardwright_server.search.cost import PlanEvaluator

SMALL = SearchOptions(max_column_splits=3, beam_width=2, candidates=3, grid_steps=5)


def same_plan(task, model, options):
    expected = Reference(task, model, options).search()
    found = search_beam(PlanEvaluator(task, model), options, Budget()).plan
    assert expected is not None
    return found.fingerprint == expected.fingerprint


@pytest.mark.parametrize("seed", range(44))
def test_same_plan_on_random_tasks(seed, shipped_cost_model):
    assert same_plan(random_task(seed), shipped_cost_model, SMALL)


@pytest.mark.parametrize("seed", range(100, 103))
def test_same_plan_with_default_settings(seed, shipped_cost_model):
    assert same_plan(random_task(seed, tables=(10, 16)), shipped_cost_model, SearchOptions())


@pytest.mark.parametrize("seed", range(200, 220))
def test_same_plan_by_an_analytic_cost_model(seed):
    assert same_plan(random_task(seed), FakeCostModel(), SMALL)


@pytest.mark.parametrize("devices", [1, 2, 3, 5])
def test_same_plan_where_every_choice_ties(devices):
    identical = problem([table(f"t{i}", dim=32) for i in range(6)], devices)
    assert same_plan(identical, FakeCostModel(), SearchOptions(max_column_splits=4))
    task = random_task(devices, tables=(8, 9), devices=devices, memory_gib=20)
    assert same_plan(task, FakeCostModel(flat=True), SearchOptions(max_column_splits=2))


def test_same_plan_or_none_where_memory_is_tight():
    verdicts = set()
    for seed in range(30):
        roomy = random_task(seed, tables=(6, 10))
        fair_share = roomy.total_bytes // 4
        memory = [fair_share * (100 + 3 * (seed % 5) * d) // 100 for d in range(1, 5)]
        task = problem(
            roomy.tables,
            memory_bytes=fair_share,
            optimizer=roomy.optimizer,
            device_memory_overrides=tuple(enumerate(memory)),
        )
        expected = Reference(task, FakeCostModel(), SMALL).search()
        try:
            found = search_beam(PlanEvaluator(task, FakeCostModel()), SMALL, Budget()).plan
        except InsufficientMemoryError:
            found = None
        # without a plan under any cap ours tries again without caps
        assert expected is None or found.fingerprint == expected.fingerprint
        verdicts.add((expected is None, found is None))
    assert (False, False) in verdicts and (True, True) in verdicts
