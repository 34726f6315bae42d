"""Whom the search asks: the cost model of one hardware profile."""

from __future__ import annotations

from typing import Protocol

from shardwright.domain import CostModelId
from shardwright_costmodel.features import FloatArray


class CostModel(Protocol):
    """Predicts computation and communication; `m` rows in, `m` rows out.

    The result of a row depends on that row alone, bit for bit, not on the rest of the batch.
    """

    @property
    def id(self) -> CostModelId:
        """Identity and provenance."""
        ...

    @property
    def encoding_size(self) -> int:
        """Numbers in an encoding, `e`."""
        ...

    @property
    def peak_channels(self) -> int:
        """Channels, the last ones, in which `compute_floor_ms` is not convex."""
        ...

    def encode(self, shard_features: FloatArray) -> FloatArray:
        """Encodes shards, `[m, len(SHARD_COLUMNS)]` -> `[m, e] float32`.

        The encoding of a device is the sum of the encodings of its shards.
        """
        ...

    def compute_ms(self, encodings: FloatArray) -> FloatArray:
        """Predicts the fused operator of devices, `[m, e]` -> `[m, 2] float32`.

        Forward, and backward with the optimizer. A row of zeros (no shard) gives exactly 0.
        """
        ...

    def forward_comm_ms(self, comm_features: FloatArray) -> FloatArray:
        """Predicts forward transfers, without waiting: `[m, len(COMM_COLUMNS)]` -> `[m]`."""
        ...

    def backward_comm_ms(self, comm_features: FloatArray) -> FloatArray:
        """Predicts backward transfers: `[m, len(COMM_COLUMNS)]` -> `[m] float32`."""
        ...

    def all_reduce_ms(self, all_reduce_features: FloatArray) -> FloatArray:
        """Predicts all-reduces of dense gradients, `[m, 3]` -> `[m] float32`.

        Columns: world_size, devices_per_host, num_bytes. Exactly 0 where the world size is 1.
        """
        ...

    def compute_floor_ms(self, encodings: FloatArray) -> FloatArray:
        """A floor of `compute_ms`, `[m, e]` -> `[m, 2] float32`.

        Nondecreasing in every channel, and convex in all but the last `peak_channels` while those
        are held; at most `compute_ms` for the encoding of any device that holds something. For a
        row of zeros it is the limit from above, not 0.
        """
        ...

    def forward_comm_floor_ms(self, comm_features: FloatArray) -> FloatArray:
        """A floor of `forward_comm_ms` for every device of every plan with the same mean_dim.

        `[m, len(COMM_COLUMNS)]` -> `[m] float32`. Depends on world_size, devices_per_host,
        global_batch_size and mean_dim alone; nondecreasing in mean_dim.
        """
        ...

    def backward_comm_floor_ms(self, comm_features: FloatArray) -> FloatArray:
        """A floor of `backward_comm_ms`; as `forward_comm_floor_ms`."""
        ...

    def range_warnings(
        self, shard_features: FloatArray, comm_features: FloatArray
    ) -> tuple[str, ...]:
        """Says, for people, what lies outside the range of the training data."""
        ...


class CountingCostModel:
    """A cost model that counts the rows it is asked about.

    Attributes:
        predictions: Rows sent through the models so far.
    """

    def __init__(self, cost_model: CostModel) -> None:
        self._cost_model = cost_model
        self.predictions = 0

    @property
    def id(self) -> CostModelId:
        """As `CostModel.id`."""
        return self._cost_model.id

    @property
    def encoding_size(self) -> int:
        """As `CostModel.encoding_size`."""
        return self._cost_model.encoding_size

    @property
    def peak_channels(self) -> int:
        """As `CostModel.peak_channels`."""
        return self._cost_model.peak_channels

    def encode(self, shard_features: FloatArray) -> FloatArray:
        """As `CostModel.encode`."""
        self.predictions += len(shard_features)
        return self._cost_model.encode(shard_features)

    def compute_ms(self, encodings: FloatArray) -> FloatArray:
        """As `CostModel.compute_ms`."""
        self.predictions += len(encodings)
        return self._cost_model.compute_ms(encodings)

    def forward_comm_ms(self, comm_features: FloatArray) -> FloatArray:
        """As `CostModel.forward_comm_ms`."""
        self.predictions += len(comm_features)
        return self._cost_model.forward_comm_ms(comm_features)

    def backward_comm_ms(self, comm_features: FloatArray) -> FloatArray:
        """As `CostModel.backward_comm_ms`."""
        self.predictions += len(comm_features)
        return self._cost_model.backward_comm_ms(comm_features)

    def all_reduce_ms(self, all_reduce_features: FloatArray) -> FloatArray:
        """As `CostModel.all_reduce_ms`."""
        self.predictions += len(all_reduce_features)
        return self._cost_model.all_reduce_ms(all_reduce_features)

    def compute_floor_ms(self, encodings: FloatArray) -> FloatArray:
        """As `CostModel.compute_floor_ms`."""
        self.predictions += len(encodings)
        return self._cost_model.compute_floor_ms(encodings)

    def forward_comm_floor_ms(self, comm_features: FloatArray) -> FloatArray:
        """As `CostModel.forward_comm_floor_ms`."""
        self.predictions += len(comm_features)
        return self._cost_model.forward_comm_floor_ms(comm_features)

    def backward_comm_floor_ms(self, comm_features: FloatArray) -> FloatArray:
        """As `CostModel.backward_comm_floor_ms`."""
        self.predictions += len(comm_features)
        return self._cost_model.backward_comm_floor_ms(comm_features)

    def range_warnings(
        self, shard_features: FloatArray, comm_features: FloatArray
    ) -> tuple[str, ...]:
        """As `CostModel.range_warnings`; predicts nothing, counts nothing."""
        return self._cost_model.range_warnings(shard_features, comm_features)
