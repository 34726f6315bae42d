"""Transfers by the largest sum of dims, for many assignments at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shardwright.domain import COLUMN_MULTIPLE
from shardwright_costmodel.features import FloatArray
from shardwright_server.search.cost import PlanEvaluator
from shardwright_server.search.pieces import Float64Array, IntArray

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
    def of(
        cls, evaluator: PlanEvaluator, dims: IntArray, known: dict[bytes, FloatArray]
    ) -> TransferCurves:
        """Of assignments with sums of dims `[k, w]`, while the mean and the hosts' means stay.

        Args:
            evaluator: Of the problem.
            dims: The sums.
            known: Curves of the evaluator met before; grows.
        """
        hosts = dims.reshape(len(dims), -1, evaluator.problem.cluster.devices_per_host)
        facts = np.stack([dims.mean(axis=1), hosts.mean(axis=2).max(axis=1)], axis=1)
        distinct, curve = np.unique(facts, axis=0, return_inverse=True)
        key = distinct.tobytes()
        if key not in known:
            known[key] = _tables(evaluator, distinct)
        return cls(known[key], curve.reshape(-1))


def _tables(evaluator: PlanEvaluator, facts: Float64Array) -> FloatArray:
    """Curves by means of dims and means of the fullest host, `[curves, 2] -> [curves, steps]`."""
    means, fullest = np.repeat(facts, _POINTS, axis=0).T
    spacing = (_END - 1.0) * np.maximum(1.0, facts[:, :1]) / (_POINTS - 1)
    points = facts[:, :1] + spacing * np.arange(_POINTS)
    ms = evaluator.transfer_ms(points.ravel(), means, fullest).sum(axis=1)
    # more to transfer never takes less time, whatever the model makes of it
    ms = np.maximum.accumulate(ms.reshape(points.shape), axis=1)
    steps = COLUMN_MULTIPLE * np.arange(int(points.max()) // COLUMN_MULTIPLE + 2)
    tables = [np.interp(steps, x, y) for x, y in zip(points, ms, strict=True)]
    return np.array(tables, dtype=np.float32)
