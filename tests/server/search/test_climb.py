"""Climbing by single moves, `shardwright_server.search.climb` and `moves`."""

import random
from dataclasses import replace

import numpy as np
import pytest
from tests.server.search.fake_cost_model import FakeCostModel
from tests.server.search.problems import problem, random_task, table

from shardwright.domain import SearchOptions, check_plan
from shardwright_server.search.assignment import Assignment, Unit
from shardwright_server.search.climb import Climber
from shardwright_server.search.cost import PlanEvaluator
from shardwright_server.search.kicks import shake, switches
from shardwright_server.search.lots import LotBook


def book_of(task, options=None):
    return LotBook(PlanEvaluator(task, FakeCostModel()), options or SearchOptions())


def on_one_device(book, device=0):
    kinds = enumerate(book.wholes.tolist())
    return Assignment(book, [Unit(lot, kind, device) for lot, kind in kinds], {})


def climbed(assignment, most_steps=1000):
    Climber(assignment, lambda: None).climb(most_steps)
    return assignment


def anew(assignment):
    """The same assignment, summed from its units."""
    return anew_in(assignment.book, assignment)


def anew_in(book, assignment):
    triples = zip(assignment.lots, assignment.kinds, assignment.devices, strict=True)
    units = [Unit(int(lot), int(kind), int(device)) for lot, kind, device in triples]
    return Assignment(book, units, assignment.spreads)


@pytest.mark.parametrize("seed", range(8))
def test_sums_after_a_climb_are_those_of_the_plan_itself(seed):
    task = random_task(seed, tables=(5, 25), devices=4, memory_gib=64)
    a = climbed(on_one_device(book_of(task)))
    fresh = anew(a)
    for name in ("used_bytes", "dims", "closed"):
        assert np.array_equal(getattr(a, name), getattr(fresh, name)), name
    np.testing.assert_allclose(a.encodings, fresh.encodings, rtol=1e-4)
    np.testing.assert_allclose(a.compute_ms, fresh.compute_ms, rtol=1e-4)
    evaluator = PlanEvaluator(task, FakeCostModel())
    plan = a.to_plan()
    check_plan(plan, task)
    costs = evaluator.layout_costs([evaluator.layout(plan)])
    assert a.cost_ms == pytest.approx(float(costs.cost_ms[0]), rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_no_step_makes_the_plan_dearer(seed):
    a = on_one_device(book_of(random_task(seed, tables=(10, 20), devices=4, memory_gib=64)))
    climber = Climber(a, lambda: None)
    costs = [a.cost_ms]
    while climber.climb(1) and len(costs) < 60:
        costs.append(a.cost_ms)
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.5 * costs[0]


def test_no_device_gets_two_units_of_a_lot():
    task = random_task(1, tables=(3, 4), devices=4, memory_gib=64)
    a = climbed(on_one_device(book_of(task)))
    pairs = list(zip(a.lots.tolist(), a.devices.tolist(), strict=True))
    assert len(pairs) == len(set(pairs))


def test_a_climb_keeps_memory():
    full = [table(f"t{i}", rows=2**20, dim=16) for i in range(6)]
    task = problem(full, devices=2, memory_bytes=3 * 2**26)
    book = book_of(task)
    units = [Unit(i, int(k), i % 2) for i, k in enumerate(book.wholes)]
    a = climbed(Assignment(book, units, {}))
    assert a.fits()
    check_plan(a.to_plan(), task)


@pytest.mark.parametrize("seed", range(6))
def test_kicks_keep_memory_and_change_the_plan(seed):
    roomy = random_task(seed, tables=(10, 30), devices=8, memory_gib=64)
    a = climbed(on_one_device(book_of(roomy)), 40)
    # as much memory as the fullest device uses, and a little
    cluster = replace(roomy.cluster, device_memory_bytes=int(a.used_bytes.max() * 1.1))
    task = replace(roomy, cluster=cluster)
    a = anew_in(book_of(task), a)
    shaken = shake(a, random.Random(seed))
    assert shaken.fits() and shaken.to_plan() != a.to_plan()
    offered = switches(a)
    assert offered
    for switch in offered[:10]:
        kicked = switch.applied(a)
        assert kicked.fits()
        check_plan(kicked.to_plan(), task)
        assert kicked.to_plan() != a.to_plan()
