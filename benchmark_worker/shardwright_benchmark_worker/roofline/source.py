"""The roofline as a source of dataset rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from shardwright_benchmark_worker.roofline.all_reduce import all_reduce_ms
from shardwright_benchmark_worker.roofline.comm import comm_times
from shardwright_benchmark_worker.roofline.compute import compute_times
from shardwright_benchmark_worker.roofline.profile import GpuProfile
from shardwright_benchmark_worker.rows import Quantiles, all_reduce_row, comm_row, compute_row
from shardwright_benchmark_worker.sampling import AllReduceSample, CommSample, ComputeSample

_CHUNK = 256
"""Operators predicted at once: large enough that numpy's overhead does not count."""


def compute_rows(
    profile: GpuProfile, draw: Callable[[int], ComputeSample], indices: range
) -> Iterator[dict[str, Any]]:
    """Predicts the fused operators of some indices."""
    for start in range(0, len(indices), _CHUNK):
        samples = [draw(index) for index in indices[start : start + _CHUNK]]
        times = compute_times(profile, samples)
        for sample, forward_ms, backward_ms in zip(
            samples, times.forward_ms.tolist(), times.backward_ms.tolist(), strict=True
        ):
            forward, backward = Quantiles.exact(forward_ms), Quantiles.exact(backward_ms)
            yield compute_row(sample, forward, backward, 1)


def comm_rows(
    profile: GpuProfile, draw: Callable[[int], CommSample], indices: range
) -> Iterator[dict[str, Any]]:
    """Predicts the all-to-alls of some indices."""
    for index in indices:
        sample = draw(index)
        times = comm_times(profile, sample)
        yield comm_row(sample, times.forward_ms, times.backward_ms, 1)


def all_reduce_rows(
    profile: GpuProfile, draw: Callable[[int], AllReduceSample], indices: range
) -> Iterator[dict[str, Any]]:
    """Predicts the all-reduces of some indices."""
    for index in indices:
        sample = draw(index)
        yield all_reduce_row(sample, Quantiles.exact(all_reduce_ms(profile, sample)), 1)


def fingerprint(profile: GpuProfile) -> dict[str, str]:
    """What stands behind the numbers: the constants of the profile."""
    constants = {name: f"{value}" for name, value in asdict(profile).items() if name != "hardware"}
    return {"device": f"roofline:{profile.hardware}", **constants}
