"""A deterministic analytic cost model, in place of a trained one.

Only additions, products, quotients and square roots, which IEEE 754 rounds exactly: a row's result
does not depend on the batch. Costs are sub-additive in shards and in columns, as on real GPUs.
"""

from __future__ import annotations

import numpy as np

from shardwright.domain import CostModelId, CostModelSource
from shardwright_costmodel.features import COMM_COLUMNS, SHARD_COLUMNS, FloatArray


def _columns(names: tuple[str, ...], features: FloatArray) -> dict[str, FloatArray]:
    assert features.dtype == np.float32 and features.shape[1] == len(names)
    return {name: features[:, i] for i, name in enumerate(names)}


QUANTITIES = (
    *("encode", "compute", "forward_comm", "backward_comm", "all_reduce"),
    *("compute_floor", "forward_comm_floor", "backward_comm_floor"),
)


class FakeCostModel:
    """See the module.

    Args:
        source: Provenance that it claims.
        flat: Whether every device with a shard costs the same: all choices tie.
        on_predict: Called at every prediction, such as to let a clock run.
    """

    encoding_size = 3
    peak_channels = 0

    def __init__(self, source=CostModelSource.MEASURED, flat=False, on_predict=lambda: None):
        self.id = CostModelId("fake", "1", "fake-gpu", source)
        self.flat = flat
        self.on_predict = on_predict
        self.calls = dict.fromkeys(QUANTITIES, 0)
        self.rows = 0

    def _count(self, quantity: str, rows: FloatArray) -> None:
        self.calls[quantity] += 1
        self.rows += len(rows)
        self.on_predict()

    def encode(self, shard_features: FloatArray) -> FloatArray:
        self._count("encode", shard_features)
        c = _columns(SHARD_COLUMNS, shard_features)
        lookups = c["pooling_factor"] * c["global_batch_size"] / np.float32(65536)
        element_bytes = c["weight_bytes_per_element"] + c["state_bytes_per_element"]
        traffic = lookups * (c["num_columns"] + 16) * element_bytes / np.float32(512)
        distinct = np.sqrt(c["num_rows"]) / np.float32(1e4) * (1 + c["reuse_0"])
        return np.stack([np.ones_like(traffic), traffic, distinct], axis=1)

    def compute_ms(self, encodings: FloatArray) -> FloatArray:
        assert encodings.dtype == np.float32 and encodings.shape[1] == self.encoding_size
        self._count("compute", encodings)
        shards, traffic, distinct = encodings.T
        some = np.minimum(shards, 1)
        if self.flat:
            return np.stack([some, some], axis=1)
        forward = some * np.float32(0.05) + np.sqrt(shards) * np.float32(0.02) + traffic
        backward = forward * np.float32(1.5) + distinct + np.sqrt(traffic) * np.float32(0.1)
        return np.stack([forward, backward], axis=1)

    def forward_comm_ms(self, comm_features: FloatArray) -> FloatArray:
        self._count("forward_comm", comm_features)
        c = _columns(COMM_COLUMNS, comm_features)
        volume = np.maximum(c["device_dim"], c["mean_dim"]) * c["global_batch_size"]
        across = 1 + (c["world_size"] > c["devices_per_host"]) * c["max_host_mean_dim"] / 1024
        return (volume * across / np.float32(2**23)).astype(np.float32)

    def backward_comm_ms(self, comm_features: FloatArray) -> FloatArray:
        self._count("backward_comm", comm_features)
        c = _columns(COMM_COLUMNS, comm_features)
        return (c["device_dim"] + c["max_dim"]) * c["global_batch_size"] / np.float32(2**24)

    def all_reduce_ms(self, all_reduce_features: FloatArray) -> FloatArray:
        assert all_reduce_features.dtype == np.float32 and all_reduce_features.shape[1] == 3
        self._count("all_reduce", all_reduce_features)
        world_size, _, num_bytes = all_reduce_features.T
        return np.where(world_size > 1, 1e-2 + num_bytes / 2**27, 0).astype(np.float32)

    def compute_floor_ms(self, encodings: FloatArray) -> FloatArray:
        """Every device that holds something holds one shard at least."""
        self._count("compute_floor", encodings)
        _, traffic, distinct = encodings.T
        if self.flat:
            return np.ones((len(encodings), 2), dtype=np.float32)
        forward = np.float32(0.07) + traffic
        return np.stack([forward, forward * np.float32(1.5) + distinct], axis=1)

    def forward_comm_floor_ms(self, comm_features: FloatArray) -> FloatArray:
        self._count("forward_comm_floor", comm_features)
        c = _columns(COMM_COLUMNS, comm_features)
        return (c["mean_dim"] * c["global_batch_size"] / np.float32(2**23)).astype(np.float32)

    def backward_comm_floor_ms(self, comm_features: FloatArray) -> FloatArray:
        self._count("backward_comm_floor", comm_features)
        c = _columns(COMM_COLUMNS, comm_features)
        return (c["mean_dim"] * c["global_batch_size"] / np.float32(2**23)).astype(np.float32)

    def range_warnings(self, shard_features: FloatArray, comm_features: FloatArray):
        pooling = _columns(SHARD_COLUMNS, shard_features)["pooling_factor"]
        world_size = _columns(COMM_COLUMNS, comm_features)["world_size"]
        warnings = []
        if (pooling > 1000).any():
            warnings.append("pooling_factor out of range")
        if (world_size > 64).any():
            warnings.append("world_size out of range")
        return tuple(warnings)
