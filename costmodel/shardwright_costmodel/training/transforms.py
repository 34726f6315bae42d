"""Physical quantities behind the raw feature columns, in torch; they become part of the graphs.

Every quantity is an amount of work or traffic that somebody could count on paper. Networks see
their logarithms, so that power laws are straight lines and extrapolate as such.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shardwright.domain import REUSE_BINS
from shardwright_costmodel.features import SHARD_COLUMNS

_LOG_2 = 0.6931471805599453
_FLOAT_BYTES = 4.0
"""Outputs and gradients of an embedding bag are fp32."""
_INDEX_BYTES = 8.0
_BURST_BYTES = 64.0
"""Memory is read in pieces of this size: bursts of GPU memory, cache lines of a CPU."""
_SECTOR_BYTES = 32.0
"""GPU caches are read in pieces of this size (CUDA C++ Best Practices Guide, coalesced access)."""
_WARP_COLUMNS = 128.0
"""Columns that one warp of fbgemm's kernels handles at once: 32 threads of 4 elements."""

REUSE_COUNTS = torch.tensor([1.0] + [0.75 * 2.0**i + 0.5 for i in range(1, REUSE_BINS)])
"""Accesses that stand for each reuse bin: the mean of the whole numbers in (2^(i-1), 2^i]."""

_REUSE_SUMS = torch.cat([torch.ones(REUSE_BINS, REUSE_BINS).tril(), REUSE_COUNTS[:, None]], dim=1)
"""Reuse bins times this: for each bin, the share of rows in it and all hotter ones; and the mean
accesses of a row. A product of matrices, because ONNX Runtime's sums of 17 numbers round
differently with the row's place in memory."""


@dataclass(frozen=True)
class _Reuse:
    """Reuse of `n` shards in one batch.

    Attributes:
        accesses: `[n, 17]`, accesses that go to rows of each bin, per distinct row.
        mean_accesses: `[n, 1]`, of a distinct row.
        hot_share: `[n, 17]`, distinct rows of each bin and all hotter ones, 1 in the first.
        distinct: `[n, 1]`, distinct rows: lookups over their mean accesses, at most all rows.
    """

    accesses: Tensor
    mean_accesses: Tensor
    hot_share: Tensor
    distinct: Tensor


def _reuse(shards: Tensor) -> _Reuse:
    reuse = shards[:, len(SHARD_COLUMNS) - REUSE_BINS :].clamp(min=0.0) + 1e-9
    sums = reuse @ _REUSE_SUMS.to(shards)
    hot_share, mean_accesses = sums[:, :REUSE_BINS], sums[:, REUSE_BINS:]
    lookups = shards[:, 2:3] * shards[:, 3:4]
    return _Reuse(
        accesses=reuse * REUSE_COUNTS.to(shards),
        mean_accesses=mean_accesses,
        hot_share=hot_share,
        distinct=torch.minimum(lookups / mean_accesses, shards[:, 0:1]),
    )


def shard_amounts(shards: Tensor) -> Tensor:
    """Work and traffic of shards in one iteration.

    Args:
        shards: `[n, len(SHARD_COLUMNS)] float32`, raw.

    Returns:
        `[n, 16] float32`, positive.
    """
    rows, columns, pooling, batch, weight_bytes, state_element, state_row = (
        shards[:, i : i + 1] for i in range(7)
    )
    lookups = pooling * batch
    distinct = _reuse(shards).distinct
    row_bytes = columns * weight_bytes
    gradient_bytes = columns * _FLOAT_BYTES
    touched_bags = torch.minimum(batch, lookups)
    updated_bytes = _bursts(row_bytes) + _bursts(columns * state_element) + _bursts(state_row)
    return torch.cat(
        [
            rows,
            columns,
            pooling,
            batch,
            lookups,
            distinct,
            rows * row_bytes,  # the shard's size
            lookups * _sectors(row_bytes),  # gathered by the forward pass
            distinct * _bursts(row_bytes),  # from memory at least, with a perfect cache
            lookups * _bursts(row_bytes),  # from memory at most, without a cache
            batch * gradient_bytes,  # output of the forward pass, and its gradient
            touched_bags * _bursts(gradient_bytes),  # gradients from memory at least
            lookups * _sectors(gradient_bytes),  # gradients gathered by the backward pass
            distinct * 2.0 * updated_bytes,  # weights and state, read and written
            lookups * torch.ceil(columns / _WARP_COLUMNS),
            lookups * _INDEX_BYTES,  # indices, sorted by the backward pass
        ],
        dim=1,
    ).clamp(min=1e-6)


def _bursts(num_bytes: Tensor) -> Tensor:
    return torch.ceil(num_bytes / _BURST_BYTES) * _BURST_BYTES


def _sectors(num_bytes: Tensor) -> Tensor:
    return torch.ceil(num_bytes / _SECTOR_BYTES) * _SECTOR_BYTES


def shard_inputs(shards: Tensor) -> Tensor:
    """What the encoder sees of shards: logarithms of amounts, dtypes, and where reuse happens.

    Args:
        shards: `[n, len(SHARD_COLUMNS)] float32`, raw.

    Returns:
        `[n, 53] float32`, not normalised.
    """
    reuse = _reuse(shards)
    # what a cache must hold to serve all accesses to the rows of a bin, the hottest first
    hot_bytes = reuse.hot_share * reuse.distinct * shards[:, 1:2] * shards[:, 4:5]
    return torch.cat(
        [
            torch.log(shard_amounts(shards)),
            shards[:, 4:7],
            torch.log(hot_bytes + 1.0),
            reuse.accesses / reuse.mean_accesses,
        ],
        dim=1,
    )


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
