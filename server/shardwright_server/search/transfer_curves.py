"""Transfers by the largest sum of dims, for many assignments at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shardwright.domain import COLUMN_MULTIPLE
from shardwright_costmodel.features import FloatArray
from shardwright_server.search.cost import PlanEvaluator
from shardwright_server.search.lots import BoolArray
from shardwright_server.search.pieces import IntArray

_POINTS = 33
_END = 3.0
"""Points between which the curve is straight, and its end, in multiples of the mean of dims."""


@dataclass(frozen=True)
class TransferCurves:
    """A curve for each lane.

    Attributes:
        tables: `[curves, steps] float32`, forward and backward transfer, ms, by the largest sum of
            dims in steps of 4.
        curve: `[k] int64`, the curve of each lane.
    """

    tables: FloatArray
    curve: IntArray

    @classmethod
    def of(cls, evaluator: PlanEvaluator, dims: IntArray) -> TransferCurves:
        """Of assignments with sums of dims `[k, w]`, while the mean and the hosts' means stay."""
        hosts = dims.reshape(len(dims), -1, evaluator.problem.cluster.devices_per_host)
        facts = np.stack([dims.mean(axis=1), hosts.mean(axis=2).max(axis=1)], axis=1)
        distinct, curve = np.unique(facts, axis=0, return_inverse=True)
        means, fullest = np.repeat(distinct, _POINTS, axis=0).T
        spacing = (_END - 1.0) * np.maximum(1.0, distinct[:, :1]) / (_POINTS - 1)
        points = distinct[:, :1] + spacing * np.arange(_POINTS)
        ms = evaluator.transfer_ms(points.ravel(), means, fullest).sum(axis=1)
        # more to transfer never takes less time, whatever the model makes of it
        ms = np.maximum.accumulate(ms.reshape(points.shape), axis=1)
        steps = COLUMN_MULTIPLE * np.arange(int(points.max()) // COLUMN_MULTIPLE + 2)
        tables = [np.interp(steps, x, y) for x, y in zip(points, ms, strict=True)]
        return cls(np.array(tables, dtype=np.float32), curve.reshape(-1))

    def __getitem__(self, chosen: BoolArray) -> TransferCurves:
        return TransferCurves(self.tables, self.curve[chosen])

    def ms(self, largest: IntArray) -> FloatArray:
        """Of the largest sums of dims `[k, ...]`, not negative."""
        length = self.tables.shape[1]
        at = np.minimum(largest // COLUMN_MULTIPLE, length - 1)
        at += length * self.curve.reshape((-1,) + (1,) * (largest.ndim - 1))
        return np.asarray(self.tables.ravel()[at])
