"""Draws reduce-scatters: how many devices, and how many bytes of partial sums each holds."""

from __future__ import annotations

import math

import numpy as np

from shardwright_benchmark_worker.sampling.all_reduce import (
    LARGEST_BYTES,
    SMALLEST_BYTES,
    AllReduceSample,
)
from shardwright_benchmark_worker.sampling.comm import draw_shape
from shardwright_benchmark_worker.sampling.limits import CommLimits

_STREAM = 4
_ELEMENT_BYTES = 4
"""Pooled embeddings are fp32."""


def draw_reduce_scatter_sample(limits: CommLimits, seed: int, index: int) -> AllReduceSample:
    """Draws sample `index` of the sequence of `seed`; no other sample has an influence.

    Bytes are those of the input on every device, a multiple of 4 for each: log-uniform from 1 KiB
    to 1 GiB, or to what `max_device_bytes` leaves beside the output.
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, _STREAM, limits.held_out, index)))
    world_size, devices_per_host = draw_shape(rng, limits)
    largest = min(LARGEST_BYTES, limits.max_device_bytes or LARGEST_BYTES)
    largest = largest * world_size // (world_size + 1)
    num_bytes = int(math.exp(rng.uniform(math.log(SMALLEST_BYTES), math.log(largest))))
    step = _ELEMENT_BYTES * world_size
    return AllReduceSample(
        index=index,
        world_size=world_size,
        devices_per_host=devices_per_host,
        num_bytes=max(num_bytes // step, 1) * step,
    )
