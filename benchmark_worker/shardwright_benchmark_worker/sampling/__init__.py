"""Draws what to measure: deterministic by (seed, index), whatever else is drawn."""

from shardwright_benchmark_worker.sampling.all_reduce import (
    AllReduceSample,
    draw_all_reduce_sample,
)
from shardwright_benchmark_worker.sampling.comm import CommSample, draw_comm_sample
from shardwright_benchmark_worker.sampling.compute import ComputeSample, draw_compute_sample
from shardwright_benchmark_worker.sampling.limits import CommLimits, ComputeLimits
from shardwright_benchmark_worker.sampling.reduce_scatter import draw_reduce_scatter_sample

__all__ = [
    "AllReduceSample",
    "CommLimits",
    "CommSample",
    "ComputeLimits",
    "ComputeSample",
    "draw_all_reduce_sample",
    "draw_comm_sample",
    "draw_compute_sample",
    "draw_reduce_scatter_sample",
]
