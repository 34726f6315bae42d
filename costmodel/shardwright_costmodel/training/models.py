"""The torch models of all-to-alls and all-reduces."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shardwright_costmodel.features import ALL_REDUCE_COLUMNS, COMM_COLUMNS
from shardwright_costmodel.training.layers import (
    Normalizer,
    PositiveLinear,
    bounded,
    correction_mlp,
)
from shardwright_costmodel.training.transforms import (
    all_reduce_amounts,
    all_reduce_inputs,
    comm_terms,
)

_BYTES_SCALE = 1e-8
_FLOOR_MARGIN = 1.0 - 1e-5
"""Keeps a floor below its prediction whatever rounding in float32 does to the two."""
_TRUSTED = 4.0
"""Networks see inputs up to this many standard deviations; beyond, only the power laws go on."""


class CommModel(nn.Module):
    """Milliseconds of a device in an all-to-all in one direction.

    milliseconds = floor + unevenness        floor = alpha(job) + beta(job) x batch x mean dim

    The floor is that of equal devices and depends on the job's shape, batch and mean alone. The
    rest is a positive function of what the busiest device, host and the device itself have above
    the mean. None of this changes when other devices are permuted, so the model is equivariant in
    the devices and holds for any world size.
    """

    def __init__(self) -> None:
        super().__init__()
        probe = comm_terms(torch.ones(1, len(COMM_COLUMNS)))
        width, job_width = probe.inputs.shape[1], probe.job.shape[1]
        self.normalizer, self.job_normalizer = Normalizer(width), Normalizer(job_width)
        self.latency = PositiveLinear(2, 1)
        self.bandwidth = PositiveLinear(2, 1)
        self.job = correction_mlp(job_width, 16, 16, 2)
        self.unevenness = PositiveLinear(1 + probe.excess_bytes.shape[1], 1)
        self.correction = correction_mlp(width, 32, 32, 1)

    @torch.no_grad()
    def scale(self, log_factor: Tensor) -> None:
        """Multiplies the output, `[1]`, by exp of a factor."""
        self.latency.scale(log_factor)
        self.bandwidth.scale(log_factor)
        self.unevenness.scale(log_factor)

    def fit(self, devices: Tensor) -> None:
        """Takes statistics of raw devices, `[n, len(COMM_COLUMNS)]`."""
        terms = comm_terms(devices)
        self.normalizer.fit(terms.inputs)
        self.job_normalizer.fit(terms.job)

    def parts(self, devices: Tensor) -> tuple[Tensor, Tensor]:
        """Milliseconds and their floor, `[n, 1]` each, of raw devices of two or more."""
        terms = comm_terms(devices)
        job = self.job(self.job_normalizer(terms.job).clamp(-_TRUSTED, _TRUSTED))
        job = torch.exp(bounded(job))
        bandwidth_ms = self.bandwidth.proportional(terms.mean_bytes * _BYTES_SCALE)
        floor_ms = self.latency(terms.peers) * job[:, 0:1] + bandwidth_ms * job[:, 1:2]
        inputs = self.normalizer(terms.inputs).clamp(-_TRUSTED, _TRUSTED)
        excess = torch.cat([floor_ms, terms.excess_bytes * _BYTES_SCALE], dim=1)
        uneven_ms = self.unevenness.proportional(excess)
        return floor_ms + uneven_ms * torch.exp(bounded(self.correction(inputs))), floor_ms

    def forward(self, devices: Tensor) -> tuple[Tensor, Tensor]:
        """Milliseconds and their floor, `[n, 1]` each; exactly 0 where the world size is 1."""
        ms, floor_ms = self.parts(devices)
        several = (devices[:, 0:1] - 1.0).clamp(0.0, 1.0)
        return ms * several, floor_ms * several * _FLOOR_MARGIN


class AllReduceModel(nn.Module):
    """Milliseconds of an all-reduce: bytes by link class and messages, times a correction."""

    def __init__(self) -> None:
        super().__init__()
        probe = torch.ones(1, len(ALL_REDUCE_COLUMNS))
        width = all_reduce_inputs(probe).shape[1]
        self.normalizer = Normalizer(width)
        self.linear = PositiveLinear(all_reduce_amounts(probe).shape[1], 1)
        self.correction = correction_mlp(width, 32, 32, 1)

    def ms(self, jobs: Tensor) -> Tensor:
        """Milliseconds, `[n, 1]`, of raw jobs of two devices or more."""
        inputs = self.normalizer(all_reduce_inputs(jobs)).clamp(-_TRUSTED, _TRUSTED)
        correction = torch.exp(bounded(self.correction(inputs)))
        ms: Tensor = self.linear(all_reduce_amounts(jobs)) * correction
        return ms

    def forward(self, jobs: Tensor) -> Tensor:
        """Milliseconds, `[n, 1]`; exactly 0 where the world size is 1."""
        return self.ms(jobs) * (jobs[:, 0:1] - 1.0).clamp(0.0, 1.0)
