from __future__ import annotations

import math

import numpy as np
import pytest

from shardwright_benchmark_worker.replay.files import PlannedJob
from shardwright_benchmark_worker.replay.iteration import STAMPS
from shardwright_benchmark_worker.replay.measured import MeasuredPlan, kendall_tau, summarize

from .replay_files import MIXED_SHARDS, make_problem, make_result

PLANNED = PlannedJob("p", make_problem(), make_result(MIXED_SHARDS), {})


def stamps(*iterations: list[dict[str, float]]) -> np.ndarray:  # type: ignore[type-arg]
    """Of iterations, each a list of one dict per rank; what is left out is 0."""
    rows = [[[rank.get(name, 0.0) for name in STAMPS] for rank in it] for it in iterations]
    return np.moveaxis(np.array(rows), 1, 0)


def test_an_iteration_is_taken_apart_as_costs_are_defined() -> None:
    early = {
        "forward": 2.0,
        "backward": 3.0,
        # waits 4 ms for the other one to enter, then 1 ms of transfer
        "forward_start": 10.0,
        "forward_exchange": 5.0,
        "backward_start": 20.0,
        "backward_exchange": 0.5,
    }
    late = {
        "forward": 6.0,
        "backward": 3.5,
        "step": 0.5,
        "forward_start": 14.0,
        "forward_exchange": 1.5,
        # enters first, waits 0.25 ms for the other
        "backward_start": 19.75,
        "backward_exchange": 1.0,
        "reduce_start": 30.0,
        "reduce": 0.25,
    }
    early["reduce_start"], early["reduce"] = 29.0, 1.25
    plan = summarize(PLANNED, [stamps([early, late])])
    a, b = plan.devices
    assert (a.compute_ms, b.compute_ms) == (5.0, 10.0)
    assert (a.forward_comm_ms, b.forward_comm_ms) == (1.0, 1.5)
    assert (a.backward_comm_ms, b.backward_comm_ms) == (0.5 + 0.25, 0.75 + 0.25)
    assert (a.wait_ms, b.wait_ms) == (11.0 - 5.75, 0.0)
    assert (a.total_ms, b.total_ms) == (6.75, 12.5)
    assert (a.iteration_ms, b.iteration_ms) == (12.0, 12.5)
    assert plan.slowest == b and plan.cost_ms == 12.5


def test_a_transfer_is_never_negative() -> None:
    # done before the last one came: it had nothing to get from it
    early = {"forward_start": 0.0, "forward_exchange": 1.0}
    late = {"forward_start": 3.0, "forward_exchange": 0.5}
    a, b = summarize(PLANNED, [stamps([early, late])]).devices
    assert (a.forward_comm_ms, b.forward_comm_ms) == (0.0, 0.5)


def run_of(*costs_ms: float) -> np.ndarray:  # type: ignore[type-arg]
    return stamps(*[[{"forward": cost}, {"forward": cost / 2}] for cost in costs_ms])


def test_noise_is_the_spread_of_the_rounds() -> None:
    plan: MeasuredPlan = summarize(PLANNED, [run_of(9.0, 9.0, 9.0), run_of(11.0, 11.0, 50.0)])
    assert plan.iterations == 6 and plan.round_cost_ms == (9.0, 11.0)
    assert plan.cost_ms == 10.0
    assert plan.noise_percent == pytest.approx(10.0)


def test_noise_of_one_round_is_the_interval_of_its_median() -> None:
    quiet = summarize(PLANNED, [run_of(*[10.0] * 20)])
    loud = summarize(PLANNED, [run_of(*[9.0, 11.0] * 10)])
    assert quiet.noise_percent == 0.0 and loud.noise_percent == pytest.approx(10.0)


def test_kendall_tau_counts_pairs() -> None:
    assert kendall_tau([1, 2, 3, 4], [10, 20, 30, 40]) == 1.0
    assert kendall_tau([1, 2, 3, 4], [4, 3, 2, 1]) == -1.0
    # 5 of 6 pairs agree, 1 does not
    assert kendall_tau([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)
    # tau-b: 2 pairs agree, 1 is tied on one side
    assert kendall_tau([1, 2, 3], [1, 1, 2]) == pytest.approx(2 / math.sqrt(3 * 2))
    assert math.isnan(kendall_tau([1, 1], [1, 2]))
