"""Cost models with true floors, drawn at random: what a lower bound may rely on, and no more."""

from __future__ import annotations

import numpy as np

from shardwright.domain import CostModelId, CostModelSource
from shardwright_costmodel.features import COMM_COLUMNS, SHARD_COLUMNS, FloatArray

_SHARD = {name: i for i, name in enumerate(SHARD_COLUMNS)}
_COMM = {name: i for i, name in enumerate(COMM_COLUMNS)}


class ConvexCostModel:
    """A cost model that knows its floors.

    Encodings are power laws of the features, wavy in the width, so that the cheapest cut differs
    from channel to channel. Costs lie above their floors by a wavy share, and are not convex.

    Args:
        seed: Draws every coefficient.
        waves: How far costs rise above their floors, and encodings wave; 0: convex all along.
    """

    encoding_size = 4
    peak_channels = 0

    def __init__(self, seed: int, waves: float = 0.5) -> None:
        self.id = CostModelId("convex", str(seed), "fake-gpu", CostModelSource.MEASURED)
        draw = np.random.default_rng(seed)
        self._waves = waves
        self._exponents = draw.uniform(0, 1, (4, self.encoding_size))
        self._phases = draw.uniform(0, 6, self.encoding_size)
        self._scale = draw.uniform(0.5, 2, self.encoding_size) / 100
        self._fixed = draw.uniform(0, 3, 2)
        self._linear = draw.uniform(0, 1, (self.encoding_size, 2)) * draw.integers(0, 2, (4, 2))
        self._square = draw.uniform(0, 1, (self.encoding_size, 2))
        self._latency = draw.uniform(0, 1, 3)
        self._per_dim = draw.uniform(0, 0.1, 2)
        self._of_largest = draw.uniform(0, 0.1, 2)

    def encode(self, shard_features: FloatArray) -> FloatArray:
        features = shard_features.astype(np.float64)
        names = "num_rows", "num_columns", "pooling_factor", "global_batch_size"
        logs = np.log(features[:, [_SHARD[name] for name in names]])
        columns = features[:, _SHARD["num_columns"], None]
        wave = 1 + self._waves * np.sin(columns + self._phases)
        return (self._scale * np.exp(logs @ self._exponents) * wave).astype(np.float32)

    def compute_floor_ms(self, encodings: FloatArray) -> FloatArray:
        sums = encodings.astype(np.float64)
        floor = self._fixed + sums @ self._linear + np.sqrt(sums**2 @ self._square)
        return floor.astype(np.float32)

    def compute_ms(self, encodings: FloatArray) -> FloatArray:
        wave = np.sin(encodings.sum(axis=1, keepdims=True)) ** 2
        cost_ms = self.compute_floor_ms(encodings) * (1 + self._waves * wave)
        return np.where(encodings.any(axis=1, keepdims=True), cost_ms, 0).astype(np.float32)

    def forward_comm_floor_ms(self, comm_features: FloatArray) -> FloatArray:
        return self._floor(comm_features, 0)

    def backward_comm_floor_ms(self, comm_features: FloatArray) -> FloatArray:
        return self._floor(comm_features, 1)

    def forward_comm_ms(self, comm_features: FloatArray) -> FloatArray:
        return self._transfer(comm_features, 0)

    def backward_comm_ms(self, comm_features: FloatArray) -> FloatArray:
        return self._transfer(comm_features, 1)

    def _floor(self, comm_features: FloatArray, direction: int) -> FloatArray:
        mean_dim = comm_features[:, _COMM["mean_dim"]]
        floor = self._latency[direction] + self._per_dim[direction] * mean_dim
        return np.where(comm_features[:, 0] > 1, floor, 0).astype(np.float32)

    def _transfer(self, comm_features: FloatArray, direction: int) -> FloatArray:
        more = comm_features[:, _COMM["max_dim"]] - comm_features[:, _COMM["mean_dim"]]
        above = self._of_largest[direction] * np.maximum(more, 0)
        return np.where(
            comm_features[:, 0] > 1, self._floor(comm_features, direction) + above, 0
        ).astype(np.float32)

    def all_reduce_ms(self, all_reduce_features: FloatArray) -> FloatArray:
        ms = self._latency[2] + all_reduce_features[:, 2] * 1e-4
        return np.where(all_reduce_features[:, 0] > 1, ms, 0).astype(np.float32)

    def range_warnings(self, shard_features: FloatArray, comm_features: FloatArray) -> tuple[()]:
        return ()
