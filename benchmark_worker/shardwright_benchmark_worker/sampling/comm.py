"""Draws all-to-alls: how many devices, how much each holds, and when each starts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from shardwright.domain import COLUMN_MULTIPLE
from shardwright_benchmark_worker.sampling.limits import (
    HELD_OUT_WORLD_SIZES,
    CommLimits,
    draw_batch_size,
)

_STREAM = 2

_HOST_SIZES = (1, 2, 4, 8)
EMPTY_SHARE = 0.25
"""Of samples that have devices without any shard."""
NO_SKEW_SHARE = 0.25
"""Of samples in which every device starts at once."""


@dataclass(frozen=True)
class CommSample:
    """One all-to-all among `w` devices.

    Attributes:
        index: Its place in the sequence of a seed.
        devices_per_host: Divides `w`.
        global_batch_size: Samples per iteration, a multiple of `w`.
        dims: `[w] int64`, sum of embedding dims per device, multiples of 4, some 0.
        start_skew_ms: `[w] float64`, start of each device after the first.
    """

    index: int
    devices_per_host: int
    global_batch_size: int
    dims: npt.NDArray[np.int64]
    start_skew_ms: npt.NDArray[np.float64]

    @property
    def world_size(self) -> int:
        """Devices."""
        return len(self.dims)


def draw_comm_sample(limits: CommLimits, seed: int, index: int) -> CommSample:
    """Draws sample `index` of the sequence of `seed`; no other sample has an influence."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, _STREAM, limits.held_out, index)))
    world_size, devices_per_host = draw_shape(rng, limits)
    batch_size = draw_batch_size(rng, limits.min_batch_size, limits.max_batch_size)
    batch_size = math.ceil(batch_size / world_size) * world_size
    dims = _draw_dims(rng, world_size, limits.max_device_dim)
    return CommSample(
        index=index,
        devices_per_host=devices_per_host,
        global_batch_size=batch_size,
        dims=_within(dims, batch_size, limits.max_device_bytes),
        start_skew_ms=_draw_skew_ms(rng, world_size, limits.max_skew_ms),
    )


def draw_shape(rng: np.random.Generator, limits: CommLimits) -> tuple[int, int]:
    """World size and devices per host of a sample for training, or for judging."""
    if limits.held_out and limits.world_size is None:
        sizes = [size for size in HELD_OUT_WORLD_SIZES if size <= limits.max_world_size]
        limits = replace(limits, world_size=int(rng.choice(sizes)))
    while True:
        world_size, devices_per_host = _draw_any_shape(rng, limits)
        if limits.world_size is not None or world_size not in HELD_OUT_WORLD_SIZES:
            return world_size, devices_per_host


def _draw_any_shape(rng: np.random.Generator, limits: CommLimits) -> tuple[int, int]:
    """World size and devices per host; powers of two in most draws, as clusters are."""
    host_size = int(rng.choice(_HOST_SIZES, p=(0.1, 0.1, 0.2, 0.6)))
    odd_host_size = int(rng.integers(1, 9))
    devices_per_host = odd_host_size if rng.random() < 0.1 else host_size
    target = math.exp(rng.uniform(math.log(2), math.log(limits.max_world_size + 1)))
    if limits.world_size is not None:
        world_size = limits.world_size
        fitting = [n for n in range(1, 9) if world_size % n == 0]
        nearest = min(fitting, key=lambda n: abs(n - devices_per_host))
        return world_size, limits.devices_per_host or nearest
    devices_per_host = limits.devices_per_host or min(devices_per_host, int(target))
    hosts = max(target / devices_per_host, 1.0)
    hosts = 2 ** round(math.log2(hosts)) if rng.random() < 0.7 else int(hosts)
    hosts = min(int(hosts), max(limits.max_world_size // devices_per_host, 1))
    if hosts * devices_per_host < 2:
        return 2, 1
    return hosts * devices_per_host, devices_per_host


def _draw_dims(
    rng: np.random.Generator, world_size: int, max_device_dim: int
) -> npt.NDArray[np.int64]:
    """Sums of dims around a common mean, from balanced to very uneven (spread 0 to 1.5)."""
    mean = math.exp(rng.uniform(math.log(16), math.log(max_device_dim)))
    spread = 0.0 if rng.random() < 0.1 else 1.5 * rng.random() ** 2
    dims = mean * np.exp(rng.normal(-0.5 * spread**2, spread, world_size))
    if rng.random() < EMPTY_SHARE:
        dims[rng.random(world_size) < rng.uniform(0.05, 0.5)] = 0.0
    dims = COLUMN_MULTIPLE * np.rint(dims / COLUMN_MULTIPLE)
    if not dims.any():
        dims[0] = COLUMN_MULTIPLE
    return np.minimum(dims, 16 * max_device_dim).astype(np.int64)


def _within(
    dims: npt.NDArray[np.int64], batch_size: int, max_device_bytes: int | None
) -> npt.NDArray[np.int64]:
    """Scales the dims down until the fp32 buffers of the busiest device fit."""
    buffer_bytes = 4 * batch_size * (int(dims.max()) + int(dims.sum()) // len(dims))
    if max_device_bytes is None or buffer_bytes <= max_device_bytes:
        return dims
    scaled = (dims * (max_device_bytes / buffer_bytes)).astype(np.int64)
    scaled = scaled // COLUMN_MULTIPLE * COLUMN_MULTIPLE
    if not scaled.any():
        scaled[int(dims.argmax())] = COLUMN_MULTIPLE
    return scaled


def _draw_skew_ms(
    rng: np.random.Generator, world_size: int, max_skew_ms: float
) -> npt.NDArray[np.float64]:
    """Starts after the first device's; the longest one is log-uniform over three decades."""
    longest = max_skew_ms * 10.0 ** rng.uniform(-3.0, 0.0)
    place = rng.random(world_size) ** rng.uniform(0.3, 3.0)
    if rng.random() < NO_SKEW_SHARE:
        return np.zeros(world_size)
    return np.asarray(longest * (place - place.min()) / np.ptp(place))
