"""Climbing and repacking in lockstep: `swarm`, `transfer_curves`, `repack`, `greedy`."""

import random
from dataclasses import replace

import numpy as np
import pytest
from tests.server.search.fake_cost_model import FakeCostModel
from tests.server.search.problems import random_task

from shardwright.domain import SearchOptions, ShardingType, check_plan
from shardwright_server.search.assignment import Assignment
from shardwright_server.search.cost import PlanEvaluator
from shardwright_server.search.greedy import Greedy, Start
from shardwright_server.search.lanes import Units
from shardwright_server.search.lots import LotBook
from shardwright_server.search.repack import Repacker
from shardwright_server.search.swarm import Swarm
from shardwright_server.search.transfer_curves import TransferCurves

EVERYTHING = SearchOptions(sharding_types=tuple(ShardingType))


def book_of(task, options=EVERYTHING):
    return LotBook(PlanEvaluator(task, FakeCostModel()), options)


def scattered(book, count, seed=0):
    """Lanes that hold whole tables on devices at random; tasks here have room for any of them."""
    draw = random.Random(seed)
    lots, kinds = np.arange(len(book.lots)), book.wholes
    nothing = np.empty((2, 0), dtype=np.int64)
    starts = []
    for _ in range(count):
        devices = np.array([draw.randrange(book.num_devices) for _ in lots])
        starts.append(Start({}, np.stack([lots, kinds, devices]), nothing, 9.0))
    return Greedy(book, starts, lambda: None)


def climbed(book, placed, lanes, most_steps=500):
    swarm = Swarm(book, Units.of(book), placed, lanes)
    swarm.climb(most_steps, lambda: None)
    return swarm


@pytest.mark.parametrize("seed", range(6))
def test_what_a_swarm_reports_is_what_its_plans_cost(seed):
    task = random_task(seed, tables=(5, 25), devices=4, memory_gib=64)
    book = book_of(task)
    swarm = climbed(book, scattered(book, 5, seed), range(5))
    for lane in range(5):
        a = swarm.assignment(lane)
        check_plan(a.to_plan(), task)
        # nearly: the slowest device need not have most to transfer
        assert swarm.cost_ms[lane] == pytest.approx(a.cost_ms, rel=3e-2)


@pytest.mark.parametrize("seed", range(4))
def test_climbs_make_plans_much_cheaper_and_never_dearer(seed):
    book = book_of(random_task(seed, tables=(10, 20), devices=4, memory_gib=64))
    placed = scattered(book, 6, seed)
    costs = [placed.cost_ms]
    for most_steps in (1, 3, 10, 500):
        costs.append(climbed(book, placed, range(6), most_steps).cost_ms)
    assert (np.diff(np.array(costs), axis=0) <= 2e-3 * costs[0]).all()
    assert (costs[-1] < 0.9 * costs[0]).all()


@pytest.mark.parametrize("seed", range(6))
def test_memory_and_one_unit_of_a_lot_to_a_device_are_kept(seed):
    roomy = random_task(seed, tables=(8, 20), devices=4, memory_gib=64)
    a = scattered(book_of(roomy), 1, seed).assignment(0)
    # as much memory as the fullest device uses
    cluster = replace(roomy.cluster, device_memory_bytes=int(a.used_bytes.max()))
    book = book_of(replace(roomy, cluster=cluster))
    swarm = climbed(book, scattered(book, 1, seed), [0])
    found = swarm.assignment(0)
    assert found.fits()
    pairs = list(zip(found.lots.tolist(), found.devices.tolist(), strict=True))
    assert len(pairs) == len(set(pairs))


def test_out_of_time_a_swarm_holds_what_it_has_reached():
    class StopError(Exception):
        pass

    steps = 0

    def stop():
        nonlocal steps
        steps += 1
        if steps > 3:
            raise StopError

    task = random_task(0, tables=(10, 20), devices=4, memory_gib=64)
    book = book_of(task)
    placed = scattered(book, 3)
    swarm = Swarm(book, Units.of(book), placed, range(3))
    with pytest.raises(StopError):
        swarm.climb(500, stop)
    for lane in range(3):
        a = swarm.assignment(lane)
        check_plan(a.to_plan(), task)
        assert a.cost_ms < placed.cost_ms[lane]


@pytest.mark.parametrize("seed", range(5))
def test_repacked_plans_are_legal_and_of_many_kinds(seed):
    task = random_task(seed, tables=(6, 14), devices=4, memory_gib=64)
    book = book_of(task)
    a: Assignment = scattered(book, 1, seed).assignment(0)
    starts = Repacker(book, random.Random(seed)).starts(a, 48)
    placed = Greedy(book, starts, lambda: None)
    plans = [placed.assignment(lane).to_plan() for lane in placed.by_cost()]
    assert len(plans) == 48
    for plan in plans:
        check_plan(plan, task)
    assert len(set(plans)) > 24
    assert {len(plan.shards) for plan in plans} > {len(task.tables)}
    # the same chance, the same ways
    again = Repacker(book, random.Random(seed)).starts(a, 48)
    same = Greedy(book, again, lambda: None)
    assert [same.assignment(lane).to_plan() for lane in same.by_cost()] == plans


def test_a_curve_is_the_transfer_of_the_fullest_device():
    task = random_task(3, tables=(20, 30), devices=8, memory_gib=64)
    evaluator = PlanEvaluator(task, FakeCostModel())
    rng = np.random.default_rng(0)
    dims = 4 * rng.integers(20, 60, size=(10, 8))
    curves = TransferCurves.of(evaluator, dims)
    costs = evaluator.costs(np.zeros((10, 8)), dims)
    exact_ms = costs.forward_comm_ms.max(axis=1) + costs.backward_comm_ms.max(axis=1)
    np.testing.assert_allclose(curves.ms(dims.max(axis=1)), exact_ms, rtol=2e-3)
