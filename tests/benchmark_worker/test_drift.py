"""A device that is throttled or shared is noticed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from shardwright_benchmark_worker.errors import OptionError
from shardwright_benchmark_worker.measure.compute import ComputeBench
from shardwright_benchmark_worker.measure.drift import MAX_ATTEMPTS, DriftMonitor
from shardwright_benchmark_worker.measure.noise import Repetitions

from .test_measure_compute import one_table


class Clocked:
    """A reference kernel whose speed the test sets."""

    def __init__(self) -> None:
        self.slowdown = 1.0
        self.bursts = 0
        self.interrupted: set[int] = set()

    def __call__(self) -> float:
        self.bursts += 1
        return 4.0 * self.slowdown * (5.0 if self.bursts in self.interrupted else 1.0)


def test_a_steady_device_does_not_drift() -> None:
    monitor = DriftMonitor(Clocked(), 10.0)
    assert monitor.percent() == 0.0 and not monitor.exceeds(monitor.percent())


@pytest.mark.parametrize(("slowdown", "percent"), [(1.5, 50.0), (0.8, -20.0), (1.05, 5.0)])
def test_drift_is_relative_to_the_start(slowdown: float, percent: float) -> None:
    kernel = Clocked()
    monitor = DriftMonitor(kernel, 10.0)
    kernel.slowdown = slowdown
    assert monitor.percent() == pytest.approx(percent)
    assert monitor.exceeds(percent) == (abs(percent) > 10.0)


def test_one_interrupt_is_no_drift() -> None:
    kernel = Clocked()
    kernel.interrupted = {2, 23}
    monitor = DriftMonitor(kernel, 10.0)
    assert monitor.start_ms == 4.0
    kernel.interrupted.add(kernel.bursts + 1)
    assert monitor.percent() == 0.0


def test_a_lasting_disturbance_is_told_once_and_not_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kernel = Clocked()
    monitor = DriftMonitor(kernel, 10.0)
    assert monitor.attempts() == MAX_ATTEMPTS
    for index in range(3):
        assert monitor.conclude(index, 80.0)
        assert monitor.attempts() == 1
    assert not monitor.conclude(3, 1.0)
    assert monitor.attempts() == MAX_ATTEMPTS
    first, last = (record.getMessage() for record in caplog.records)
    assert "sample 0" in first and "+80 %" in first and "throttled or shared" in first
    assert "sample 3" in last and "as fast as at the start again" in last


@pytest.mark.parametrize("threshold", [0.0, -1.0, 2000.0, float("nan")])
def test_the_threshold_is_checked(threshold: float) -> None:
    with pytest.raises(OptionError, match="--max-drift-percent must be above 0"):
        DriftMonitor(Clocked(), threshold)


def bench_with(kernel: Clocked) -> ComputeBench:
    bench = ComputeBench("cpu", Repetitions(warmup=0, minimum=2, maximum=2))
    bench._drift = DriftMonitor(kernel, 10.0)
    return bench


def test_a_row_measured_during_a_short_disturbance_is_measured_again() -> None:
    kernel = Clocked()
    bench = bench_with(kernel)
    # the bursts after the first attempt are slow, all later ones are not
    kernel.interrupted = {kernel.bursts + i for i in (2, 3, 4)}
    (row,) = bench.rows(lambda _: one_table(), range(1))
    # an attempt lies between two looks, so the one after the disturbance is tainted too
    assert row["drift_percent"] == 0.0
    assert bench.summary()["drifted_share"] == "0.000000" and bench.summary()["rows"] == "1"


def test_a_row_measured_on_a_throttled_device_is_flagged() -> None:
    kernel = Clocked()
    bench = bench_with(kernel)
    rows = bench.rows(lambda _: one_table(), range(3))
    assert next(rows)["drift_percent"] == 0.0
    kernel.slowdown = 2.0
    assert next(rows)["drift_percent"] == pytest.approx(100.0)
    assert next(rows)["drift_percent"] == pytest.approx(100.0)
    assert bench.summary()["drifted"] == "2" and bench.summary()["drifted_share"] == "0.666667"


def test_real_processes_on_the_same_processor_are_noticed() -> None:
    allowed, threads = os.sched_getaffinity(0), torch.get_num_threads()
    processor = min(allowed)
    os.sched_setaffinity(0, {processor})
    torch.set_num_threads(1)
    try:
        bench = ComputeBench("cpu", Repetitions(warmup=0, minimum=2, maximum=2))
        with busy(processor, processes=4):
            (row,) = bench.rows(lambda _: one_table(), range(1))
    finally:
        os.sched_setaffinity(0, allowed)
        torch.set_num_threads(threads)
    assert row["drift_percent"] > 10.0
    assert bench.summary()["drifted"] == "1"


@contextmanager
def busy(processor: int, processes: int) -> Iterator[None]:
    """Processes that compute on one processor and do nothing else."""
    spin = f"import os; os.sched_setaffinity(0, {{{processor}}}); print(flush=True)\nwhile 1: pass"
    running = [
        subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE)
        for _ in range(processes)
    ]
    try:
        for process in running:
            assert process.stdout is not None
            process.stdout.readline()
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
