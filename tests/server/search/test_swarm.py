"""Climbing and repacking in lockstep: `swarm`, `transfer_curves`, `repack`, `greedy`."""

import random
from dataclasses import replace

import numpy as np
import pytest
from tests.server.search.fake_cost_model import FakeCostModel
from tests.server.search.problems import random_task

from shardwright.domain import (
    SearchOptions,
    ShardingType,
    TableConstraints,
    check_constraints,
    check_plan,
)
from shardwright_server.search.assignment import Assignment, Unit
from shardwright_server.search.construct import Lane, construct
from shardwright_server.search.cost import PlanEvaluator
from shardwright_server.search.cuts import Cutter
from shardwright_server.search.greedy import Greedy, Start
from shardwright_server.search.kernels import cost_ms
from shardwright_server.search.lane_book import LaneBook
from shardwright_server.search.lots import SPREADS, LotBook
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


def swarm_from(book, placed, lanes):
    lane_book = LaneBook(book)
    return Swarm(lane_book, lane_book.lanes(lane_book.placed(placed, lanes)))


def climbed(book, placed, lanes, most_steps=500):
    swarm = swarm_from(book, placed, lanes)
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
    swarm = swarm_from(book, placed, range(3))
    with pytest.raises(StopError):
        swarm.climb(500, stop)
    for lane in range(3):
        a = swarm.assignment(lane)
        check_plan(a.to_plan(), task)
        assert a.cost_ms < placed.cost_ms[lane]


def two_hosts(seed, tables):
    """A task for two hosts of two devices."""
    task = random_task(seed, tables=tables, devices=4, memory_gib=64)
    return replace(task, cluster=replace(task.cluster, devices_per_host=2))


def with_spreads(book):
    """An assignment with a lot in each of its ways to be spread, and the others whole."""
    a = scattered(book, 1).assignment(0)
    spreads = {
        lot: book.spread(lot, kind, len(book.lots[lot].hosts) - 1)
        for lot, kind in enumerate(SPREADS)
    }
    units = [
        unit for unit in zip(a.lots, a.kinds, a.devices, strict=True) if unit[0] >= len(SPREADS)
    ]
    return Assignment(book, [Unit(*map(int, unit)) for unit in units], spreads)


def test_lanes_are_what_they_were_made_of():
    task = two_hosts(5, tables=(8, 14))
    book = book_of(task)
    a = with_spreads(book)
    lane_book = LaneBook(book)
    slots = lane_book.placed(Greedy(book, [Start.of(a)], lambda: None), [0])
    assert lane_book.assignment(slots, 0).to_plan() == a.to_plan()
    lanes = lane_book.lanes(slots)
    for mine, its in (("compute_ms", "compute_ms"), ("dims", "dims"), ("used_bytes", "used_bytes")):
        np.testing.assert_allclose(getattr(lanes, mine)[0], getattr(a, its), rtol=1e-6)
    np.testing.assert_array_equal(lanes.closed[0], a.closed)
    copied = [spread.all_reduce_bytes for spread in a.spreads.values()]
    (all_reduce_ms,) = book.evaluator.all_reduce_ms(np.array([sum(copied)]))
    assert lanes.all_reduce_ms[0] == all_reduce_ms > 0
    # nearly, see Swarm.cost_ms
    assert cost_ms(lanes, 0) == pytest.approx(a.cost_ms, rel=3e-2)
    some = lane_book.some(lane_book.lanes(slots.chosen([0, 0, 0])), np.array([2, 0]))
    np.testing.assert_array_equal(some.compute_ms, np.repeat(lanes.compute_ms, 2, axis=0))


def repacked(book, a, seed, count=48):
    """Assignments that a repacker makes of one, those that fit."""
    lane_book = LaneBook(book)
    slots = lane_book.placed(Greedy(book, [Start.of(a)], lambda: None), [0])
    found = Repacker(lane_book, seed).ways(lane_book.lanes(slots), count)
    return [lane_book.assignment(found, lane) for lane in range(len(found.lots))]


@pytest.mark.parametrize("begin", ["whole", "cut", "spread"])
@pytest.mark.parametrize("seed", range(4))
def test_repacked_plans_are_legal_and_of_many_kinds(seed, begin):
    task = two_hosts(seed, tables=(6, 14))
    book = book_of(task)
    if begin == "cut":
        a = search_start(book, halvings=9)
        assert len(a.lots) > len(book.lots)
    else:
        a = with_spreads(book) if begin == "spread" else scattered(book, 1, seed).assignment(0)
    plans = [found.to_plan() for found in repacked(book, a, seed)]
    assert len(plans) == 48
    kinds = set()
    for plan in plans:
        types = check_plan(plan, task)
        check_constraints(plan, task, EVERYTHING)
        kinds |= set(types.values())
    assert kinds == set(ShardingType)
    assert len(set(plans)) > 24
    # the same chance, the same ways
    assert [found.to_plan() for found in repacked(book, a, seed)] == plans
    assert [found.to_plan() for found in repacked(book, a, seed + 1)] != plans


@pytest.mark.parametrize("seed", range(4))
def test_what_is_repacked_keeps_memory_and_constraints(seed):
    roomy = random_task(seed, tables=(8, 20), devices=4, memory_gib=64)
    limits = (
        TableConstraints(devices=(1, 3)),
        TableConstraints(sharding_types=(ShardingType.TABLE_WISE,)),
        TableConstraints(colocation_group="g"),
        TableConstraints(colocation_group="g"),
        TableConstraints(min_column_width=roomy.tables[4].embedding_dim),
        TableConstraints(sharding_types=(ShardingType.ROW_WISE,)),
    )
    tables = [replace(t, constraints=c) for t, c in zip(roomy.tables, limits, strict=False)]
    roomy = replace(roomy, tables=(*tables, *roomy.tables[len(limits) :]))
    a = search_start(book_of(roomy))
    tight = replace(roomy.cluster, device_memory_bytes=int(1.05 * a.used_bytes.max()))
    task = replace(roomy, cluster=tight)
    book = book_of(task)
    ways = repacked(book, search_start(book), seed, count=200)
    assert len(ways) > 10
    for way in ways:
        check_plan(way.to_plan(), task)
        check_constraints(way.to_plan(), task, EVERYTHING)


def search_start(book, halvings=0):
    """A greedy assignment of the coarsest cuts, or halved ones."""
    cuts = Cutter(book, columns_only=True).halvings(1, halvings + 1)[-1]
    return construct(book, [Lane(cuts, 9.0)], 1, lambda: None)[0]


def test_a_curve_is_the_transfer_of_the_fullest_device():
    task = random_task(3, tables=(20, 30), devices=8, memory_gib=64)
    evaluator = PlanEvaluator(task, FakeCostModel())
    rng = np.random.default_rng(0)
    dims = 4 * rng.integers(20, 60, size=(10, 8))
    curves = TransferCurves.of(evaluator, dims, {})
    costs = evaluator.costs(np.zeros((10, 8)), dims)
    exact_ms = costs.forward_comm_ms.max(axis=1) + costs.backward_comm_ms.max(axis=1)
    found_ms = [
        np.interp(largest, 4 * np.arange(curves.tables.shape[1]), curves.tables[curve])
        for largest, curve in zip(dims.max(axis=1), curves.curve, strict=True)
    ]
    np.testing.assert_allclose(found_ms, exact_ms, rtol=2e-3)
