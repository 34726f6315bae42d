"""Physical quantities behind raw columns of collectives, in torch; they become part of the graphs.

Every quantity is an amount of work or traffic that somebody could count on paper. Networks see
their logarithms, so that power laws are straight lines and extrapolate as such.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_LOG_2 = 0.6931471805599453
_FLOAT_BYTES = 4.0
"""Outputs and gradients of an embedding bag are fp32."""


@dataclass(frozen=True)
class CommTerms:
    """What all-to-alls of `n` devices move, per device.

    Every device sends `batch / world_size` samples of its `device_dim` columns to each other one.
    Backward is the same with sending and receiving swapped.

    Attributes:
        peers: `[n, 2]`, devices inside the own host and outside it, in hundreds.
        mean_bytes: `[n, 2]`, what an average device sends inside its host and outside.
        excess_bytes: `[n, 8]`, what is moved above that average: sent inside by the device and by
            the busiest; sent outside by those, by the device's host and by the busiest host, per
            device; received inside and outside.
        job: `[n, 4]`, what networks see of the job's shape, not normalised.
        inputs: `[n, 9]`, what networks see of everything, not normalised.
    """

    peers: Tensor
    mean_bytes: Tensor
    excess_bytes: Tensor
    job: Tensor
    inputs: Tensor


def comm_terms(devices: Tensor) -> CommTerms:
    """Takes raw devices apart, `[n, len(COMM_COLUMNS)] float32`."""
    world, per_host = devices[:, 0:1].clamp(min=1.0), devices[:, 1:2].clamp(min=1.0)
    peers = torch.cat([per_host - 1.0, (world - per_host).clamp(min=0.0)], dim=1)
    inside, outside = peers[:, 0:1], peers[:, 1:2]
    # what goes to, or comes from, one peer: own, mean, largest, mean of the host and of the largest
    slice_bytes = devices[:, 3:] * (devices[:, 2:3] / world * _FLOAT_BYTES)
    own, mean, host_mean = slice_bytes[:, 0:1], slice_bytes[:, 1:2], slice_bytes[:, 3:4]
    above = slice_bytes - mean
    sent = [above[:, 0:1] * inside, above[:, 2:3] * inside, above[:, 0:1] * outside]
    sent.append(above[:, 2:5] * outside)
    received = [host_mean * per_host - own - mean * inside, (mean - host_mean) * per_host]
    job = job_inputs(devices)
    return CommTerms(
        peers=peers * 1e-2,
        mean_bytes=mean * peers,
        excess_bytes=torch.cat([*sent, *received], dim=1).clamp(min=0.0),
        job=job,
        inputs=torch.cat([torch.log(slice_bytes + 1e3), job], dim=1),
    )


def job_inputs(jobs: Tensor) -> Tensor:
    """The shape of the job alone, `[n, 4] float32`, not normalised.

    Args:
        jobs: `[n, 2 or more] float32`, raw, of the columns world_size, devices_per_host.
    """
    world, per_host = jobs[:, 0:1].clamp(min=1.0), jobs[:, 1:2].clamp(min=1.0)
    return torch.cat(
        [torch.log(world), torch.log(per_host), per_host / world, 1.0 / per_host], dim=1
    )


def all_reduce_amounts(jobs: Tensor) -> Tensor:
    """Messages and bytes of an all-reduce by link class.

    Reduced inside each host, then among the hosts, then spread inside again; n devices in a ring
    send 2 (n - 1) / n of the bytes each.

    Args:
        jobs: `[n, len(ALL_REDUCE_COLUMNS)] float32`, raw.

    Returns:
        `[n, 4] float32`, non-negative: peers inside and hosts outside, in hundreds; bytes inside
        and outside, in hundreds of megabytes.
    """
    world, per_host = jobs[:, 0:1].clamp(min=1.0), jobs[:, 1:2].clamp(min=1.0)
    hosts = (world / per_host).clamp(min=1.0)
    num_bytes = jobs[:, 2:3].clamp(min=0.0) * 1e-8
    return torch.cat(
        [
            (per_host - 1.0) * 1e-2,
            (hosts - 1.0) * 1e-2,
            num_bytes * (2.0 * (per_host - 1.0) / per_host),
            num_bytes * (2.0 * (hosts - 1.0) / hosts) / per_host,
        ],
        dim=1,
    )


def all_reduce_inputs(jobs: Tensor) -> Tensor:
    """What the all-reduce network sees: the job's shape and log bytes, `[n, 7] float32`."""
    log_bytes = torch.log(jobs[:, 2:3].clamp(min=0.0) + 1e3)
    job = job_inputs(jobs)
    log_hosts = job[:, 0:1] - job[:, 1:2]
    # trees among hosts have as many levels as the logarithm, rounded up
    levels = torch.ceil(log_hosts / _LOG_2 - 1e-3)
    return torch.cat([job, log_bytes, log_hosts, levels], dim=1)
