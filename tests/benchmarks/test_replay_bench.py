from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.benchmarks.bench_noise_floor import accuracy_lines
from tests.benchmarks.replay_report import Outcome, draw_scatter, gain_of, report_lines
from tests.benchmarks.replay_tasks import BASELINES, BATCH_SIZE, MAX_LOOKUPS, TASKS, draw_problem

from shardwright.domain import CostModelId, CostModelSource
from shardwright_costmodel.features import SHARD_COLUMNS
from shardwright_costmodel.training.measurements import Measurements

MODEL = CostModelId("hand", "v1", "my-cpu", CostModelSource.MEASURED)


def outcome(task: str, plan: str, predicted_ms: float, *round_ms: float) -> Outcome:
    measured = float(np.median(round_ms))
    return Outcome(task, plan, predicted_ms, measured, 1.0, round_ms, MODEL, 20)


def outcomes(task: str, ours_ms: float = 10.0) -> list[Outcome]:
    """Baselines at 12, 13, ... ms."""
    found = [outcome(task, "local_search", 9.0, ours_ms, ours_ms)]
    for i, name in enumerate(BASELINES):
        found.append(outcome(task, name, 11.0 + i, 12.0 + i, 12.0 + i))
    return found


def test_the_gain_is_over_the_baseline_that_was_measured_cheapest() -> None:
    gain = gain_of(outcomes("t"))
    assert gain.best == BASELINES[0] and gain.holds
    assert gain.percent == pytest.approx(20.0) and gain.noise_percent == 0.0


def test_a_loss_within_the_noise_of_the_rounds_holds() -> None:
    ours = outcome("t", "local_search", 9.0, 10.2, 10.2)
    others = [outcome("t", name, 9.0, 20.0, 20.0) for name in BASELINES[1:]]
    # in one round the baseline was slower, in the other faster
    noisy = gain_of([ours, *others, outcome("t", BASELINES[0], 9.0, 9.5, 10.5)])
    assert noisy.percent < 0 and noisy.holds
    steady = gain_of([ours, *others, outcome("t", BASELINES[0], 9.0, 10.0, 10.0)])
    assert steady.percent < 0 and not steady.holds


def test_the_report_says_what_does_not_hold(tmp_path: Path) -> None:
    found = [o for task in TASKS for o in outcomes(task.name)]
    lines = report_lines(found, "picture.png")
    musts = [line for line in lines if line.startswith(("| Kendall", "| chosen plan"))]
    assert [line.rstrip(" |").rsplit(" ", 1)[1] for line in musts] == ["yes", "yes"]
    worse = [o for task in TASKS for o in outcomes(task.name, ours_ms=14.5)]
    musts = [line for line in report_lines(worse, "p") if line.startswith("| chosen plan")]
    assert musts[0].endswith("| 0 of 5 | NO |")
    draw_scatter(found, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_replay_tasks_are_bounded_and_the_same_every_time() -> None:
    for task in TASKS:
        problem = draw_problem(task, "my-cpu", 2)
        assert problem == draw_problem(task, "my-cpu", 2)
        assert len(problem.tables) == task.num_tables
        lookups = sum(table.pooling_factor for table in problem.tables) * BATCH_SIZE
        assert lookups <= MAX_LOOKUPS * (1 + 1e-9)
        assert problem.total_bytes < 2 * problem.cluster.device_memory_bytes


def test_the_floor_is_what_one_measurement_is_off_from_the_other() -> None:
    features = np.ones((4, len(SHARD_COLUMNS)), dtype=np.float32)
    times = np.array([[1.0, 3.0], [2.0, 6.0], [4.0, 8.0], [5.0, 9.0]])

    def measured(factor: float) -> Measurements:
        return Measurements(features, np.ones(4, dtype=np.int64), (times * factor).astype("f4"))

    lines = accuracy_lines(measured(1.0), measured(1.04), {"ours": times * 1.05})
    assert lines[0].startswith("Compute error over noise floor: 1.25, ") and "holds" in lines[0]
    lines = accuracy_lines(measured(1.0), measured(1.02), {"ours": times * 1.05})
    assert "2.50" in lines[0] and "does NOT hold" in lines[0]
