"""What plans cost, many at a time.

compute_d          forward + backward + optimizer of the fused operator of device d
backward_comm_d    its all-to-all, and the all-reduce of the gradients of data-parallel tables
wait_d             max_e(compute_e + backward_comm_e) - (compute_d + backward_comm_d): the forward
                   all-to-all begins for good when the last device arrives
total_d            compute_d + backward_comm_d + forward_comm_d
cost of the plan   max_d(total_d + wait_d)

In NeuroShard (MLSys 2023, arXiv 2305.01868) one network predicts wait and forward transfer
together; here the wait is computed and the transfer predicted, so that no skew lies outside the
training range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from shardwright.domain import EmbeddingTable, ShardingPlan, ShardingProblem
from shardwright_costmodel.features import COMM_COLUMNS, FloatArray, comm_features
from shardwright_server.search.cost_model import CostModel
from shardwright_server.search.pieces import Float64Array, IntArray, Piece, PieceCatalog

_GRADIENT_ELEMENT_BYTES = 4
"""Dense gradients travel in fp32."""

_MOST_TRANSFERS_KEPT = 500_000
"""Devices whose transfers are remembered, at most: a few MB."""


def gradient_bytes(table: EmbeddingTable) -> int:
    """What the gradient of a data-parallel table adds to the job's all-reduce."""
    return table.num_embeddings * table.embedding_dim * _GRADIENT_ELEMENT_BYTES


@dataclass(frozen=True)
class PlanCosts:
    """Costs of `p` plans on `w` devices.

    Attributes:
        compute_ms: `[p, w] float64`.
        forward_comm_ms: `[p, w] float64`, transfer only.
        backward_comm_ms: `[p, w] float64`, with the all-reduce of data-parallel gradients.
    """

    compute_ms: Float64Array
    forward_comm_ms: Float64Array
    backward_comm_ms: Float64Array

    @cached_property
    def wait_ms(self) -> Float64Array:
        """`[p, w]`, waiting for the slowest device before the forward all-to-all."""
        arrival_ms = self.compute_ms + self.backward_comm_ms
        return np.asarray(arrival_ms.max(axis=1, keepdims=True) - arrival_ms)

    @cached_property
    def total_ms(self) -> Float64Array:
        """`[p, w]`, work without waiting."""
        return self.compute_ms + self.backward_comm_ms + self.forward_comm_ms

    @cached_property
    def cost_ms(self) -> Float64Array:
        """`[p]`, ms per iteration of the slowest device."""
        return np.asarray((self.total_ms + self.wait_ms).max(axis=1))


@dataclass(frozen=True)
class Layout:
    """One plan, in the catalog's terms; the order of the pieces fixes the order of summation.

    Attributes:
        piece_ids: `[s] int64`.
        devices: `[s] int64`, the device of each piece.
    """

    piece_ids: IntArray
    devices: IntArray


