"""Placing, climbing and repacking in lockstep: `placing`, `swarm`, `repack`, `transfer_curves`."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from tests.server.search.fake_cost_model import FakeCostModel
from tests.server.search.problems import problem, random_task, table

from shardwright.domain import (
    SearchOptions,
    ShardingType,
    TableConstraints,
    check_constraints,
    check_plan,
    device_memory_bytes,
)
from shardwright_server.search.assignment import Assignment
from shardwright_server.search.budget import Budget
from shardwright_server.search.cost import PlanEvaluator
from shardwright_server.search.cuts import Cutter
from shardwright_server.search.lane_book import SPARE_SLOTS, LaneBook
from shardwright_server.search.lanes import NONE, Slots, Units
from shardwright_server.search.local_search import search_locally
from shardwright_server.search.lots import SPREADS, LotBook
from shardwright_server.search.objective import SHARP, SHARPEST, SOFT, costs_ms
from shardwright_server.search.placing import place
from shardwright_server.search.repack import Repacker
from shardwright_server.search.slopes import take_prices
from shardwright_server.search.swarm import Swarm
from shardwright_server.search.taking import still_active
from shardwright_server.search.transfer_curves import END, POINTS, TransferCurves

EVERYTHING = SearchOptions(sharding_types=tuple(ShardingType))


def book_of(task, options=EVERYTHING):
    return LotBook(PlanEvaluator(task, FakeCostModel()), options)


def scattered(book, count, seed=0):
    """Slots that hold whole tables on devices at random; tasks here have room for any of them."""
    draw = random.Random(seed)
    lots = len(book.lots)
    slots = Slots.empty(count, lots + SPARE_SLOTS, lots)
    slots.lots[:, :lots], slots.kinds[:, :lots] = np.arange(lots), book.wholes
    for row in range(count):
        slots.devices[row, :lots] = [draw.randrange(book.num_devices) for _ in range(lots)]
    return slots


def assigned(book, slots, row=0):
    return LaneBook(book).assignment(slots, row)


def cost_of(book, assignment):
    """What its plan costs, ms."""
    layout = book.evaluator.layout(assignment.to_plan())
    return float(book.evaluator.layout_costs([layout]).cost_ms[0])


def used_bytes(book, slots):
    """`[k, w]`."""
    return LaneBook(book).lanes(slots).used_bytes


def swarm_from(book, slots, prices=None, hope=math.inf):
    lane_book = LaneBook(book)
    lanes = lane_book.lanes(slots)
    prices = take_prices(lane_book, lanes) if prices is None else prices
    return Swarm(lane_book, lanes._replace(prices=prices), hope)


def climbed(book, slots, most_steps=500):
    swarm = swarm_from(book, slots)
    swarm.climb(most_steps, math.inf, lambda: None)
    return swarm


def test_a_swarm_of_whole_units_cuts_none():
    task = random_task(3, tables=(10, 20), devices=4, memory_gib=64)
    lane_book = LaneBook(book_of(task))
    slots = scattered(lane_book.book, 3)
    kinds = []
    for whole in (True, False):
        lanes = lane_book.lanes(slots)
        begin = lanes._replace(prices=take_prices(lane_book, lanes))
        swarm = Swarm(lane_book, begin, whole=whole)
        before_ms = swarm.cost_ms.copy()
        swarm.climb(500, math.inf, lambda: None)
        assert (swarm.cost_ms < before_ms).all()
        kinds.append(swarm.best.kinds)
    assert (kinds[0] == slots.kinds).all()
    assert (kinds[1] != slots.kinds).any()


def test_a_lane_that_finds_nothing_looks_with_each_sharper_objective_before_it_ends():
    active, stays = np.array([0]), np.array([False])
    squarings, seen = np.array([SOFT]), []
    while len(active):
        seen.append(int(squarings[0]))
        active = still_active(active, stays, squarings, np.array([1.0]), math.inf, math.inf)
    assert seen == [SOFT, SHARP, SHARPEST]


def test_climbs_end_when_the_sharpest_objective_finds_nothing():
    book = book_of(random_task(3, tables=(10, 20), devices=4, memory_gib=64))
    swarm = climbed(book, scattered(book, 3))
    assert not len(swarm._active)
    assert (swarm._squarings == SHARPEST).all()


@pytest.mark.parametrize("seed", range(6))
def test_what_a_swarm_reports_is_what_its_plans_cost(seed):
    task = random_task(seed, tables=(5, 25), devices=4, memory_gib=64)
    book = book_of(task)
    swarm = climbed(book, scattered(book, 5, seed))
    for lane in range(5):
        a = assigned(book, swarm.best, lane)
        check_plan(a.to_plan(), task)
        # nearly: the slowest device need not have most to transfer
        assert swarm.cost_ms[lane] == pytest.approx(cost_of(book, a), rel=3e-2)


@pytest.mark.parametrize("seed", range(4))
def test_climbs_make_plans_much_cheaper_and_never_dearer(seed):
    book = book_of(random_task(seed, tables=(10, 20), devices=4, memory_gib=64))
    placed = scattered(book, 6, seed)
    costs = [costs_ms(LaneBook(book).lanes(placed))]
    for most_steps in (1, 3, 10, 500):
        costs.append(climbed(book, placed, most_steps).cost_ms)
    assert (np.diff(np.array(costs), axis=0) <= 2e-3 * costs[0]).all()
    assert (costs[-1] < 0.9 * costs[0]).all()


@pytest.mark.parametrize("seed", range(6))
def test_memory_and_one_unit_of_a_lot_to_a_device_are_kept(seed):
    roomy = random_task(seed, tables=(8, 20), devices=4, memory_gib=64)
    book = book_of(roomy)
    # as much memory as the fullest device uses
    most_bytes = int(used_bytes(book, scattered(book, 1, seed)).max())
    task = replace(roomy, cluster=replace(roomy.cluster, device_memory_bytes=most_bytes))
    book = book_of(task)
    swarm = climbed(book, scattered(book, 1, seed))
    found = assigned(book, swarm.best)
    check_plan(found.to_plan(), task)
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
    swarm = swarm_from(book, placed)
    with pytest.raises(StopError):
        swarm.climb(500, math.inf, stop)
    for lane in range(3):
        a = assigned(book, swarm.best, lane)
        check_plan(a.to_plan(), task)
        assert cost_of(book, a) < cost_of(book, assigned(book, placed, lane))


def two_hosts(seed, tables):
    """A task for two hosts of two devices."""
    task = random_task(seed, tables=tables, devices=4, memory_gib=64)
    return replace(task, cluster=replace(task.cluster, devices_per_host=2))


def with_spreads(book):
    """An assignment with a lot in each of its ways to be spread, and the others whole."""
    a = assigned(book, scattered(book, 1))
    spreads = {
        lot: book.spread(lot, kind, len(book.lots[lot].hosts) - 1)
        for lot, kind in enumerate(SPREADS)
    }
    stays = a.lots >= len(SPREADS)
    return Assignment(book, a.lots[stays], a.kinds[stays], a.devices[stays], spreads)


def test_lanes_are_what_they_were_made_of():
    task = two_hosts(5, tables=(8, 14))
    book = book_of(task)
    a = with_spreads(book)
    lane_book = LaneBook(book)
    slots = lane_book.slots(a)
    assert lane_book.assignment(slots, 0).to_plan() == a.to_plan()
    lanes = lane_book.lanes(slots)
    layout = book.evaluator.layout(a.to_plan())
    costs = book.evaluator.layout_costs([layout])
    np.testing.assert_allclose(lanes.compute_ms[0], costs.compute_ms[0], rtol=1e-6)
    np.testing.assert_array_equal(lanes.dims[0], book.evaluator.device_dims(layout))
    used = np.zeros(4, dtype=np.int64)
    np.add.at(used, a.devices, book.catalog.memory_bytes[a.kinds])
    for spread in a.spreads.values():
        used[spread.first : spread.first + spread.devices] += book.catalog.memory_bytes[spread.kind]
    np.testing.assert_array_equal(lanes.used_bytes[0], used)
    closed = np.zeros_like(lanes.closed[0])
    closed[a.lots, a.devices] = True
    np.testing.assert_array_equal(lanes.closed[0], closed)
    copied = [spread.all_reduce_bytes for spread in a.spreads.values()]
    (all_reduce_ms,) = book.evaluator.all_reduce_ms(np.array([sum(copied)]))
    assert lanes.all_reduce_ms[0] == all_reduce_ms > 0
    # nearly, see Swarm.cost_ms
    assert costs_ms(lanes)[0] == pytest.approx(costs.cost_ms[0], rel=3e-2)
    some = lane_book.some(lane_book.lanes(slots.chosen([0, 0, 0])), np.array([2, 0]))
    np.testing.assert_array_equal(some.compute_ms, np.repeat(lanes.compute_ms, 2, axis=0))


def repacked(book, a, seed, count=48):
    """Assignments that a repacker makes of one, those that fit."""
    lane_book = LaneBook(book)
    now = lane_book.lanes(lane_book.slots(a))
    now = now._replace(prices=take_prices(lane_book, now))
    found = Repacker(lane_book, seed).ways(now, count)
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
        a = with_spreads(book) if begin == "spread" else assigned(book, scattered(book, 1, seed))
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
    most_bytes = max(device_memory_bytes(search_start(book_of(roomy)).to_plan(), roomy))
    tight = replace(roomy.cluster, device_memory_bytes=int(1.05 * most_bytes))
    task = replace(roomy, cluster=tight)
    book = book_of(task)
    ways = repacked(book, search_start(book), seed, count=200)
    assert len(ways) > 10
    for way in ways:
        check_plan(way.to_plan(), task)
        check_constraints(way.to_plan(), task, EVERYTHING)


def test_the_first_ways_spread_the_dearest_lots_one_by_one_and_then_together():
    book = book_of(two_hosts(3, tables=(12, 13)))
    a = assigned(book, scattered(book, 1))
    able = [lot for lot, facts in enumerate(book.lots) if facts.spreads]
    alone_ms = book.catalog.compute_ms[book.wholes]
    dearest = sorted(able, key=lambda lot: -alone_ms[lot])
    ways = [set(way.spreads) for way in repacked(book, a, seed=0, count=11)]
    assert ways[:8] == [{lot} for lot in dearest[:8]]
    assert ways[8:] == [set(dearest[:count]) for count in (2, 3, 4)]


def test_the_next_ways_gather_lots_that_are_spread():
    book = book_of(two_hosts(3, tables=(12, 13)))
    a = with_spreads(book)
    others = [lot for lot, facts in enumerate(book.lots) if facts.spreads and lot not in a.spreads]
    ways = [set(way.spreads) for way in repacked(book, a, seed=0, count=min(8, len(others)) + 3)]
    assert all(way > set(a.spreads) for way in ways[:-3])
    assert [set(a.spreads) - way for way in ways[-3:]] == [{lot} for lot in a.spreads]


def test_then_some_of_the_smallest_are_copied_or_copied_no_more():
    book = book_of(two_hosts(3, tables=(12, 13)))
    a = assigned(book, scattered(book, 1))
    rows = [table.num_embeddings for table in book.evaluator.problem.tables]
    smallest = sorted(range(len(rows)), key=lambda lot: rows[lot])
    ways = [way.spreads for way in repacked(book, a, seed=0, count=15)][11:]
    assert [set(way) for way in ways] == [set(smallest[: i + 1]) for i in range(4)]
    assert all(spread.all_reduce_bytes > 0 for way in ways for spread in way.values())
    # the largest are copied no more first
    copies = {lot: book.spread(lot, ShardingType.DATA_PARALLEL) for lot in smallest[:6]}
    stays = ~np.isin(a.lots, smallest[:6])
    a = Assignment(book, a.lots[stays], a.kinds[stays], a.devices[stays], copies)
    before = 6 + 6 + 3 + 4  # others spread, these gathered, some together, and copied
    ways = [set(way.spreads) for way in repacked(book, a, seed=0, count=before + 4)][before:]
    assert ways == [set(smallest[: 6 - i - 1]) for i in range(4)]


def test_placed_lanes_are_legal_and_of_the_cuts_asked_for():
    task = random_task(2, tables=(12, 20), devices=4, memory_gib=64)
    book = book_of(task)
    ways = Cutter(book).halvings(2, 3)
    lane_book = LaneBook(book)
    placed = place(lane_book, ways, [1.2, 9.0])
    assert len(placed.lots) == 2 * len(ways)
    for row in range(len(placed.lots)):
        a = lane_book.assignment(placed, row)
        check_plan(a.to_plan(), task)
        kinds = sorted(kind for cut in ways[row // 2] for kind in cut.kinds)
        assert sorted(a.kinds.tolist()) == kinds
    dims = lane_book.lanes(placed).dims
    # under the close cap no device is much wider than the others, under the other some are
    assert dims[::2].max() <= 1.3 * dims.mean() < dims[1::2].max()


def test_where_the_cap_leaves_no_device_memory_alone_decides():
    full = [table(f"t{i}", rows=2**20, dim=16) for i in range(6)]
    task = problem(full, devices=2, memory_bytes=3 * 2**26)
    book = book_of(task, SearchOptions(sharding_types=(ShardingType.TABLE_WISE,)))
    lane_book = LaneBook(book)
    ways = [list(Cutter(book).cuts)]
    (used_bytes,) = lane_book.lanes(place(lane_book, ways, [0.5])).used_bytes
    assert used_bytes.tolist() == [3 * 2**26, 3 * 2**26]
    tighter = problem(full, devices=2, memory_bytes=3 * 2**26 - 1)
    book = book_of(tighter, SearchOptions(sharding_types=(ShardingType.TABLE_WISE,)))
    assert len(place(LaneBook(book), [list(Cutter(book).cuts)], [9.0]).lots) == 0


def search_start(book, halvings=0):
    """A greedy assignment of the coarsest cuts, or halved ones."""
    cuts = Cutter(book).halvings(1, halvings + 1)[-1]
    lane_book = LaneBook(book)
    return lane_book.assignment(place(lane_book, [cuts], [9.0]), 0)


def test_curves_are_the_transfer_of_the_widest_device():
    task = random_task(3, tables=(20, 30), devices=8, memory_gib=64)
    evaluator = PlanEvaluator(task, FakeCostModel())
    rng = np.random.default_rng(0)
    dims = 4 * rng.integers(20, 60, size=(10, 8))
    curves, means = TransferCurves(evaluator).of(dims)
    costs = evaluator.costs(np.zeros((10, 8)), dims)
    exact_ms = costs.forward_comm_ms.max(axis=1) + costs.backward_comm_ms.max(axis=1)
    found_ms = [
        np.interp(widest, mean * np.linspace(1.0, END, POINTS), curve)
        for widest, mean, curve in zip(dims.max(axis=1), means, curves, strict=True)
    ]
    np.testing.assert_allclose(found_ms, exact_ms, rtol=2e-3)


def test_units_are_kept_by_width_of_the_narrowest_lots_that_room_is_for(monkeypatch):
    tables = [table("narrow", dim=8), table("wide", dim=256), table("mean", dim=16)]
    whole = TableConstraints(sharding_types=(ShardingType.TABLE_WISE,))
    tables.append(replace(table("whole", dim=512), constraints=whole))
    book = book_of(problem(tables, devices=4))
    everything = Units.of(book)
    assert everything.cut.tolist() == [True, True, True, False]
    assert len(everything.of_width) == 3 + 65 + 5 + 1
    monkeypatch.setattr("shardwright_server.search.lanes._MOST_WIDTHS", 12)
    some = Units.of(book)
    assert some.cut.tolist() == [True, False, True, False]
    assert len(some.of_width) == 3 + 1 + 5 + 1
    for units in (everything, some):
        for lot, columns in enumerate((8, 256, 16, 512)):
            of_lot = units.first_width[lot]
            assert units.of_width[of_lot + columns // 4] == book.wholes[lot]
            if units.cut[lot]:
                half = book.unit(lot, columns // 2)
                assert units.of_width[of_lot : of_lot + 2].tolist() == [NONE, book.unit(lot, 4)]
                assert units.of_width[of_lot + columns // 8] == half


def test_plans_of_lots_too_wide_to_cut_on_are_legal(monkeypatch):
    monkeypatch.setattr("shardwright_server.search.lanes._MOST_WIDTHS", 40)
    for seed in range(4):
        task = random_task(seed, tables=(5, 12), devices=4, memory_gib=2)
        plan = search_locally(
            PlanEvaluator(task, FakeCostModel()), EVERYTHING, Budget(None, None)
        ).plan
        check_plan(plan, task)
        check_constraints(plan, task, EVERYTHING)
