"""The torch models: encoder and head of the compute model, and the communication models."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shardwright_costmodel.features import ALL_REDUCE_COLUMNS, COMM_COLUMNS, SHARD_COLUMNS
from shardwright_costmodel.training.layers import (
    Normalizer,
    PositiveLinear,
    PositiveNorms,
    bounded,
    correction_mlp,
)
from shardwright_costmodel.training.transforms import (
    all_reduce_amounts,
    all_reduce_inputs,
    comm_terms,
    shard_amounts,
    shard_inputs,
)

ENCODING_SIZE = 32
_MAX_LOG = 30.0
_TINY = 1e-6
_LOG_SPREAD = 3.0
"""Roughly the standard deviation of logarithms of encodings, which come without normalisation."""
_BYTES_SCALE = 1e-8
_FLOOR_MARGIN = 1.0 - 1e-5
"""Keeps a floor below its prediction whatever rounding in float32 does to the two."""
_TRUSTED = 4.0
"""Networks see inputs up to this many standard deviations; beyond, only the power laws go on."""


class ShardEncoder(nn.Module):
    """Encodes a shard as non-negative amounts of work, which add over the shards of a device.

    A channel is the exponential of an affine function of the logarithms of the shard's physical
    amounts (a power law) plus a network's correction.
    """

    def __init__(self) -> None:
        super().__init__()
        probe = torch.ones(1, len(SHARD_COLUMNS))
        self.num_amounts = shard_amounts(probe).shape[1]
        width = shard_inputs(probe).shape[1]
        self.normalizer = Normalizer(width)
        self.power_law = nn.Linear(self.num_amounts, ENCODING_SIZE)
        self.correction = correction_mlp(width, 128, 64, ENCODING_SIZE)

    @torch.no_grad()
    def initialize(self, inputs: Tensor) -> None:
        """Takes statistics of `shard_inputs`; each channel starts as one of the amounts."""
        self.normalizer.fit(inputs)
        self.power_law.weight.mul_(0.1)
        deviation = inputs[:, : self.num_amounts].std(dim=0, correction=0)
        for channel in range(ENCODING_SIZE):
            amount = channel % self.num_amounts
            self.power_law.weight[channel, amount] += deviation[amount]

    def encode(self, inputs: Tensor) -> Tensor:
        """Encodes `shard_inputs`, `[n, 53]`, to `[n, ENCODING_SIZE]`."""
        normal = self.normalizer(inputs)
        correction = self.correction(normal.clamp(-_TRUSTED, _TRUSTED))
        logs = self.power_law(normal[:, : self.num_amounts]) + correction
        return torch.exp(logs.clamp(-_MAX_LOG, _MAX_LOG))

    def forward(self, shards: Tensor) -> Tensor:
        """Encodes raw shards, `[n, len(SHARD_COLUMNS)]`, to `[n, ENCODING_SIZE]`."""
        return self.encode(shard_inputs(shards))


class ComputeHead(nn.Module):
    """Forward and backward milliseconds of a device, from the sum of its shards' encodings.

    milliseconds = additive + sqrt(joint^2 + extra^2)        floor = additive + joint

    `additive` is an affine function of the sum with positive coefficients, `joint` a sum of norms
    of such functions without constants (work on resources that overlap), both convex and
    nondecreasing in every channel. `extra` is a network's, and at least 0: so the floor is convex,
    nondecreasing, and never above the milliseconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.additive = PositiveLinear(ENCODING_SIZE, 2)
        self.joint = PositiveNorms(ENCODING_SIZE, 2)
        self.extra = correction_mlp(ENCODING_SIZE, 24, 16, 2)
        first = self.extra[0]
        assert isinstance(first, nn.Linear)
        with torch.no_grad():
            first.weight.div_(_LOG_SPREAD)

    @torch.no_grad()
    def scale(self, log_factor: Tensor) -> None:
        """Multiplies the outputs, `[2]`, by exp of a factor."""
        self.additive.scale(log_factor)
        self.joint.scale(log_factor)
        self.extra[-1].bias.add_(log_factor)  # type: ignore[operator]

    def parts(self, encodings: Tensor) -> tuple[Tensor, Tensor]:
        """Milliseconds and their floor, `[m, 2]` each, of encodings `[m, ENCODING_SIZE]`."""
        additive, joint = self.additive(encodings), self.joint(encodings)
        extra = torch.exp(self.extra(torch.log(encodings + _TINY)).clamp(-_MAX_LOG, _MAX_LOG))
        return additive + torch.sqrt(joint * joint + extra * extra), additive + joint

    def forward(self, encodings: Tensor) -> tuple[Tensor, Tensor]:
        """Milliseconds, exactly 0 for a row of zeros, which is no shard, and their floor.

        `[m, 2]` each. The floor of a row of zeros is that of a device which holds next to nothing.
        """
        ms, floor_ms = self.parts(encodings)
        # 1 as soon as there is any work, and much faster in ONNX Runtime than a condition
        any_work = (self.additive.proportional(encodings) * 1e30).clamp(max=1.0)
        return ms * any_work, floor_ms * _FLOOR_MARGIN


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
