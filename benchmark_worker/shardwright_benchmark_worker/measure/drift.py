"""Tells whether the device is still as fast as it was: throttled, or shared with somebody.

A fixed fused operator is timed when measuring begins and again around every sample. A burst of
runs is timed as a whole: a process that shares the processor takes whole time slices, which a
median over single short runs would miss. One burst may be hit by an interrupt, so a suspicious one
is repeated and the middle of three counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from shardwright.domain import Optimizer, WeightDtype
from shardwright_benchmark_worker.errors import OptionError
from shardwright_benchmark_worker.measure.device import Device
from shardwright_benchmark_worker.measure.fused_operator import build_operator
from shardwright_benchmark_worker.measure.lookups import draw_lookups
from shardwright_benchmark_worker.progress import logger
from shardwright_benchmark_worker.sampling import ComputeSample
from shardwright_benchmark_worker.sampling.reuse import uniform_histogram

_TABLES, _DIM = 4, 64
_ROWS_BATCH_POOLING = {"cpu": (2000, 512, 8.0), "cuda": (200_000, 65_536, 20.0)}
"""Of each table: in reach of a core's own caches, which other machines on a cloud host do not
disturb; beyond a GPU's L2 cache. About 0.3 ms on one core, and half a millisecond on a GPU."""
_WARMUP_RUNS, _RUNS_IN_BURST = 5, 30
"""A burst outlasts the time slices of a scheduler, some 3 ms."""
_BURSTS_AT_START = 15
MAX_ATTEMPTS = 3
"""How often a sample is measured when the device drifts, before it is flagged."""


class DriftMonitor:
    """Compares the reference kernel with its time at the start.

    Args:
        burst_ms: Times one burst of the reference kernel.
        threshold_percent: Beyond it, in either direction, a row is flagged: a device that has
            become faster was disturbed at the start.
        warns: Whether the log says when a disturbance begins and ends.

    Raises:
        OptionError: When the threshold is out of range.
    """

    def __init__(
        self, burst_ms: Callable[[], float], threshold_percent: float, warns: bool = True
    ) -> None:
        if not 0.0 < threshold_percent <= 1000.0:
            raise OptionError(
                f"--max-drift-percent must be above 0 and at most 1000, got {threshold_percent:g}"
            )
        self.threshold_percent = threshold_percent
        self._burst_ms = burst_ms
        self._warns = warns
        for _ in range(_BURSTS_AT_START):
            burst_ms()
        self.start_ms = statistics.median(burst_ms() for _ in range(_BURSTS_AT_START))
        self._lasting = False

    def percent(self) -> float:
        """How much slower than at the start the reference kernel runs now."""
        drift = self._once()
        if not self.exceeds(drift):
            return drift
        return statistics.median((drift, self._once(), self._once()))

    def exceeds(self, drift_percent: float) -> bool:
        """Whether a row with this drift is flagged."""
        return abs(drift_percent) > self.threshold_percent

    def attempts(self) -> int:
        """How often a sample may be measured: once while a disturbance outlasts repeating."""
        return 1 if self._lasting else MAX_ATTEMPTS

    def conclude(self, index: int, drift_percent: float) -> bool:
        """Notes the drift of a sample that is not measured again; returns whether it is flagged."""
        flagged = self.exceeds(drift_percent)
        if flagged and not self._lasting and self._warns:
            logger.warning(
                "sample %d: the reference kernel took %+.0f %% of its time at the start: the "
                "device is throttled or shared; rows are flagged by drift_percent until this ends",
                index,
                drift_percent,
            )
        elif self._lasting and not flagged and self._warns:
            logger.warning("sample %d: the device is as fast as at the start again", index)
        self._lasting = flagged
        return flagged

    def _once(self) -> float:
        return 100.0 * (self._burst_ms() / self.start_ms - 1.0)


def reference_burst(device: Device) -> Callable[[], float]:
    """Times one burst of the reference kernel, ms: a forward pass of four tables, seed 0."""
    rows, batch, pooling = _ROWS_BATCH_POOLING[device.name]
    sample = ComputeSample(
        index=0,
        global_batch_size=batch,
        optimizer=Optimizer.SGD,
        weight_dtype=WeightDtype.FP32,
        num_embeddings=np.full(_TABLES, rows),
        embedding_dim=np.full(_TABLES, _DIM),
        pooling_factor=np.full(_TABLES, pooling),
        reuse_histogram=np.tile(uniform_histogram(rows, pooling * batch), (_TABLES, 1)),
    )
    lookups = draw_lookups(sample, np.random.default_rng(0), device.torch_device)
    operator = build_operator(sample, device)
    forward = partial(operator, lookups.indices, lookups.offsets)

    def run(times: int) -> None:
        with torch.no_grad():
            for _ in range(times):
                forward()

    def burst_ms() -> float:
        # the sample before has left its own rows in the caches
        run(_WARMUP_RUNS)
        return device.timed_ms(partial(run, _RUNS_IN_BURST))[1]

    return burst_ms
