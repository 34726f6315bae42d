"""Compiled loops against plain Python: which moves there are, what they promise, what is taken."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from tests.server.search.problems import random_task
from tests.server.search.test_swarm import EVERYTHING, book_of, scattered, swarm_from

from shardwright.domain import SearchOptions, ShardingType, TableConstraints
from shardwright_server.search.kernels import cost_ms, device_sums, objective_ms, promising
from shardwright_server.search.lanes import NONE, Moves
from shardwright_server.search.slopes import take_slopes

STEP = 4


def swarm_of(seed, *, devices=3, tables=(5, 9), memory_gib=64, lanes=2, options=EVERYTHING):
    book = book_of(
        random_task(seed, tables=tables, devices=devices, memory_gib=memory_gib), options
    )
    return swarm_from(book, scattered(book, lanes, seed), range(lanes))


def promised(swarm, squarings, count=500):
    """Moves `{(unit, target, other, stays, goes, comes): merit}` of each lane."""
    lanes, k = swarm._lanes, len(swarm._lanes.dims)
    moves = Moves.empty(k, count * lanes.dims.shape[1])
    powers = np.full(k, squarings)
    promising(swarm._units, lanes, np.arange(k), powers, count, moves)
    found = []
    for lane in range(k):
        fields = moves.fields[lane][np.isfinite(moves.merit_ms[lane])].tolist()
        merits = moves.merit_ms[lane][np.isfinite(moves.merit_ms[lane])].tolist()
        found.append({tuple(f[1:]): ms for f, ms in zip(fields, merits, strict=True)})
    return found


def reference(swarm, lane):
    """The same moves, found by trying everything; merits by the objective's definition."""
    units, lanes = swarm._units, swarm._lanes
    lots, kinds, devices = (a[lane].tolist() for a in (lanes.lots, lanes.kinds, lanes.devices))
    slots = [u for u, device in enumerate(devices) if device != NONE]
    here = {(lots[u], devices[u]): u for u in slots}
    slowest = lanes.compute_ms[lane].argmax()
    for u, target in itertools.product(slots, range(lanes.dims.shape[1])):
        lot, kind, source = lots[u], kinds[u], devices[u]
        if source == target or not units.allowed[lot, target]:
            continue
        width = units.columns[kind] if units.cut[lot] else 0
        quarters = {width // STEP * q // 4 * STEP for q in (1, 2, 3)}
        v = here.get((lot, target), NONE)
        parts = [0, *sorted(quarters | ({STEP} if v != NONE else set()))]
        for part in parts:
            if part and not 0 < part < width:
                continue
            stays = units.of_width[lot, (width - part) // STEP] if part else NONE
            goes = units.of_width[lot, part // STEP] if part else kind
            if part and stays == NONE:
                continue
            if v != NONE:
                grown = (part or width) + units.columns[kinds[v]] if width else None
                grown = NONE if grown is None else units.of_width[lot, grown // STEP]
                if grown != NONE:
                    yield source, target, u, v, stays, grown, NONE
            elif goes != NONE:
                yield source, target, u, NONE, stays, goes, NONE
                for other in slots:
                    twice = part == 0 and other < u
                    if devices[other] != target or twice or (lots[other], source) in here:
                        continue
                    if not units.allowed[lots[other], source]:
                        continue
                    if (
                        part == 0
                        or lanes.compute_ms[lane, source] == lanes.compute_ms[lane, slowest]
                    ):
                        yield source, target, u, other, stays, goes, kinds[other]


def merit(swarm, lane, move, squarings):
    """Change of the objective, linear in its sums of powers.

    None where memory forbids the move, or a device would become slower than the slowest is.
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
    price = lanes.prices[lane].astype(np.float64)
    before = ms.copy()
    ms[source] += price[stays, source] + price[comes, source] - price[kind, source]
    ms[target] += price[goes, target] - price[met, target]
    if before[target] == 0.0:
        ms[target] = units.compute_ms[goes]
    if ms[target] > before.max() or (comes != NONE and ms[source] > before.max()):
        return None
    power = 2**squarings
    was = lanes.dims[lane]
    curve = lanes.transfers_ms[lanes.curve[lane]]
    soft = power_mean(was, power)
    around = np.interp([soft - 1, soft + 1], STEP * np.arange(len(curve)), curve)
    slope = (around[1] - around[0]) / 2
    return gain(before, np.maximum(ms, 0), power) + slope * gain(was, np.maximum(dims, 0), power)


def power_mean(values, power):
    largest = values.max()
    return largest * ((values / largest) ** power).mean() ** (1 / power)


def gain(before, after, power):
    """Of the power mean, linear in the sum of powers around what was before."""
    largest, w = before.max(), len(before)
    was, will = ((before / largest) ** power).sum(), ((after / largest) ** power).sum()
    return largest / power * (was / w) ** (1 / power) / was * (will - was)


@pytest.mark.parametrize("squarings", [1, 3, 6])
@pytest.mark.parametrize("seed", range(6))
def test_every_possible_move_is_found_with_what_it_promises(seed, squarings):
    swarm = swarm_of(seed, tables=(10, 14))
    for climbed in (0, 3):  # at first all units are whole
        swarm.climb(climbed, lambda: None)
        swarm._active = np.arange(2)
        take_slopes(swarm._lane_book, swarm._lanes, swarm._active)
        for lane, found in enumerate(promised(swarm, squarings)):
            wanted = {m[1:]: merit(swarm, lane, m, squarings) for m in reference(swarm, lane)}
            wanted = {move: ms for move, ms in wanted.items() if ms is not None}
            assert found.keys() == wanted.keys()
            assert wanted
            for move, ms in wanted.items():
                assert found[move] == pytest.approx(ms, rel=1e-3, abs=1e-4)


def test_the_best_moves_of_each_device_are_kept_best_first():
    swarm = swarm_of(1)
    take_slopes(swarm._lane_book, swarm._lanes, swarm._active)
    everything = promised(swarm, 3)[0]
    moves = Moves.empty(1, 3 * 4)
    promising(swarm._units, swarm._lanes, np.array([0]), np.array([3, 3]), 4, moves)
    devices = swarm._lanes.devices[0]
    for source in range(3):
        of_source = sorted(ms for move, ms in everything.items() if devices[move[1]] == source)
        kept = moves.merit_ms[0, 4 * source : 4 * source + 4]
        assert kept[np.isfinite(kept)].tolist() == of_source[:4]
        there = np.isfinite(kept)
        assert (moves.fields[0, 4 * source : 4 * source + 4, 0][there] == source).all()


@pytest.mark.parametrize("tight", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_what_lanes_say_of_devices_is_what_their_units_add_up_to(seed, tight):
    task = random_task(seed, tables=(8, 16), devices=4, memory_gib=64)
    roomy = scattered(book_of(task), 3, seed)
    if tight:  # no more room than the fullest device uses
        cluster = replace(task.cluster, device_memory_bytes=int(roomy.used_bytes.max()))
        task = replace(task, cluster=cluster)
    book = book_of(task)
    swarm = swarm_from(book, scattered(book, 3, seed), range(3))
    units = swarm._units
    swarm.climb(40, lambda: None)
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
    sums = np.zeros(lanes.base.shape, np.float32)
    device_sums(units, lanes, np.arange(3), sums)
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
    placed = scattered(book, 1)
    devices = placed.starts[0].kept[2]
    devices[0] = 1
    placed = type(placed)(book, placed.starts, lambda: None)
    swarm = swarm_from(book, placed, [0])
    swarm.climb(60, lambda: None)
    a = swarm.assignment(0)
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
    one_of_two, cost = objective_ms(lanes, 0, 4), cost_ms(lanes, 0)
    lanes.dims[0] = [2 * mean, mean, mean]
    assert objective_ms(lanes, 0, 4) < one_of_two
    assert cost_ms(lanes, 0) == cost


def test_a_lane_does_not_depend_on_the_others():
    book = book_of(random_task(2, tables=(10, 20), devices=4, memory_gib=64))
    placed = scattered(book, 4)
    together = swarm_from(book, placed, range(4))
    together.climb(30, lambda: None)
    for lane in range(4):
        alone = swarm_from(book, placed, [lane])
        alone.climb(30, lambda: None)
        assert alone.cost_ms[0] == together.cost_ms[lane]
        assert alone.assignment(0).to_plan() == together.assignment(lane).to_plan()


def test_without_anything_to_gain_a_swarm_stops():
    task = random_task(0, tables=(6, 7), devices=3, memory_gib=64)
    book = book_of(task)
    book.evaluator._cost_model.flat = True
    swarm = swarm_from(book, scattered(book, 2), range(2))
    steps = 0

    def count():
        nonlocal steps
        steps += 1

    swarm.climb(1000, count)
    assert steps < 50
