"""Greedy heuristics and chance, `shardwright_server.search.baselines`."""

import numpy as np
from tests.server.search.fake_cost_model import FakeCostModel
from tests.server.search.problems import problem, random_task, table

from shardwright_server.search.baselines import baselines
from shardwright_server.search.cost import Layout, PlanEvaluator

NAMES = ["dim", "size", "lookup", "size_lookup", "random"]


def run(task, seed=0):
    return {b.name: b.cost_ms for b in baselines(PlanEvaluator(task, FakeCostModel()), seed)}


def cost_of(task, devices):
    evaluator = PlanEvaluator(task, FakeCostModel())
    tables = np.array(evaluator.catalog.whole_tables())
    return evaluator.layout_costs([Layout(tables, np.array(devices))]).cost_ms[0]


def test_five_baselines_in_a_fixed_order():
    assert list(run(random_task(1))) == NAMES


def test_each_heuristic_balances_its_own_score():
    tables = [
        table("wide", rows=10, dim=128, pooling=1),
        table("tall", rows=10**6, dim=8, pooling=2),
        table("hot", rows=1000, dim=8, pooling=100),
        table("warm", rows=100, dim=64, pooling=20),
        table("cool", rows=10**5, dim=16, pooling=10),
    ]
    found = run(problem(tables, devices=2))
    # scores in the order of the tables; falling; each to the device with the smaller sum
    expected = {
        "dim": [0, 1, 1, 1, 1],  # 128 8 8 64 16
        "size": [1, 0, 1, 1, 1],  # 1280 8e6 8000 6400 1.6e6
        "lookup": [1, 1, 1, 0, 1],  # 128 16 800 1280 160
        "size_lookup": [0, 0, 1, 0, 1],  # 128 96 2400 2560 800
    }
    for name, devices in expected.items():
        assert found[name] == cost_of(problem(tables, devices=2), devices), name


def test_a_device_without_room_is_passed_over():
    tables = [table(f"t{i}", rows=2**20, dim=64) for i in range(4)]  # 256 MiB each
    task = problem(tables, devices=2, memory_bytes=2**28, device_memory_overrides=((1, 3 * 2**28),))
    costs = run(task)
    assert costs["dim"] == cost_of(task, [0, 1, 1, 1])
    assert costs["random"] is not None


def test_no_room_for_a_table_is_an_infeasible_baseline():
    found = baselines(PlanEvaluator(problem([table(rows=10**12)]), FakeCostModel()), seed=0)
    assert [(b.name, b.cost_ms, b.feasible) for b in found] == [(n, None, False) for n in NAMES]


def test_some_baselines_may_fit_and_others_not():
    # by dim: wide and thin part, then 3 and 3 on one device; by size: packed
    tables = [table("a", rows=3, dim=64), table("b", rows=3, dim=64)]
    tables += [table("c", rows=4, dim=16), table("d", rows=24, dim=32), table("e", rows=4, dim=16)]
    task = problem(tables, devices=2, memory_bytes=4 * (24 * 32))
    costs = run(task)
    assert costs["size"] is not None
    assert costs["dim"] is None


def test_random_depends_on_the_seed_alone():
    task = random_task(3)
    costs = [run(task, seed)["random"] for seed in range(5)]
    assert costs == [run(task, seed)["random"] for seed in range(5)]
    assert len(set(costs)) > 1


def test_all_are_costed_in_one_batch():
    model = FakeCostModel()
    baselines(PlanEvaluator(random_task(1), model), seed=0)
    # one for the single tables, one for the plans
    calls = {quantity: count for quantity, count in model.calls.items() if count}
    assert calls == {"encode": 1, "compute": 2, "forward_comm": 1, "backward_comm": 1}
