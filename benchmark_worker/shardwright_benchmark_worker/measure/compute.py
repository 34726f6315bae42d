"""Times fused embedding bags: fbgemm's table-batched embedding, forward and backward apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from shardwright_benchmark_worker.errors import DeviceError
from shardwright_benchmark_worker.measure import host
from shardwright_benchmark_worker.measure.device import open_device
from shardwright_benchmark_worker.measure.drift import DriftMonitor, reference_burst
from shardwright_benchmark_worker.measure.fused_operator import HostArena, build_operator
from shardwright_benchmark_worker.measure.lookups import draw_lookups
from shardwright_benchmark_worker.measure.noise import Repetitions, repeat
from shardwright_benchmark_worker.measure.placement import Placement
from shardwright_benchmark_worker.measure.tally import Tally
from shardwright_benchmark_worker.progress import logger
from shardwright_benchmark_worker.rows import Quantiles, compute_row, infeasible_row
from shardwright_benchmark_worker.sampling import ComputeLimits, ComputeSample

_LOOKUP_STREAM = 3
_CPU_MAX_LOOKUPS = 2_000_000
_CPU_MAX_MEMORY_BYTES = 2**30
"""Larger tables take longer to set up than to measure, and drive others out of memory."""
_MEMORY_SHARE = 0.5
"""Of the free memory: lookups, outputs, gradients and fbgemm's own buffers need room too."""


@dataclass(frozen=True)
class _Times:
    """Of one sample: `[n, 2] float64`, forward and backward ms, and the drift around them."""

    ms: npt.NDArray[np.float64]
    drift_percent: float


