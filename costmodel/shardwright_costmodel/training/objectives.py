"""What the fit minimises: the logarithm of prediction over measurement, for groups of a dataset.

Also how far a floor lies below its prediction: the closer, the better the bounds it gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from shardwright_costmodel.training.compute_model import ComputeHead, ShardEncoder
from shardwright_costmodel.training.measurements import Measurements
from shardwright_costmodel.training.models import AllReduceModel, CommModel
from shardwright_costmodel.training.shard_terms import shard_inputs
from shardwright_costmodel.training.transforms import all_reduce_inputs


@dataclass(frozen=True)
class Errors:
    """Of `v` predicted values.

    Attributes:
        log_ratio: `[v, 1 or 2]`, log(prediction / measurement).
        log_slack: The same shape, log(prediction / floor); None when there is no floor.
    """

    log_ratio: Tensor
    log_slack: Tensor | None


class Objective(Protocol):
    """A model bound to its training data."""

    @property
    def module(self) -> nn.Module:
        """What is fitted."""

    def errors(self, groups: Tensor) -> Errors:
        """Errors of the values of some groups, `[k] int64`."""


class ComputeObjective:
    """The compute model on fused operators.

    Args:
        encoder: Encoder of shards.
        head: Head over their sum.
        data: Fused operators.
        training: Groups whose statistics normalise the inputs.
    """

    def __init__(
        self, encoder: ShardEncoder, head: ComputeHead, data: Measurements, training: Tensor
    ) -> None:
        self.module: nn.Module = nn.ModuleDict({"encoder": encoder, "head": head})
        self._encoder, self._head = encoder, head
        self._inputs = shard_inputs(torch.from_numpy(data.features))
        self._groups = _Ragged(torch.from_numpy(data.counts))
        self._log_ms = torch.log(torch.from_numpy(data.times_ms))
        encoder.initialize(self._inputs[self._groups.items(training)[0]])
        with torch.no_grad():
            head.scale(-self.errors(training[:4096]).log_ratio.mean(dim=0))

    def errors(self, groups: Tensor) -> Errors:
        """`[k, 2]`: forward and backward."""
        items, group_of = self._groups.items(groups)
        encodings = self._encoder.encode(self._inputs[items])
        sums = encodings.new_zeros(len(groups), encodings.shape[1])
        sums = sums.index_add(0, group_of, encodings)
        ms, floor_ms = self._head.parts(sums)
        log_ms = torch.log(ms)
        return Errors(log_ms - self._log_ms[groups], log_ms - torch.log(floor_ms))


class CommObjective:
    """A communication model on collectives, in one direction.

    Args:
        model: The model.
        data: Collectives.
        direction: 0 forward, 1 backward.
        training: Groups whose statistics normalise the inputs.
    """

    def __init__(
        self, model: CommModel, data: Measurements, direction: int, training: Tensor
    ) -> None:
        self.module: nn.Module = model
        self._model = model
        self._devices = torch.from_numpy(data.features)
        self._groups = _Ragged(torch.from_numpy(data.counts))
        self._log_ms = torch.log(torch.from_numpy(data.times_ms)[:, direction : direction + 1])
        model.fit(self._devices[self._groups.items(training)[0]])
        with torch.no_grad():
            model.scale(-self.errors(training[:4096]).log_ratio.mean(dim=0))

    def errors(self, groups: Tensor) -> Errors:
        """`[devices of the groups, 1]`."""
        items, _ = self._groups.items(groups)
        ms, floor_ms = self._model.parts(self._devices[items])
        log_ms = torch.log(ms)
        return Errors(log_ms - self._log_ms[items], log_ms - torch.log(floor_ms))


class AllReduceObjective:
    """The all-reduce model on all-reduces.

    Args:
        model: The model.
        data: All-reduces, a group of one row each.
        training: Groups whose statistics normalise the inputs.
    """

    def __init__(self, model: AllReduceModel, data: Measurements, training: Tensor) -> None:
        self.module: nn.Module = model
        self._model = model
        self._jobs = torch.from_numpy(data.features)
        self._log_ms = torch.log(torch.from_numpy(data.times_ms))
        model.normalizer.fit(all_reduce_inputs(self._jobs[training]))
        with torch.no_grad():
            model.linear.scale(-self.errors(training[:4096]).log_ratio.mean(dim=0))

    def errors(self, groups: Tensor) -> Errors:
        """`[k, 1]`."""
        return Errors(torch.log(self._model.ms(self._jobs[groups])) - self._log_ms[groups], None)


class _Ragged:
    """Consecutive groups of rows.

    Args:
        counts: `[r] int64`, rows of each group.
    """

    def __init__(self, counts: Tensor) -> None:
        self._counts = counts
        self._starts = torch.cumsum(counts, dim=0) - counts

    def items(self, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of some groups, and for each the position of its group among `groups`."""
        counts = self._counts[groups]
        group_of = torch.repeat_interleave(torch.arange(len(groups)), counts)
        first = torch.cumsum(counts, dim=0) - counts
        return (
            torch.arange(len(group_of)) + (self._starts[groups] - first)[group_of],
            group_of,
        )
