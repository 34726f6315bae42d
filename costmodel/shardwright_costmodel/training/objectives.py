"""What the fit minimises: the logarithm of prediction over measurement, for groups of a dataset.

Also how far a floor lies below its prediction: the closer, the better the bounds it gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from shardwright_costmodel.training.compute_model import ComputeHead, ShardEncoder
from shardwright_costmodel.training.device import CPU
from shardwright_costmodel.training.measurements import Measurements
from shardwright_costmodel.training.models import AllReduceModel, CommModel
from shardwright_costmodel.training.shard_terms import shard_inputs
from shardwright_costmodel.training.spool import Spool
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
        sample: Groups whose statistics normalise the inputs.
        device: Where to compute; the data stays where it is.
    """

    def __init__(
        self,
        encoder: ShardEncoder,
        head: ComputeHead,
        data: Measurements,
        sample: Tensor,
        device: torch.device = CPU,
    ) -> None:
        self.module: nn.Module = nn.ModuleDict({"encoder": encoder, "head": head}).to(device)
        self._encoder, self._head, self._device = encoder, head, device
        inputs = Spool()
        for piece in data.pieces():
            inputs.append(shard_inputs(torch.from_numpy(piece.features)).numpy())
        self._inputs = torch.from_numpy(inputs.mapped())
        self._groups = _Ragged(torch.from_numpy(data.counts))
        self._times_ms = torch.from_numpy(data.times_ms)
        encoder.initialize(self._inputs[self._groups.items(sample)[0]].to(device))
        with torch.no_grad():
            head.scale(-self.errors(sample).log_ratio.mean(dim=0))

    def errors(self, groups: Tensor) -> Errors:
        """`[k, 2]`: forward and backward."""
        items, group_of = self._groups.items(groups)
        encodings = self._encoder.encode(self._inputs[items].to(self._device))
        sums = encodings.new_zeros(len(groups), encodings.shape[1])
        sums = sums.index_add(0, group_of.to(self._device), encodings)
        ms, floor_ms = self._head.parts(sums)
        log_ms = torch.log(ms)
        measured_ms = self._times_ms[groups].to(self._device)
        return Errors(log_ms - torch.log(measured_ms), log_ms - torch.log(floor_ms))


class CommObjective:
    """A communication model on collectives, in one direction.

    Args:
        model: The model.
        data: Collectives.
        direction: 0 forward, 1 backward.
        sample: Groups whose statistics normalise the inputs.
        device: Where to compute; the data stays where it is.
    """

    def __init__(
        self,
        model: CommModel,
        data: Measurements,
        direction: int,
        sample: Tensor,
        device: torch.device = CPU,
    ) -> None:
        self.module: nn.Module = model.to(device)
        self._model, self._device = model, device
        self._devices = torch.from_numpy(data.features)
        self._groups = _Ragged(torch.from_numpy(data.counts))
        self._times_ms = torch.from_numpy(data.times_ms)[:, direction : direction + 1]
        model.fit(self._devices[self._groups.items(sample)[0]].to(device))
        with torch.no_grad():
            model.scale(-self.errors(sample).log_ratio.mean(dim=0))

    def errors(self, groups: Tensor) -> Errors:
        """`[devices of the groups, 1]`."""
        items, _ = self._groups.items(groups)
        ms, floor_ms = self._model.parts(self._devices[items].to(self._device))
        log_ms = torch.log(ms)
        measured_ms = self._times_ms[items].to(self._device)
        return Errors(log_ms - torch.log(measured_ms), log_ms - torch.log(floor_ms))


class AllReduceObjective:
    """The all-reduce model on all-reduces.

    Args:
        model: The model.
        data: All-reduces, a group of one row each.
        sample: Groups whose statistics normalise the inputs.
        device: Where to compute; the data stays where it is.
    """

    def __init__(
        self,
        model: AllReduceModel,
        data: Measurements,
        sample: Tensor,
        device: torch.device = CPU,
    ) -> None:
        self.module: nn.Module = model.to(device)
        self._model, self._device = model, device
        self._jobs = torch.from_numpy(data.features)
        self._times_ms = torch.from_numpy(data.times_ms)
        model.normalizer.fit(all_reduce_inputs(self._jobs[sample].to(device)))
        with torch.no_grad():
            model.linear.scale(-self.errors(sample).log_ratio.mean(dim=0))

    def errors(self, groups: Tensor) -> Errors:
        """`[k, 1]`."""
        ms = self._model.ms(self._jobs[groups].to(self._device))
        return Errors(torch.log(ms) - torch.log(self._times_ms[groups].to(self._device)), None)


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
