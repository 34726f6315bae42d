"""The torch models: encoder and head of the compute model, and the communication models."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shardwright_costmodel.features import COMM_COLUMNS, SHARD_COLUMNS
from shardwright_costmodel.training.transforms import (
    comm_amounts,
    comm_inputs,
    shard_amounts,
    shard_inputs,
)

ENCODING_SIZE = 32
_MAX_LOG = 30.0
_MAX_CORRECTION = 4.0
_TINY = 1e-6
_LOG_STEP = 5.0
"""Coefficients span many orders of magnitude: an optimizer's step moves them this much faster."""
_LOG_SPREAD = 3.0
"""Roughly the standard deviation of logarithms of encodings, which come without normalisation."""
_TRUSTED = 4.0
"""Networks see inputs up to this many standard deviations; beyond, only the power laws go on."""


class Normalizer(nn.Module):
    """Subtracts the mean and divides by the standard deviation of the training data.

    Args:
        width: Columns.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def fit(self, inputs: Tensor) -> None:
        """Takes the statistics of `inputs`, `[n, width]`; constant columns become 0."""
        self.mean.copy_(inputs.mean(dim=0))
        deviation = inputs.std(dim=0, correction=0)
        self.scale.copy_(torch.where(deviation > 1e-6, 1.0 / deviation.clamp(min=1e-6), 0.0))

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalises `[n, width]`."""
        return (inputs - self.mean) * self.scale


def _mlp(*widths: int) -> nn.Sequential:
    """A network that starts as the constant 0: all of its outputs correct something."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(fan_in, fan_out), nn.SiLU()]
    last = layers[-2]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers[:-1])


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
        self.correction = _mlp(width, 128, 64, ENCODING_SIZE)

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

    A non-negative linear function of the sum, times a network's bounded correction: additive at
    heart, and sane outside of the training data.
    """

    def __init__(self) -> None:
        super().__init__()
        self.linear = PositiveLinear(ENCODING_SIZE, 2)
        self.correction = _mlp(ENCODING_SIZE, 32, 32, 2)
        first = self.correction[0]
        assert isinstance(first, nn.Linear)
        with torch.no_grad():
            first.weight.div_(_LOG_SPREAD)

    def log_ms(self, encodings: Tensor) -> Tensor:
        """Logarithm of the milliseconds, `[m, 2]`, of encodings `[m, ENCODING_SIZE]`."""
        correction = self.correction(torch.log(encodings + _TINY))
        return torch.log(self.linear(encodings)) + _bounded(correction)

    def forward(self, encodings: Tensor) -> Tensor:
        """Milliseconds, `[m, 2]`; exactly 0 for a row of zeros, which is no shard."""
        ms = torch.exp(self.log_ms(encodings).clamp(-_MAX_LOG, _MAX_LOG))
        # 1 as soon as there is any work, and much faster in ONNX Runtime than a condition
        any_work = (self.linear.proportional(encodings) * 1e30).clamp(max=1.0)
        return ms * any_work


class CommModel(nn.Module):
    """Milliseconds of a device in an all-to-all in one direction.

    It sees the device's own dims and statistics of the others that do not change when those are
    permuted, so it is equivariant in the devices and holds for any world size.
    """

    def __init__(self) -> None:
        super().__init__()
        probe = torch.ones(1, len(COMM_COLUMNS))
        width = comm_inputs(probe).shape[1]
        self.normalizer = Normalizer(width)
        self.linear = PositiveLinear(comm_amounts(probe).shape[1], 1)
        self.correction = _mlp(width, 64, 64, 1)

    def log_ms(self, amounts: Tensor, inputs: Tensor) -> Tensor:
        """Logarithm of the milliseconds, `[n, 1]`, of `comm_amounts` and `comm_inputs`."""
        correction = self.correction(self.normalizer(inputs).clamp(-_TRUSTED, _TRUSTED))
        return torch.log(self.linear(amounts * 1e-8)) + _bounded(correction)

    def forward(self, devices: Tensor) -> Tensor:
        """Milliseconds, `[n, 1]`, of raw devices; exactly 0 where the world size is 1."""
        ms = torch.exp(self.log_ms(comm_amounts(devices), comm_inputs(devices)).clamp(max=_MAX_LOG))
        return torch.where(devices[:, 0:1] > 1.0, ms, torch.zeros_like(ms))


class PositiveLinear(nn.Module):
    """An affine function with positive coefficients."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((fan_in, fan_out), -3.0 / _LOG_STEP))
        self.bias = nn.Parameter(torch.full((fan_out,), -3.0 / _LOG_STEP))

    @torch.no_grad()
    def scale(self, log_factor: Tensor) -> None:
        """Multiplies the outputs, `[fan_out]`, by exp of a factor."""
        self.weight.add_(log_factor / _LOG_STEP)
        self.bias.add_(log_factor / _LOG_STEP)

    def forward(self, inputs: Tensor) -> Tensor:
        """`[n, fan_in]` to `[n, fan_out]`."""
        return self.proportional(inputs) + torch.exp(_LOG_STEP * self.bias)

    def proportional(self, inputs: Tensor) -> Tensor:
        """The same without its constant term."""
        return inputs @ torch.exp(_LOG_STEP * self.weight)


def _bounded(correction: Tensor) -> Tensor:
    return _MAX_CORRECTION * torch.tanh(correction / _MAX_CORRECTION)
