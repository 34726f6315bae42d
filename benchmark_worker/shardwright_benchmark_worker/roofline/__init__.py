"""An analytic model of GPUs for a cold start: noise-free, and always called MODELLED."""

from shardwright_benchmark_worker.roofline.all_reduce import all_reduce_ms
from shardwright_benchmark_worker.roofline.comm import CommTimes, comm_times
from shardwright_benchmark_worker.roofline.compute import ComputeTimes, compute_times
from shardwright_benchmark_worker.roofline.profile import PROFILES, GpuProfile, get_profile

__all__ = [
    "PROFILES",
    "CommTimes",
    "ComputeTimes",
    "GpuProfile",
    "all_reduce_ms",
    "comm_times",
    "compute_times",
    "get_profile",
]
