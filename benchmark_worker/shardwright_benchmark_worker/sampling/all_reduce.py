"""Draws all-reduces: how many devices, and how many bytes each holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from shardwright_benchmark_worker.sampling.comm import draw_shape
from shardwright_benchmark_worker.sampling.limits import CommLimits

_STREAM = 3
_ELEMENT_BYTES = 4
"""Dense gradients are fp32."""
SMALLEST_BYTES, LARGEST_BYTES = 1 << 10, 1 << 30


@dataclass(frozen=True)
class AllReduceSample:
    """One all-reduce, or reduce-scatter of as large an input.

    Attributes:
        index: Its place in the sequence of a seed.
        world_size: Devices.
        devices_per_host: Divides `world_size`.
        num_bytes: On every device, a multiple of 4.
    """

    index: int
    world_size: int
    devices_per_host: int
    num_bytes: int


def draw_all_reduce_sample(limits: CommLimits, seed: int, index: int) -> AllReduceSample:
    """Draws sample `index` of the sequence of `seed`; no other sample has an influence.

    Bytes are log-uniform from 1 KiB to 1 GiB, or to `max_device_bytes` where that is less.
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, _STREAM, limits.held_out, index)))
    world_size, devices_per_host = draw_shape(rng, limits)
    largest = min(LARGEST_BYTES, limits.max_device_bytes or LARGEST_BYTES)
    num_bytes = math.exp(rng.uniform(math.log(SMALLEST_BYTES), math.log(largest)))
    return AllReduceSample(
        index=index,
        world_size=world_size,
        devices_per_host=devices_per_host,
        num_bytes=int(num_bytes) // _ELEMENT_BYTES * _ELEMENT_BYTES,
    )