class PlanEvaluator:
    """Predicts what plans of one problem cost.

    Attributes:
        problem: The problem.
        catalog: Its pieces.
        memory_bytes: `[w] int64`, what shards may fill on each device.
        peak_channels: See `CostModel`.
        plans_evaluated: Complete plans whose cost was predicted so far.
    """

    def __init__(self, problem: ShardingProblem, cost_model: CostModel) -> None:
        self.problem = problem
        self.catalog = PieceCatalog(problem, cost_model)
        cluster = problem.cluster
        self.memory_bytes: IntArray = np.array(
            [cluster.shard_memory_bytes(d) for d in range(cluster.num_devices)], dtype=np.int64
        )
        self.plans_evaluated = 0
        self.peak_channels = cost_model.peak_channels
        self._cost_model = cost_model
        self._transfers_of: dict[bytes, tuple[Float64Array, Float64Array]] = {}

    def compute_ms(self, encodings: FloatArray) -> Float64Array:
        """Forward + backward of devices, `[m, e] float32` -> `[m] float64`."""
        both = self._cost_model.compute_ms(encodings).astype(np.float64)
        return np.asarray(both[:, 0] + both[:, 1])

    def costs(
        self,
        compute_ms: Float64Array,
        device_dims: IntArray,
        all_reduce_bytes: IntArray | None = None,
    ) -> PlanCosts:
        """Costs of plans whose computation is known, in one batch.

        Args:
            compute_ms: `[p, w] float64`.
            device_dims: `[p, w] int64`, the sum of dims on each device.
            all_reduce_bytes: `[p] int64`, dense gradients of data-parallel tables; None: no such.
        """
        self.plans_evaluated += len(compute_ms)
        forward, backward = self._transfers(device_dims)
        if all_reduce_bytes is not None and all_reduce_bytes.any():
            backward += self.all_reduce_ms(all_reduce_bytes)[:, None]
        return PlanCosts(compute_ms, forward, backward)

    def _transfers(self, device_dims: IntArray) -> tuple[Float64Array, Float64Array]:
        """Forward and backward transfers, `[p, w]` each; equal sums of dims are predicted once."""
        keys = [dims.tobytes() for dims in np.ascontiguousarray(device_dims)]
        new = {key: plan for plan, key in enumerate(keys) if key not in self._transfers_of}
        if new:
            dims = device_dims[list(new.values())]
            features = self.comm_features(dims)
            forward = self._cost_model.forward_comm_ms(features).astype(np.float64)
            backward = self._cost_model.backward_comm_ms(features).astype(np.float64)
            rows = zip(forward.reshape(dims.shape), backward.reshape(dims.shape), strict=True)
            self._transfers_of.update(zip(new, rows, strict=True))
        found = [self._transfers_of[key] for key in keys]
        if len(self._transfers_of) * device_dims.shape[1] > _MOST_TRANSFERS_KEPT:
            self._transfers_of.clear()
        return np.array([pair[0] for pair in found]), np.array([pair[1] for pair in found])

    def all_reduce_ms(self, num_bytes: IntArray) -> Float64Array:
        """One all-reduce of all gradients of a plan, `[p] -> [p]`; exactly 0 for none."""
        if not num_bytes.any():
            return np.zeros(len(num_bytes))
        cluster = self.problem.cluster
        features = np.empty((len(num_bytes), 3), dtype=np.float32)
        features[:, 0] = cluster.num_devices
        features[:, 1] = cluster.devices_per_host
        features[:, 2] = num_bytes
        ms = self._cost_model.all_reduce_ms(features).astype(np.float64)
        return np.asarray(np.where(num_bytes > 0, ms, 0.0))

    def transfer_ms(
        self, device_dims: Float64Array, mean_dims: Float64Array, host_mean_dims: Float64Array
    ) -> Float64Array:
        """Transfers of the devices with the largest dims on the fullest host, `[m]` each.

        Returns:
            `[m, 2]`, forward and backward.
        """
        cluster = self.problem.cluster
        features = np.empty((len(device_dims), len(COMM_COLUMNS)), dtype=np.float32)
        features[:, 0] = cluster.num_devices
        features[:, 1] = cluster.devices_per_host
        features[:, 2] = self.problem.global_batch_size
        features[:, 3] = features[:, 5] = device_dims
        features[:, 4] = mean_dims
        features[:, 6] = features[:, 7] = host_mean_dims
        forward = self._cost_model.forward_comm_ms(features)
        backward = self._cost_model.backward_comm_ms(features)
        return np.stack([forward, backward], axis=1).astype(np.float64)

    def comm_features(self, device_dims: IntArray) -> FloatArray:
        """Raw features of all-to-alls, `[p, w] int64` -> `[p * w, len(COMM_COLUMNS)] float32`."""
        features = comm_features(
            device_dims, self.problem.cluster.devices_per_host, self.problem.global_batch_size
        )
        return features.reshape(-1, features.shape[2])

    def layout_costs(self, layouts: Sequence[Layout]) -> PlanCosts:
        """Costs of whole plans, in one batch. A plan's costs do not depend on the others."""
        shape = len(layouts), self.problem.cluster.num_devices
        encodings = np.zeros((*shape, self.catalog.encodings.shape[1]), dtype=np.float32)
        for plan, layout in enumerate(layouts):
            pieces = self.catalog.encodings[layout.piece_ids]
            np.add.at(encodings[plan], layout.devices, pieces)
        compute_ms = self.compute_ms(encodings.reshape(-1, encodings.shape[2]))
        dims = np.array([self.device_dims(layout) for layout in layouts])
        gradients = np.array([self._gradient_bytes(layout) for layout in layouts])
        return self.costs(compute_ms.reshape(shape), dims, gradients)

    def _gradient_bytes(self, layout: Layout) -> int:
        """What the job all-reduces: one fp32 gradient of each data-parallel table."""
        copies = layout.piece_ids[self.catalog.num_columns[layout.piece_ids] == 0]
        copied = {self.catalog.piece(i).table for i in copies.tolist()}
        return sum(gradient_bytes(self.problem.tables[table]) for table in copied)

    def device_dims(self, layout: Layout) -> IntArray:
        """The sum of dims on each device, `[w] int64`; a row piece counts its full width."""
        dims = np.zeros(self.problem.cluster.num_devices, dtype=np.int64)
        np.add.at(dims, layout.devices, self.catalog.num_columns[layout.piece_ids])
        return dims

    def layout(self, plan: ShardingPlan) -> Layout:
        """A legal plan in the catalog's terms: tables in the problem's order, then by offset."""
        pieces: list[Piece] = []
        devices: list[int] = []
        for index, table in enumerate(self.problem.tables):
            shards = plan.by_table[table.name]
            in_rows = any(shard.num_rows != table.num_embeddings for shard in shards)
            # several whole tables are copies
            wide = shards[0].num_columns == table.embedding_dim
            copied = len(shards) > 1 and wide and not in_rows
            row_parts = len(shards) if in_rows else 1
            copies = len(shards) if copied else 1
            for shard in shards:
                pieces.append(Piece(index, shard.num_columns, row_parts, copies))
                devices.append(shard.device)
        return Layout(
            np.array(self.catalog.ids(pieces), dtype=np.int64), np.array(devices, dtype=np.int64)
        )