class ComputeBench:
    """Measures fused operators on one device.

    Args:
        device: `cpu` or `cuda`.
        repetitions: How often each sample is timed.
        placement: Where weights live.
        max_drift_percent: Of the reference kernel; a row beyond it is measured again, then flagged.

    Raises:
        DeviceError: When this machine does not have the device, or the device not the placement.
        OptionError: When the threshold is out of range.
    """

    def __init__(
        self,
        device: str,
        repetitions: Repetitions,
        placement: Placement = Placement.DEVICE,
        max_drift_percent: float = 15.0,
    ) -> None:
        self._device = open_device(device)
        if placement not in self._device.locations:
            raise DeviceError(
                f"--placement {placement.value}: only a GPU has managed memory, the weights of a "
                f"{device} are in its own; use --placement device"
            )
        self._repetitions = repetitions
        self._placement = placement
        self._arena = HostArena()
        self._tally = Tally()
        self._drift = DriftMonitor(reference_burst(self._device), max_drift_percent)

    def fingerprint(self) -> dict[str, str]:
        """What measures, as text."""
        return {
            **self._device.fingerprint(),
            "reference_ms": f"{self._drift.start_ms:.6f}",
        }

    def summary(self) -> Mapping[str, str]:
        """How the part measured last went, see `Tally.summary`."""
        return self._tally.summary()

    def restrict(
        self, limits: ComputeLimits, *, chosen_optimizers: bool, chosen_dtypes: bool
    ) -> ComputeLimits:
        """Leaves out what the device cannot do; bounds memory and, on a CPU, lookups.

        Args:
            limits: What the user allows.
            chosen_optimizers: Whether the user named optimizers, rather than allowing all.
            chosen_dtypes: Whether the user named weight dtypes.

        Raises:
            DeviceError: When the user asked for one of those that fbgemm does not implement here.
        """
        device = self._device
        optimizers = tuple(o for o in limits.optimizers if o in device.optimizers)
        dtypes = tuple(d for d in limits.weight_dtypes if d in device.weight_dtypes)
        no_optimizers = [o.value for o in limits.optimizers if o not in optimizers]
        no_dtypes = [d.value for d in limits.weight_dtypes if d not in dtypes]
        asked = no_optimizers * chosen_optimizers + no_dtypes * chosen_dtypes
        if asked:
            raise DeviceError(
                f"fbgemm has no {device.name} kernels for {', '.join(asked)}; "
                f"it has {', '.join(o.value for o in device.optimizers)} and "
                f"{', '.join(d.value for d in device.weight_dtypes)}"
            )
        missing = ", ".join(no_optimizers + no_dtypes)
        if missing:
            logger.info("not drawn: %s (fbgemm has no %s kernels for them)", missing, device.name)
        max_lookups = limits.max_lookups
        if max_lookups is None and device.name == "cpu":
            max_lookups = _CPU_MAX_LOOKUPS
        return replace(
            limits,
            # an fbgemm operator has one batch size
            copies=False,
            optimizers=optimizers,
            weight_dtypes=dtypes,
            max_memory_bytes=limits.max_memory_bytes or self._memory_bytes(),
            max_lookups=max_lookups,
        )

    def rows(
        self, draw: Callable[[int], ComputeSample], indices: range
    ) -> Iterator[dict[str, Any]]:
        """Measures the samples of some indices, one dataset row each.

        A sample that does not fit into the device's memory gives a row with `feasible` false.
        """
        self._tally.reset()
        for index in indices:
            sample = draw(index)
            self._tally.count("rows")
            times = self._measure_if_it_fits(sample)
            if times is None:
                yield infeasible_row(sample, self._placement.value)
            else:
                yield compute_row(
                    sample,
                    Quantiles.of(times.ms[:, 0]),
                    Quantiles.of(times.ms[:, 1]),
                    repetitions=len(times.ms),
                    placement=self._placement.value,
                    drift_percent=times.drift_percent,
                )

    def _measure_if_it_fits(self, sample: ComputeSample) -> _Times | None:
        """Measures, on the second try with all memory of earlier samples given back."""
        for _ in range(2):
            try:
                if self._may_fit(sample):
                    return self._measure(sample)
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
            self._arena.clear()
            self._device.free_memory_bytes()  # gives cached memory back before it looks
        logger.warning(
            "sample %d (%d bytes of tables) does not fit into the memory of %s: recorded as "
            "infeasible; --max-memory-bytes draws smaller ones",
            sample.index,
            int(sample.memory_bytes.sum()),
            self._device.name,
        )
        self._tally.count("infeasible")
        return None

    def _may_fit(self, sample: ComputeSample) -> bool:
        """Whether a sample can be tried without the system killing the process.

        Linux grants more memory than there is and kills whoever touches it; a GPU refuses.
        """
        weights = int(sample.memory_bytes.sum())
        if self._device.name != "cpu":
            return self._placement is Placement.DEVICE or weights < host.available_memory_bytes()
        outputs = sample.global_batch_size * int(sample.embedding_dim.sum())
        # indices and what drawing them needs; output, its gradient, and fbgemm's copy of it
        needed = weights + 32 * int(sample.lookups.sum()) + 3 * 4 * outputs
        return needed <= host.available_memory_bytes()

    def _measure(self, sample: ComputeSample) -> _Times:
        """Measures until the device did not drift meanwhile, a few times at most."""
        with self._tally.spend("prepare"):
            once = self._prepare(sample)
        best: _Times | None = None
        drift = self._drift_percent()
        for _ in range(self._drift.attempts()):
            ms = repeat(once, self._repetitions)
            before, drift = drift, self._drift_percent()
            worst = max(before, drift, key=abs)
            if best is None or abs(worst) < abs(best.drift_percent):
                best = _Times(ms, worst)
            if not self._drift.exceeds(best.drift_percent):
                break
        assert best is not None
        if self._drift.conclude(sample.index, best.drift_percent):
            self._tally.count("drifted")
        return best

    def _prepare(self, sample: ComputeSample) -> Callable[[], tuple[float, float]]:
        """Builds the operator and its batch; returns what runs and times them once."""
        device = self._device
        # by index alone, so that a sample has the same lookups on every machine and in any order
        rng = np.random.default_rng(np.random.SeedSequence((_LOOKUP_STREAM, sample.index)))
        lookups = draw_lookups(sample, rng, device.torch_device)
        operator = build_operator(sample, device, self._placement, self._arena)
        forward = partial(operator, lookups.indices, lookups.offsets)
        shape = (sample.global_batch_size, int(sample.embedding_dim.sum()))
        gradient = torch.randn(shape, device=device.torch_device)

        def once() -> tuple[float, float]:
            with self._tally.spend("flush"):
                device.flush_caches()
            with self._tally.spend("kernel"):
                output, forward_ms = device.timed_ms(forward)
            with self._tally.spend("flush"):
                device.flush_caches()
            with self._tally.spend("kernel"):
                _, backward_ms = device.timed_ms(partial(output.backward, gradient))
            return forward_ms, backward_ms

        return once

    def _drift_percent(self) -> float:
        with self._tally.spend("reference"):
            return self._drift.percent()

    def _memory_bytes(self) -> int:
        """Half of the free memory, rounded down to a power of two.

        What is drawn depends on the limit, so it must not change with every page that is freed.
        """
        if self._placement is Placement.DEVICE:
            free = self._device.free_memory_bytes()
        else:
            free = host.available_memory_bytes()
        free = int(free * _MEMORY_SHARE)
        if self._device.name == "cpu":
            free = min(free, _CPU_MAX_MEMORY_BYTES)
        return 1 << (max(free, 4096).bit_length() - 1)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed; torch's CPU allocator raises a bare RuntimeError."""
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or "DefaultCPUAllocator" in str(error)
