"""Annealing on a surrogate: `annealing`, `surrogate`."""

import math
from dataclasses import replace

import numpy as np
import pytest
from tests.server.search.problems import random_task
from tests.server.search.test_swarm import EVERYTHING, book_of, climbed, scattered

from shardwright.domain import TableConstraints, check_constraints, check_plan
from shardwright_server.search.annealing import Annealer, _State, _sums_of, _walk
from shardwright_server.search.lane_book import LaneBook
from shardwright_server.search.lanes import NONE, Slots
from shardwright_server.search.objective import SHARP, costs_ms
from shardwright_server.search.surrogate import Fitter, Surrogate


def heat_ms(rows):
    """Like the backward pass on a GPU: what is hot together counts little more than once."""
    work, hot, third = rows.astype(np.float64).T
    return 0.1 + np.sqrt(work**2 + np.sqrt(np.maximum(hot, 0.0))) + 0.3 * third


def devices_like(count, seed):
    rng = np.random.default_rng(seed)
    hot = rng.choice([0.1, 5.0, 40.0, 80.0], size=count)
    work = 5.0 - 0.03 * np.sqrt(hot) + 0.05 * rng.normal(size=count)
    return np.stack([work, hot, rng.uniform(0.5, 0.6, count)], axis=1).astype(np.float32)


def predicted_ms(surrogate, rows):
    """By the definition in the module."""
    z = rows @ surrogate.directions - surrogate.middle
    points = surrogate.begin + surrogate.step * np.arange(len(surrogate.curve))
    curve = np.interp(z[:, 0], points, surrogate.curve)
    return rows @ surrogate.rates + curve + np.einsum("ni,ij,nj->n", z, surrogate.bends, z)


def fitted(rows, predict_ms=heat_ms):
    fitter = Fitter(predict_ms, np.random.default_rng(0))
    fitter.add(rows, 1.0)
    return fitter.fit()


def test_a_surrogate_predicts_devices_it_has_not_seen_far_better_than_a_sum():
    surrogate = fitted(devices_like(1000, seed=0))
    rows = devices_like(300, seed=1)
    wanted = heat_ms(rows)
    terms = np.column_stack([np.ones(300), rows])
    straight = terms @ np.linalg.lstsq(terms, wanted, rcond=None)[0]
    missed = np.std(predicted_ms(surrogate, rows) - wanted)
    assert missed < 0.1 * np.std(straight - wanted)
    assert missed < 2e-3 * wanted.mean()


def test_the_curve_lies_along_what_bends():
    directions = fitted(devices_like(1000, seed=0)).directions
    spread = devices_like(1000, seed=0).std(axis=0)
    first = np.abs(directions[:, 0] * spread)
    assert first.argmax() == 1


def test_no_surrogate_of_too_few_or_equal_devices():
    assert fitted(devices_like(50, seed=0)) is None
    assert fitted(np.repeat(devices_like(1, seed=0), 500, axis=0)) is None


def test_a_model_of_one_channel_has_a_surrogate():
    rows = np.linspace(9.0, 10.0, 500, dtype=np.float32)[:, None]
    surrogate = fitted(rows, lambda x: np.sqrt(x[:, 0].astype(np.float64)))
    assert predicted_ms(surrogate, rows) == pytest.approx(np.sqrt(rows[:, 0]), rel=3e-4)


def power_mean(values, power):
    return values.max() * ((values / values.max()) ** power).mean() ** (1 / power)


def lanes_of(task, seed=0):
    """After a few steps of a climb: of devices that are far from level there is no surrogate."""
    book = book_of(task)
    return LaneBook(book), climbed(book, scattered(book, 1, seed), most_steps=4).best


def annealed(lane_book, lanes, num_moves=20_000, seed=0):
    return Annealer(lane_book, seed).anneal(lanes, num_moves, lambda: None)


def roomy(seed, devices=4):
    return random_task(seed, tables=(40, 60), devices=devices, memory_gib=64)


@pytest.mark.parametrize("seed", range(4))
def test_annealing_makes_plans_cheaper_and_moves_units_only(seed):
    lane_book, lanes = lanes_of(roomy(seed))
    slots = annealed(lane_book, lanes)
    assert (slots.lots == lanes.lots).all() and (slots.kinds == lanes.kinds).all()
    assert ((slots.devices == NONE) == (lanes.devices == NONE)).all()
    after = lane_book.lanes(slots)
    assert costs_ms(after)[0] < costs_ms(lanes)[0]
    check_plan(lane_book.assignment(slots, 0).to_plan(), lane_book.book.evaluator.problem)


def test_the_same_seed_gives_the_same_and_another_another():
    lane_book, lanes = lanes_of(roomy(0))
    first = annealed(lane_book, lanes).devices
    assert (annealed(lane_book, lanes).devices == first).all()
    assert (annealed(lane_book, lanes, seed=1).devices != first).any()


