"""Compiled loops against plain Python: which moves there are, what they promise, what is taken."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from tests.server.search.problems import random_task
from tests.server.search.test_swarm import (
    EVERYTHING,
    assigned,
    book_of,
    scattered,
    swarm_from,
    used_bytes,
)

from shardwright.domain import SearchOptions, ShardingType, TableConstraints
from shardwright_server.search.lanes import NONE, Moves
from shardwright_server.search.objective import SHARP, SHARPEST, SOFT, costs_ms, objective_ms
from shardwright_server.search.proposals import propose
from shardwright_server.search.slopes import take_prices
from shardwright_server.search.transfer_curves import END, POINTS

STEP = 4


def swarm_of(seed, *, devices=3, tables=(5, 9), memory_gib=64, lanes=2, options=EVERYTHING):
    book = book_of(
        random_task(seed, tables=tables, devices=devices, memory_gib=memory_gib), options
    )
    return swarm_from(book, scattered(book, lanes, seed))


def promised(swarm, squarings, count=500, least_gain=-1e300):
    """Moves `{(unit, target, other, stays, goes, comes): merit}` of each lane.

    By default all that there are, whatever they promise.
    """
    lanes, units = swarm._lanes, swarm._units
    k, w, e = lanes.base.shape
    moves = Moves.empty(k, count * w)
    sums = np.full((k * count * w, 2, e), np.nan, np.float32)
    powers = np.full(k, squarings)
    n = propose(units, lanes, np.arange(k), powers, w, count, least_gain, moves, sums)
    there = np.isfinite(moves.merit_ms)
    assert n == there.sum()
    assert np.isfinite(sums[:n]).all() and np.isnan(sums[n:]).all()
    found = []
    for lane in range(k):
        fields, merits = moves.fields[lane][there[lane]], moves.merit_ms[lane][there[lane]]
        found.append({tuple(f[1:]): ms for f, ms in zip(fields.tolist(), merits, strict=True)})
    return found


def reference(swarm, lane, squarings):
    """The same moves, found by trying everything; merits by the objective's definition."""
    units, lanes = swarm._units, swarm._lanes
    lots, kinds, devices = (a[lane].tolist() for a in (lanes.lots, lanes.kinds, lanes.devices))
    slots = [u for u, device in enumerate(devices) if device != NONE]
    here = {(lots[u], devices[u]): u for u in slots}
    rank = ranks(swarm, lane, squarings)
    for u, target in itertools.product(slots, range(lanes.dims.shape[1])):
        lot, kind, source = lots[u], kinds[u], devices[u]
        if source == target or not units.allowed[lot, target]:
            continue
        width = units.columns[kind] if units.cut[lot] else 0
        of_lot = units.of_width[units.first_width[lot] :]
        quarters = {width // STEP * q // 4 * STEP for q in (1, 2, 3)}
        v = here.get((lot, target), NONE)
        slow = lanes.compute_ms[lane, source] == lanes.compute_ms[lane].max()
        wide = lanes.dims[lane, source] == lanes.dims[lane].max()
        parts = [0, *sorted(quarters | ({STEP} if v != NONE else set()))]
        for part in parts:
            if part and not ((slow or wide) and 0 < part < width):
                continue
            stays = of_lot[(width - part) // STEP] if part else NONE
            goes = of_lot[part // STEP] if part else kind
            if part and stays == NONE:
                continue
            if v != NONE:
                grown = (part or width) + units.columns[kinds[v]] if width else None
                grown = NONE if grown is None else of_lot[grown // STEP]
                if grown != NONE:
                    yield source, target, u, v, stays, grown, NONE
            elif goes != NONE:
                yield source, target, u, NONE, stays, goes, NONE
                for other in slots:
                    twice = part == 0 and rank[target] < rank[source]
                    if devices[other] != target or twice or (lots[other], source) in here:
                        continue
                    if not units.allowed[lots[other], source]:
                        continue
                    if part == 0 or slow:
                        yield source, target, u, other, stays, goes, kinds[other]


def ranks(swarm, lane, squarings):
    """Devices by falling share in the objective; the lowest first on ties."""
    ms, dims, power = swarm._lanes.compute_ms[lane], swarm._lanes.dims[lane], 2**squarings
    compute_rate, dims_rate = rates(swarm, lane, squarings)
    shares = compute_rate * (ms / ms.max()) ** power + dims_rate * (dims / dims.max()) ** power
    return np.argsort(np.argsort(-shares, kind="stable"))


def rates(swarm, lane, squarings):
    """What the objective grows by with sums of powers, of computation and of dims."""
    lanes, power = swarm._lanes, 2**squarings
    soft = power_mean(lanes.dims[lane], power)
    points = lanes.mean_dims[lane] * np.linspace(1.0, END, POINTS)
    around = np.interp([soft - 1, soft + 1], points, lanes.transfers_ms[lane])
    slope = (around[1] - around[0]) / 2
    return rate(lanes.compute_ms[lane], power), slope * rate(lanes.dims[lane], power)


def change(swarm, lane, squarings, ms, dims):
    """Of computation and transfers, if devices had these."""
    compute_rate, dims_rate = rates(swarm, lane, squarings)
    was_ms, was = swarm._lanes.compute_ms[lane], swarm._lanes.dims[lane]
    power = 2**squarings
    return compute_rate * gain(was_ms, ms, power), dims_rate * gain(was, dims, power)


def merit(swarm, lane, move, squarings):
    """Change of the objective, linear in its sums of powers.

    None where memory forbids the move, or a device would become slower than the slowest is, or far
    wider than the widest.
    """
    units, lanes = swarm._units, swarm._lanes
    source, target, u, v, stays, goes, comes = move
    kind, met = lanes.kinds[lane, u], lanes.kinds[lane, v] if v != NONE else NONE
    used = lanes.used_bytes[lane].copy()
    used[source] += units.memory_bytes[[stays, comes]].sum() - units.memory_bytes[kind]
    used[target] += units.memory_bytes[goes] - units.memory_bytes[met]
    if (used[target] > units.room_bytes[target]) or (
        v != NONE and comes != NONE and used[source] > units.room_bytes[source]
    ):
        return None
    dims, ms = lanes.dims[lane].copy(), lanes.compute_ms[lane].copy()
    columns = units.columns[kind] - units.columns[[stays, comes]].sum()
    dims[source] -= columns
    dims[target] += columns
    price = lanes.prices.astype(np.float64)
    before = ms.copy()
    ms[source] += price[stays, source] + price[comes, source] - price[kind, source]
    ms[target] += price[goes, target] - price[met, target]
    if before[target] == 0.0:
        ms[target] = units.compute_ms[goes]
    if ms[target] > before.max() or (comes != NONE and ms[source] > before.max()):
        return None
    if math.log(dims.max() / lanes.dims[lane].max()) * 2**squarings > 80.0:
        return None  # so much wider than the widest that it promises nothing
    return sum(change(swarm, lane, squarings, np.maximum(ms, 0), np.maximum(dims, 0)))


def power_mean(values, power):
    largest = values.max()
    return largest * ((values / largest) ** power).mean() ** (1 / power)


def rate(values, power):
    """What the power mean grows by with the sum of powers over the largest."""
    return power_mean(values, power) / power / ((values / values.max()) ** power).sum()


def gain(before, after, power):
    """Of the sum of powers over what was the largest before."""
    largest = before.max()
    return ((after / largest) ** power - (before / largest) ** power).sum()


@pytest.mark.parametrize("squarings", [SOFT, SHARP, SHARPEST])
@pytest.mark.parametrize("seed", range(6))
def test_every_possible_move_is_found_with_what_it_promises(seed, squarings):
    swarm = swarm_of(seed, tables=(10, 14))
    for climbed in (0, 3):  # at first all units are whole
        swarm.climb(climbed, math.inf, lambda: None)
        swarm._lanes = swarm._lanes._replace(prices=take_prices(swarm._lane_book, swarm._lanes))
        for lane, found in enumerate(promised(swarm, squarings)):
            moves = reference(swarm, lane, squarings)
            wanted = {m[1:]: merit(swarm, lane, m, squarings) for m in moves}
            wanted = {move: ms for move, ms in wanted.items() if ms is not None and ms < 1e30}
            found = {move: ms for move, ms in found.items() if ms < 1e30}  # the rest is far wider
            assert found.keys() == wanted.keys()
            assert wanted or squarings == SHARPEST  # which gains nowhere but at the slowest
            for move, ms in wanted.items():
                assert found[move] == pytest.approx(ms, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("squarings", [SOFT, SHARP])
@pytest.mark.parametrize("seed", range(4))
def test_what_promises_little_is_left_out_and_nothing_else(seed, squarings):
    swarm = swarm_of(seed, tables=(10, 14))
    least_gain = 1e-3
    everything = promised(swarm, squarings)
    for lane, found in enumerate(promised(swarm, squarings, least_gain=least_gain)):
        least_ms = -least_gain * objective_ms(swarm._lanes, lane, squarings)
        wanted = {move: ms for move, ms in everything[lane].items() if ms < least_ms}
        assert found == wanted
        assert 0 < len(wanted) < len(everything[lane])


@pytest.mark.parametrize("sources", [1, 2, 3])
def test_the_best_moves_of_the_first_devices_are_kept_best_first(sources):
    swarm = swarm_of(1, tables=(10, 14))
    everything = promised(swarm, SOFT)[0]
    units, lanes = swarm._units, swarm._lanes
    moves = Moves.empty(1, sources * 4)
    sums = np.zeros((sources * 4, 2, lanes.base.shape[2]), np.float32)
    soft = np.full(2, SOFT)
    propose(units, lanes, np.array([0]), soft, sources, 4, -1e300, moves, sums)
    devices = lanes.devices[0]
    order = np.argsort(ranks(swarm, 0, SOFT))
    for rank in range(sources):
        of_source = sorted(ms for move, ms in everything.items() if devices[move[1]] == order[rank])
        kept = moves.merit_ms[0, 4 * rank : 4 * rank + 4]
        there = np.isfinite(kept)
        assert kept[there].tolist() == of_source[:4]
        assert (moves.fields[0, 4 * rank : 4 * rank + 4, 0][there] == order[rank]).all()


@pytest.mark.parametrize("tight", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_what_lanes_say_of_devices_is_what_their_units_add_up_to(seed, tight):
    task = random_task(seed, tables=(8, 16), devices=4, memory_gib=64)
    book = book_of(task)
    if tight:  # no more room than the fullest device uses
        most_bytes = int(used_bytes(book, scattered(book, 3, seed)).max())
        task = replace(task, cluster=replace(task.cluster, device_memory_bytes=most_bytes))
        book = book_of(task)
    swarm = swarm_from(book, scattered(book, 3, seed))
    units = swarm._units
    swarm.climb(40, math.inf, lambda: None)
    lanes = swarm._lanes
    for lane in range(3):
        used, dims = np.zeros_like(lanes.dims[lane]), np.zeros_like(lanes.dims[lane])
        closed = ~book.allowed
        widths = np.zeros(len(book.lots), dtype=np.int64)
        held = lanes.devices[lane] != NONE
        for lot, kind, device in zip(
            *(a[lane][held].tolist() for a in (lanes.lots, lanes.kinds, lanes.devices)), strict=True
        ):
            used[device] += units.memory_bytes[kind]
            dims[device] += units.columns[kind]
            assert not closed[lot, device], "two units of a lot on a device"
            closed[lot, device] = True
            widths[lot] += units.columns[kind]
        np.testing.assert_array_equal(used, lanes.used_bytes[lane])
        np.testing.assert_array_equal(dims, lanes.dims[lane])
        np.testing.assert_array_equal(closed, lanes.closed[lane])
        np.testing.assert_array_equal(widths, [lot.columns for lot in book.lots])
        assert (used <= book.evaluator.memory_bytes).all()
    sums = swarm._lane_book.sums(lanes)
    exact = book.evaluator.compute_ms(sums.reshape(-1, sums.shape[2])).reshape(sums.shape[:2])
    np.testing.assert_allclose(lanes.compute_ms, exact, rtol=1e-6)


def test_constraints_are_kept():
    task = random_task(3, tables=(10, 11), devices=4, memory_gib=64)
    pinned = replace(
        task.tables[0],
        constraints=TableConstraints(
            devices=(1, 3),
            sharding_types=(ShardingType.TABLE_WISE, ShardingType.COLUMN_WISE),
        ),
    )
    whole = replace(
        task.tables[1], constraints=TableConstraints(sharding_types=(ShardingType.TABLE_WISE,))
    )
    task = replace(task, tables=(pinned, whole, *task.tables[2:]))
    book = book_of(task, SearchOptions())
    slots = scattered(book, 1)
    slots.devices[0, 0] = 1
    swarm = swarm_from(book, slots)
    swarm.climb(60, math.inf, lambda: None)
    a = assigned(book, swarm.best)
    assert set(a.devices[a.lots == 0].tolist()) <= {1, 3}
    assert (a.lots == 1).sum() == 1


def test_the_sharpest_objective_is_the_cost():
    swarm = swarm_of(0)
    for lane in range(2):
        assert objective_ms(swarm._lanes, lane, 12) == pytest.approx(swarm.cost_ms[lane], rel=1e-3)
        assert objective_ms(swarm._lanes, lane, 0) < swarm.cost_ms[lane]


def test_the_second_of_two_widest_devices_counts():
    swarm = swarm_of(0)
    lanes = swarm._lanes
    mean = int(lanes.dims[0].mean())
    lanes.dims[0] = [2 * mean, 2 * mean, 0]
    one_of_two, cost = objective_ms(lanes, 0, SOFT), costs_ms(lanes)[0]
    lanes.dims[0] = [2 * mean, mean, mean]
    assert objective_ms(lanes, 0, SOFT) < one_of_two
    assert costs_ms(lanes)[0] == cost


def test_a_lane_does_not_depend_on_the_others_while_there_is_hope():
    book = book_of(random_task(2, tables=(10, 20), devices=4, memory_gib=64))
    slots = scattered(book, 4)
    together = swarm_from(book, slots)
    together.climb(30, math.inf, lambda: None)
    for lane in range(4):
        alone = swarm_from(book, slots.chosen([lane]), together._lanes.prices)
        alone.climb(30, math.inf, lambda: None)
        assert alone.cost_ms[0] == together.cost_ms[lane]
        found, wanted = assigned(book, alone.best), assigned(book, together.best, lane)
        assert found.to_plan() == wanted.to_plan()


@pytest.mark.parametrize("hope", [0.0, 0.1, 0.5])
def test_lanes_without_hope_end_and_keep_what_they_have(hope):
    book = book_of(random_task(2, tables=(10, 20), devices=4, memory_gib=64))
    slots = scattered(book, 12)
    one_step = swarm_from(book, slots)
    one_step.climb(1, math.inf, lambda: None)
    reached_ms = one_step.cost_ms
    # halved after as many steps as four devices can be halved
    stays = reached_ms <= (1.0 + hope * 0.5**0.5) * reached_ms.min()
    assert 0 < stays.sum() < 12
    swarm = swarm_from(book, slots, hope=hope)
    swarm.climb(30, math.inf, lambda: None)
    np.testing.assert_array_equal(swarm.cost_ms[~stays], reached_ms[~stays])
    assert swarm.cost_ms[stays].min() < reached_ms.min()


def test_the_best_plan_found_before_takes_hope_too():
    book = book_of(random_task(2, tables=(10, 20), devices=4, memory_gib=64))
    slots = scattered(book, 12)
    begin_ms = swarm_from(book, slots).cost_ms
    steps = 0

    def count():
        nonlocal steps
        steps += 1

    swarm = swarm_from(book, slots, hope=0.5)
    swarm.climb(30, begin_ms.min() / 100.0, count)
    assert steps == 1
    assert not len(swarm._active)


def test_without_anything_to_gain_a_swarm_stops():
    task = random_task(0, tables=(6, 7), devices=3, memory_gib=64)
    book = book_of(task)
    book.evaluator._cost_model.flat = True
    swarm = swarm_from(book, scattered(book, 2))
    steps = 0

    def count():
        nonlocal steps
        steps += 1

    swarm.climb(1000, math.inf, count)
    assert steps < 50
