"""Layers of the models: networks that correct, and functions with positive coefficients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_MAX_CORRECTION = 4.0
_LOG_STEP = 5.0
"""Coefficients span many orders of magnitude: an optimizer's step moves them this much faster."""


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


class MonotoneMlp(nn.Module):
    """A network that falls in none of its inputs, and starts as small functions of them.

    All of its weights are magnitudes. Its hidden units saturate, both ways; beyond, a linear part
    goes on.

    Args:
        widths: Of the input, of two hidden layers, and of the output.
    """

    def __init__(self, *widths: int) -> None:
        super().__init__()
        fan_in, first, second, fan_out = widths
        self.first, self.second = nn.Linear(fan_in, first), nn.Linear(first, second)
        self.last, self.linear = nn.Linear(second, fan_out), nn.Linear(fan_in, fan_out, bias=False)
        nn.init.constant_(self.last.bias, -3.0)
        nn.init.constant_(self.linear.weight, 1.0 / fan_in)

    def forward(self, inputs: Tensor) -> Tensor:
        """`[n, widths[0]]` to `[n, widths[-1]]`."""
        hidden = torch.tanh(inputs @ self.first.weight.abs().T + self.first.bias)
        hidden = torch.tanh(hidden @ self.second.weight.abs().T + self.second.bias)
        corrected = hidden @ self.last.weight.abs().T + self.last.bias
        return corrected + inputs @ self.linear.weight.abs().T


def bounded(correction: Tensor) -> Tensor:
    """Held softly between -4 and 4."""
    return _MAX_CORRECTION * torch.tanh(correction / _MAX_CORRECTION)