@pytest.mark.parametrize("seed", range(4))
def test_annealing_keeps_to_memory(seed):
    task = roomy(seed)
    lane_book, lanes = lanes_of(task, seed)
    most_bytes = int(lanes.used_bytes.max())
    task = replace(task, cluster=replace(task.cluster, device_memory_bytes=most_bytes))
    lane_book = LaneBook(book_of(task))
    slots = annealed(lane_book, lane_book.lanes(Slots.of(lanes)))
    assert (slots.devices != lanes.devices).any()
    assert lane_book.lanes(slots).used_bytes.max() <= most_bytes


def test_annealing_keeps_to_allowed_devices_and_one_unit_of_a_lot_to_each():
    task = roomy(1)
    not_there = TableConstraints(excluded_devices=(0, 1))
    kept_off = tuple(replace(t, constraints=not_there) for t in task.tables[::2])
    task = replace(task, tables=kept_off + task.tables[1::2])
    book = book_of(task)
    slots = scattered(book, 1)
    slots.devices[0, : len(kept_off)] = np.arange(len(kept_off)) % 2 + 2
    lane_book, lanes = LaneBook(book), climbed(book, slots, most_steps=8).best
    found = annealed(lane_book, lanes)
    assert (found.devices != lanes.devices).any()
    plan = lane_book.assignment(found, 0).to_plan()
    check_plan(plan, task)
    check_constraints(plan, task, EVERYTHING)


def test_sums_on_the_way_are_those_of_the_end():
    lane_book, lanes = lanes_of(roomy(2))
    units, held = lane_book.units, np.flatnonzero(lanes.devices[0] != NONE)
    encodings = units.encodings[lanes.kinds[0, held]]
    surrogate = Surrogate(
        rates=np.array([0.02, 1.0, 1.0]),
        directions=np.eye(3),
        middle=np.array([1.0, 2.0, 3.0]),
        curve=np.linspace(0.0, 5.0, 200) ** 0.5,
        begin=-5.0,
        step=0.5,
        bends=np.full((3, 3), 1e-3),
    )
    sums = _sums_of(lanes.base[0], encodings, lanes.devices[0, held])
    state = _State.of(units, lanes, held).priced(sums, encodings, surrogate)
    before = state.devices.copy()
    _walk(units, lanes, state, surrogate, SHARP, 1e-2, 5000, np.random.default_rng(0))
    assert (state.devices != before).sum() > 20
    slots = annealed(lane_book, lanes, num_moves=0)
    slots.devices[0, held] = state.devices
    after = lane_book.lanes(slots)
    assert (state.dims == after.dims[0]).all()
    assert (state.used_bytes == after.used_bytes[0]).all()
    assert (state.closed == after.closed[0]).all()
    again = state.priced(lane_book.sums(after)[0], encodings, surrogate)
    assert state.straight_ms == pytest.approx(again.straight_ms, rel=1e-4)
    assert state.sums_along == pytest.approx(again.sums_along, rel=1e-3, abs=1e-3)


def test_at_no_heat_no_move_is_for_the_worse():
    lane_book, lanes = lanes_of(roomy(3))
    units, held = lane_book.units, np.flatnonzero(lanes.devices[0] != NONE)
    encodings = units.encodings[lanes.kinds[0, held]]
    flat = Surrogate(
        np.array([0.02, 1.0, 1.0]), np.zeros((3, 3)), np.zeros(3), np.zeros(2), 0.0, 1.0,
        np.zeros((3, 3)),
    )  # fmt: skip
    sums = _sums_of(lanes.base[0], encodings, lanes.devices[0, held])
    state = _State.of(units, lanes, held).priced(sums, encodings, flat)
    state = state._replace(columns=np.zeros_like(state.columns))  # computation alone counts
    soft_ms = [power_mean(state.straight_ms, 2.0**SHARP)]
    for number in range(20):
        _walk(units, lanes, state, flat, SHARP, 1e-12, 500, np.random.default_rng(number))
        soft_ms.append(power_mean(state.straight_ms, 2.0**SHARP))
    assert (np.diff(soft_ms) <= 1e-9).all()
    assert soft_ms[-1] < soft_ms[0]


def test_one_device_and_no_units_are_left_as_they_are():
    lane_book, lanes = lanes_of(roomy(0, devices=1))
    assert (annealed(lane_book, lanes).devices == lanes.devices).all()
    nothing = scattered(lane_book.book, 1)
    nothing.devices[:] = NONE
    found = annealed(lane_book, lane_book.lanes(nothing))
    assert (found.devices == NONE).all()


def test_it_stops_when_time_is_out():
    lane_book, lanes = lanes_of(roomy(0))
    calls = 0

    class OutError(Exception):
        pass

    def check():
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OutError

    with pytest.raises(OutError):
        Annealer(lane_book, 0).anneal(lanes, 10**9, check)
    assert math.isfinite(costs_ms(lanes)[0])
