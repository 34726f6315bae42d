"""How often a sample is timed."""

from __future__ import annotations

import math
from itertools import count

import numpy as np
import pytest

from shardwright_benchmark_worker.errors import OptionError
from shardwright_benchmark_worker.measure.noise import Repetitions, median_ci_percent, repeat

PATIENT = Repetitions(max_seconds=86_400.0)


@pytest.mark.parametrize(
    ("number", "rank"),
    # tables of the sign test: the largest k with 2 P(Binomial(n, 1/2) < k) <= 5 %
    [(6, 1), (8, 1), (9, 2), (12, 3), (17, 5), (25, 8), (50, 18), (100, 40), (10_000, 4902)],
)
def test_the_interval_is_that_of_order_statistics(number: int, rank: int) -> None:
    times = np.random.default_rng(number).permutation(np.arange(1.0, number + 1))
    low, high = rank, number + 1 - rank
    expected = 100 * (high - low) / 2 / ((number + 1) / 2)
    assert median_ci_percent(times) == pytest.approx(expected)


def test_five_times_have_no_interval() -> None:
    assert math.isinf(median_ci_percent([1.0] * 5)) and median_ci_percent([1.0] * 6) == 0.0


@pytest.mark.parametrize("number", [11, 17, 100])
def test_the_interval_holds_the_median_of_any_distribution(number: int) -> None:
    rng = np.random.default_rng(0)
    times = 1.0 + rng.exponential(1.0, (4000, number))
    ordered = np.sort(times, axis=1)
    rank = {11: 2, 17: 5, 100: 40}[number]
    median = 1.0 + math.log(2)
    held = (ordered[:, rank - 1] <= median) & (median <= ordered[:, -rank])
    assert 0.945 < held.mean() < 0.995
    width = 50 * (ordered[:, -rank] - ordered[:, rank - 1]) / np.median(times, axis=1)
    assert np.allclose([median_ci_percent(row) for row in times[:50]], width[:50])


def test_quiet_times_end_with_the_minimum() -> None:
    ticks = count()
    times = repeat(lambda: (1.0 + 0.001 * (next(ticks) % 3), 2.0), Repetitions(2, 11))
    assert times.shape == (11, 2) and next(ticks) == 13


def test_the_noisier_series_decides() -> None:
    rng = np.random.default_rng(0)
    times = repeat(lambda: (5.0, float(np.exp(rng.normal(0, 0.03)))), PATIENT)
    assert 11 < len(times) < 100
    assert median_ci_percent(times[:, 1]) <= 2.0


def test_hopeless_noise_ends_at_the_maximum() -> None:
    rng = np.random.default_rng(0)
    times = repeat(lambda: (float(np.exp(rng.normal(0, 1.0))),), Repetitions(0, 5, 37))
    assert len(times) == 37 and median_ci_percent(times[:, 0]) > 2.0


def test_the_minimum_is_never_undercut() -> None:
    times = repeat(lambda: (1.0,), Repetitions(0, 20, 10, max_seconds=0.0))
    assert len(times) == 20


def test_time_ends_the_runs_and_is_not_overdrawn() -> None:
    repetitions = Repetitions(minimum=10, maximum=1000, max_seconds=5.0)
    # 0.3 s each: 16 runs are affordable
    assert repetitions.still_wanted(10, 50.0, 3.0) == 5
    assert repetitions.still_wanted(15, 50.0, 4.5) == 1
    assert repetitions.still_wanted(16, 50.0, 4.8) == 0


def test_processes_of_a_job_stop_together() -> None:
    # this one's own interval would do at once; another's holds it up twice
    answers = iter([(9.0, 0.1), (9.0, 0.2), (1.0, 0.3)])
    times = repeat(lambda: (1.0,), Repetitions(0, 10), lambda ci, s: next(answers))
    assert len(times) == 23


def test_where_runs_ended_early_the_median_is_still_right() -> None:
    # looking again and again finds lucky intervals; looked at rarely, they stay rare
    rng = np.random.default_rng(0)
    held, ended = 0, 0
    for _ in range(1000):
        times = repeat(lambda: (float(np.exp(rng.normal(0, 0.04))),), PATIENT)[:, 0]
        if median_ci_percent(times) <= 2.0:
            ended += 1
            ordered = np.sort(times)
            rank = next(
                k
                for k in range(len(times), 0, -1)
                if 2 * sum(math.comb(len(times), i) for i in range(k)) / 2 ** len(times) <= 0.05
            )
            held += ordered[rank - 1] <= 1.0 <= ordered[-rank]
    assert ended > 900 and held / ended > 0.90


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ({"warmup": -1}, "--warmup"),
        ({"minimum": 0}, "--repetitions"),
        ({"maximum": 0}, "--max-repetitions"),
        ({"target_ci_percent": math.nan}, "--target-ci-percent"),
        ({"max_seconds": -1.0}, "--max-sample-seconds"),
    ],
)
def test_options_are_checked(values: dict[str, float], option: str) -> None:
    with pytest.raises(OptionError, match=f"{option} must be in"):
        Repetitions(**values)  # type: ignore[arg-type]
