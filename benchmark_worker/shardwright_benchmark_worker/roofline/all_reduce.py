"""All-reduce of dense gradients among GPUs of one or more hosts, as NCCL does it.

Reduced inside each host, then among the hosts (each GPU its share, over its own NIC), then spread
inside again; the phases are pipelined. n devices in a ring send 2 (n - 1) / n of the bytes each
(nccl-tests, doc/PERFORMANCE.md, "Bus bandwidth"). Among hosts NCCL takes the faster of a ring,
whose latency grows with the hosts, and a double binary tree, whose latency grows with their
logarithm and which sends twice the bytes (NVIDIA, "Massively Scale Your Deep Learning Training with
NCCL 2.4"; Sanders, Speck and Traff 2009). The bandwidths and latencies are those of the profile's
all-to-all: no measured all-reduce was used.
"""

from __future__ import annotations

import math

import numpy as np

from shardwright_benchmark_worker.roofline.profile import GpuProfile
from shardwright_benchmark_worker.sampling.all_reduce import AllReduceSample

_PHASE_OVERLAP = 4.0
"""Norm over the phases inside and among hosts, as over the links of an all-to-all; chosen."""


def all_reduce_ms(profile: GpuProfile, sample: AllReduceSample) -> float:
    """Predicts one all-reduce; all devices end together."""
    per_host = sample.devices_per_host
    hosts = sample.world_size // per_host
    ring = 2.0 * (per_host - 1) / per_host
    local_ms = ring * sample.num_bytes / (profile.nvlink_gb_per_s * 1e6)
    if hosts == 1:
        return profile.host_latency_ms + local_ms
    share_ms = sample.num_bytes / per_host / (profile.nic_gb_per_s * 1e6)
    latency_ms = profile.host_latency_ms + profile.network_latency_ms

    def pipelined_ms(messages: float, sent: float) -> float:
        phases_ms = np.array([local_ms, sent * share_ms])
        norm_ms = float(np.linalg.norm(phases_ms, _PHASE_OVERLAP))
        return latency_ms + messages * profile.peer_latency_ms + norm_ms

    return min(
        pipelined_ms(2.0 * (hosts - 1), 2.0 * (hosts - 1) / hosts),
        pipelined_ms(2.0 * math.ceil(math.log2(hosts)), 2.0),
    )
