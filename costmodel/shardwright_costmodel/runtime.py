"""A bundle's graphs, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shardwright.domain import CostModelAccuracy, CostModelDescription, CostModelId
from shardwright_costmodel.bundle import (
    ALL_REDUCE,
    BACKWARD_COMM,
    COMPUTE_ENCODER,
    COMPUTE_HEAD,
    FORWARD_COMM,
    Bundle,
)
from shardwright_costmodel.features import (
    ALL_REDUCE_COLUMNS,
    COMM_COLUMNS,
    SHARD_COLUMNS,
    FloatArray,
)
from shardwright_costmodel.graph import Graph

_EVERYWHERE = -1e300, 1e300
"""Holds every float32."""


class OnnxCostModel:
    """The cost models of one bundle.

    Thread-safe. The result of a row does not depend on the other rows of a batch nor on how many
    there are. Encodings add: the encoding of a device is the sum of those of its shards.

    Args:
        bundle: A bundle read by `read_bundle` or `Registry.load`.

    Raises:
        BundleError: When ONNX Runtime cannot load a graph, or it has other inputs or outputs.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._manifest = bundle.manifest
        self.encoding_size = bundle.manifest.encoding_size
        self.peak_channels = bundle.manifest.peak_channels
        size, comm = self.encoding_size, (len(COMM_COLUMNS), 1)

        def graph(name: str, widths: tuple[int, int]) -> Graph:
            return Graph(bundle.graphs[name], name, bundle.describe(name), widths)

        self._encoder = graph(COMPUTE_ENCODER, (len(SHARD_COLUMNS), size))
        self._head = graph(COMPUTE_HEAD, (size, 2))
        self._forward_comm = graph(FORWARD_COMM, comm)
        self._backward_comm = graph(BACKWARD_COMM, comm)
        self._all_reduce = graph(ALL_REDUCE, (len(ALL_REDUCE_COLUMNS), 1))

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> OnnxCostModel:
        """The cost model of a bundle."""
        return cls(bundle)

    @property
    def id(self) -> CostModelId:
        """Identity, as it stands in answers."""
        m = self._manifest
        return CostModelId(name=m.name, version=m.version, hardware=m.hardware, source=m.source)

    def description(self, is_default: bool) -> CostModelDescription:
        """Identity and provenance."""
        m = self._manifest
        return CostModelDescription(
            cost_model=self.id,
            create_time=m.created_at,
            num_compute_measurements=m.num_compute_measurements,
            num_comm_measurements=m.num_comm_measurements,
            accuracy=tuple(CostModelAccuracy(**a.model_dump()) for a in m.accuracy),
            software=dict(m.software),
            is_default=is_default,
        )

    def encode(self, shard_features: FloatArray) -> FloatArray:
        """Encodes shards.

        Args:
            shard_features: `[n, len(SHARD_COLUMNS)] float32`.

        Returns:
            `[n, encoding_size] float32`, non-negative.
        """
        return self._encoder.run(shard_features)

    def compute_ms(self, encodings: FloatArray) -> FloatArray:
        """Predicts the fused operator of devices.

        Args:
            encodings: `[m, encoding_size] float32`, summed over each device's shards.

        Returns:
            `[m, 2] float32`: forward, and backward with the optimizer. Exactly 0 for zeros.
        """
        return self._head.run(encodings)

    def compute_floor_ms(self, encodings: FloatArray) -> FloatArray:
        """A floor of `compute_ms`, nondecreasing in every channel.

        Convex in all channels but the last `peak_channels`, while those are held.

        Args:
            encodings: `[m, encoding_size] float32`, non-negative.

        Returns:
            `[m, 2] float32`, at most `compute_ms` for the encoding of any device that holds
            something; for zeros the limit from above, not 0.
        """
        return self._head.run(encodings, output=1)

    def forward_comm_ms(self, comm_features: FloatArray) -> FloatArray:
        """Predicts the transfer of the forward all-to-all, without waiting for late starters.

        Args:
            comm_features: `[m, len(COMM_COLUMNS)] float32`.

        Returns:
            `[m] float32`. Exactly 0 where the world size is 1.
        """
        return self._forward_comm.run(comm_features)[:, 0]

    def backward_comm_ms(self, comm_features: FloatArray) -> FloatArray:
        """Predicts the transfer of the backward all-to-all; as `forward_comm_ms`."""
        return self._backward_comm.run(comm_features)[:, 0]

    def forward_comm_floor_ms(self, comm_features: FloatArray) -> FloatArray:
        """A floor of `forward_comm_ms` for every device of every plan with the same mean dim.

        Args:
            comm_features: `[m, len(COMM_COLUMNS)] float32`; only world_size, devices_per_host,
                global_batch_size and mean_dim have an influence.

        Returns:
            `[m] float32`, nondecreasing in mean_dim. Exactly 0 where the world size is 1.
        """
        return self._forward_comm.run(comm_features, output=1)[:, 0]

    def backward_comm_floor_ms(self, comm_features: FloatArray) -> FloatArray:
        """A floor of `backward_comm_ms`; as `forward_comm_floor_ms`."""
        return self._backward_comm.run(comm_features, output=1)[:, 0]

    def all_reduce_ms(self, all_reduce_features: FloatArray) -> FloatArray:
        """Predicts all-reduces among all devices of a job.

        Args:
            all_reduce_features: `[m, len(ALL_REDUCE_COLUMNS)] float32`.

        Returns:
            `[m] float32`. Exactly 0 where the world size is 1.
        """
        return self._all_reduce.run(all_reduce_features)[:, 0]

    def range_warnings(
        self, shard_features: FloatArray, comm_features: FloatArray
    ) -> tuple[str, ...]:
        """Says, for people, which features lie outside the range of the training data.

        Args:
            shard_features: `[n, len(SHARD_COLUMNS)] float32`.
            comm_features: `[m, len(COMM_COLUMNS)] float32`.
        """
        return (
            *self._out_of_range("shard", SHARD_COLUMNS, shard_features),
            *self._out_of_range("comm", COMM_COLUMNS, comm_features),
        )

    def _out_of_range(self, kind: str, columns: Sequence[str], features: FloatArray) -> list[str]:
        subject = {"shard": "shards", "comm": "devices"}[kind]
        warnings: list[str] = []
        if not len(features):
            return warnings
        named = [f"{kind}.{column}" for column in columns]
        ranges = [self._manifest.training_range.get(name, _EVERYWHERE) for name in named]
        low, high = np.array(ranges).T
        # the bounds went through float32 too: allow its rounding
        slack = 1e-6 * np.maximum(np.abs(low), np.abs(high))
        beyond = (features < low - slack) | (features > high + slack)
        for i in np.flatnonzero(beyond.any(axis=0)).tolist():
            outside = features[beyond[:, i], i]
            warnings.append(
                f"{columns[i]} of {len(outside)} of {len(features)} {subject} lies outside the "
                f"training range {low[i]:g} to {high[i]:g} of cost model {self._manifest.version} "
                f"({outside.min():g} to {outside.max():g}); predictions extrapolate"
            )
        return warnings
