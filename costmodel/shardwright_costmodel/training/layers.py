"""Layers of the models: networks that correct, and functions with positive coefficients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_MAX_CORRECTION = 4.0
_LOG_STEP = 5.0
"""Coefficients span many orders of magnitude: an optimizer's step moves them this much faster."""
_TINY = 1e-6
_NORMS, _NORM_SIZE = 2, 3
"""Norms that make up each output of `PositiveNorms`, and linear functions in each."""


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


def correction_mlp(*widths: int) -> nn.Sequential:
    """A network that starts as the constant 0: all of its outputs correct something."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(fan_in, fan_out), nn.SiLU()]
    last = layers[-2]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers[:-1])


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


class PositiveNorms(nn.Module):
    """Sums of norms of linear functions with positive coefficients.

    Convex and nondecreasing where the inputs are not negative, and of degree 1: good at any scale.
    """

    groups: Tensor
    outputs: Tensor

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        norms = fan_out * _NORMS
        self.weight = nn.Parameter(
            torch.full((fan_in, norms * _NORM_SIZE), -5.0 / _LOG_STEP)
            + torch.randn(fan_in, norms * _NORM_SIZE) / _LOG_STEP
        )
        members = torch.eye(norms).repeat_interleave(_NORM_SIZE, dim=0)
        self.register_buffer("groups", members)
        self.register_buffer("outputs", torch.eye(fan_out).repeat_interleave(_NORMS, dim=0))

    @torch.no_grad()
    def scale(self, log_factor: Tensor) -> None:
        """Multiplies the outputs, `[fan_out]`, by exp of a factor."""
        self.weight.add_(log_factor.repeat_interleave(_NORMS * _NORM_SIZE) / _LOG_STEP)

    def forward(self, inputs: Tensor) -> Tensor:
        """`[n, fan_in]` to `[n, fan_out]`."""
        linear = inputs @ torch.exp(_LOG_STEP * self.weight)
        norms = torch.sqrt((linear * linear) @ self.groups + _TINY * _TINY)
        return norms @ self.outputs


def bounded(correction: Tensor) -> Tensor:
    """Held softly between -4 and 4."""
    return _MAX_CORRECTION * torch.tanh(correction / _MAX_CORRECTION)
