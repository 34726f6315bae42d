"""Greedy grid placement in lockstep, `shardwright_server.search.placement`."""

import numpy as np
import pytest
from tests.server.search.fake_cost_model import FakeCostModel
from tests.server.search.problems import problem, random_task, table

from shardwright_server.search.cost import Layout, PlanEvaluator
from shardwright_server.search.placement import NOTHING, dim_caps, place

MIB = 2**20


def place_tables(task, caps, model=None, on_step=lambda: None):
    """Places the whole tables; returns the evaluator and the placements of the one state."""
    evaluator = PlanEvaluator(task, model or FakeCostModel())
    states = np.array([evaluator.catalog.whole_tables()])
    return evaluator, place(evaluator, states, caps, on_step)


@pytest.mark.parametrize(
    ("total_dim", "devices", "steps", "caps"),
    [
        (400, 4, 11, [100, 105, 110, 115, 120, 125, 130, 135, 140, 145, 150]),
        (400, 4, 2, [100, 150]),
        (400, 4, 1, [100]),
        (16, 4, 11, [4, 5, 6]),  # equal caps once
        (4, 128, 11, [0]),
    ],
)
def test_caps_are_1_to_one_and_a_half_times_the_mean_rounded_down(total_dim, devices, steps, caps):
    assert dim_caps(total_dim, devices, steps) == caps


def test_the_dearest_table_goes_first_and_ties_go_to_the_first_table_and_device():
    tables = [table("a", pooling=1), table("b", pooling=9), table("c", pooling=9)]
    _, placements = place_tables(problem(tables, devices=3), caps=[64])
    assert placements.devices.tolist() == [[2, 0, 1]]


def test_a_piece_goes_where_computation_is_cheapest_with_it():
    tables = [table(f"t{i}", pooling=p) for i, p in enumerate([100, 60, 30, 20])]
    _, placements = place_tables(problem(tables, devices=2), caps=[999])
    # 100 | 60, then 30 and 20 join the 60
    assert placements.devices.tolist() == [[0, 1, 1, 1]]


def test_memory_diverts_a_piece():
    tables = [table("a", rows=3 * MIB // 256, pooling=9), table("b", rows=MIB // 256)]
    tables += [table("c", rows=MIB // 256, pooling=0.5)]
    task = problem(tables, devices=2, memory_bytes=MIB, device_memory_overrides=((1, 4 * MIB),))
    _, placements = place_tables(task, caps=[999])
    assert placements.devices.tolist() == [[1, 0, 1]]


def test_reserved_memory_is_not_filled():
    task = problem(
        [table(rows=MIB // 256)], devices=1, memory_bytes=2 * MIB, reserved_memory_bytes=MIB + 1
    )
    evaluator, placements = place_tables(task, caps=[999])
    assert placements.cost_ms.tolist() == [np.inf]
    assert placements.misfits.tolist() == evaluator.catalog.whole_tables()


def test_the_cap_on_dims_diverts_a_piece():
    tables = [table("dear", dim=8, pooling=500), *(table(f"t{i}", dim=64) for i in range(2))]
    task = problem(tables, devices=2)
    _, capped = place_tables(task, caps=[72])
    _, free = place_tables(task, caps=[136])
    assert sorted(capped.devices[0].tolist()) in ([0, 0, 1], [0, 1, 1])
    assert free.devices.tolist() == [[0, 1, 1]]


def test_the_cheapest_cap_wins():
    task = random_task(7, tables=(30, 31))
    caps = dim_caps(sum(t.embedding_dim for t in task.tables), 4, 11)
    _, together = place_tables(task, caps)
    alone = [place_tables(task, [cap])[1] for cap in caps]
    costs = [float(placements.cost_ms[0]) for placements in alone]
    assert len(set(costs)) > 2
    best = costs.index(min(costs))
    assert together.cost_ms.tolist() == [costs[best]]
    assert together.devices.tolist() == alone[best].devices.tolist()


def test_a_state_does_not_depend_on_the_states_placed_beside_it():
    task = random_task(8, tables=(20, 21))
    evaluator = PlanEvaluator(task, FakeCostModel())
    tables = np.array(evaluator.catalog.whole_tables())
    caps = [900, 1000, 1100]
    states = np.stack([np.roll(tables, i) for i in range(7)])
    together = place(evaluator, states, caps, lambda: None)
    for i, state in enumerate(states):
        alone = place(evaluator, state[None], caps, lambda: None)
        assert together.cost_ms[i] == alone.cost_ms[0]
        assert together.devices[i].tolist() == alone.devices[0].tolist()


def test_what_devices_hold_alike_is_predicted_once_for_all_lanes():
    class Recorder(FakeCostModel):
        batches = []

        def compute_ms(self, encodings):
            self.batches.append(encodings.copy())
            return super().compute_ms(encodings)

    task = random_task(8, tables=(30, 31))
    evaluator = PlanEvaluator(task, Recorder())
    tables = np.array(evaluator.catalog.whole_tables())
    caps = dim_caps(sum(t.embedding_dim for t in task.tables), 4, 11)
    Recorder.batches.clear()
    placed = place(evaluator, np.stack([tables] * 3), caps, lambda: None)
    assert np.isfinite(placed.cost_ms).all()
    for batch in Recorder.batches:
        assert len(np.unique(batch, axis=0)) == len(batch)
    # of four devices in each lane and step, most are like another
    assert sum(map(len, Recorder.batches)) < 3 * len(caps) * len(tables)


def test_the_cost_of_a_placement_is_the_cost_of_its_plan():
    task = random_task(9, tables=(30, 31))
    evaluator, placements = place_tables(task, caps=[9999])
    layout = Layout(np.array(evaluator.catalog.whole_tables()), placements.devices[0])
    # encodings are summed in another order: equal but for rounding
    assert evaluator.layout_costs([layout]).cost_ms[0] == pytest.approx(
        placements.cost_ms[0], rel=1e-5
    )


def test_a_feasible_lane_leaves_no_misfit():
    _, placements = place_tables(random_task(9), caps=[9999])
    assert placements.misfits.tolist() == [NOTHING]


def test_the_budget_is_asked_before_every_step():
    steps = []
    place_tables(random_task(1, tables=(20, 21)), caps=[9999], on_step=lambda: steps.append(1))
    assert len(steps) == 20
