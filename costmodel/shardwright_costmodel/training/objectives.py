"""What the fit minimises: the logarithm of prediction over measurement, for groups of a dataset."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from shardwright_costmodel.training.measurements import Measurements
from shardwright_costmodel.training.models import CommModel, ComputeHead, ShardEncoder
from shardwright_costmodel.training.transforms import comm_amounts, comm_inputs, shard_inputs


class Objective(Protocol):
    """A model bound to its training data."""

    @property
    def module(self) -> nn.Module:
        """What is fitted."""

    def log_ratio(self, groups: Tensor) -> Tensor:
        """log(prediction / measurement) of the values of some groups, `[k] int64`."""


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
            head.linear.scale(-self.log_ratio(training[:4096]).mean(dim=0))

    def log_ratio(self, groups: Tensor) -> Tensor:
        """`[k, 2]`: forward and backward."""
        items, group_of = self._groups.items(groups)
        encodings = self._encoder.encode(self._inputs[items])
        sums = encodings.new_zeros(len(groups), encodings.shape[1])
        sums = sums.index_add(0, group_of, encodings)
        return self._head.log_ms(sums) - self._log_ms[groups]


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
        devices = torch.from_numpy(data.features)
        self._amounts, self._inputs = comm_amounts(devices), comm_inputs(devices)
        self._groups = _Ragged(torch.from_numpy(data.counts))
        self._log_ms = torch.log(torch.from_numpy(data.times_ms)[:, direction : direction + 1])
        model.normalizer.fit(self._inputs[self._groups.items(training)[0]])
        with torch.no_grad():
            model.linear.scale(-self.log_ratio(training[:4096]).mean(dim=0))

    def log_ratio(self, groups: Tensor) -> Tensor:
        """`[devices of the groups, 1]`."""
        items, _ = self._groups.items(groups)
        predicted: Tensor = self._model.log_ms(self._amounts[items], self._inputs[items])
        return predicted - self._log_ms[items]


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
