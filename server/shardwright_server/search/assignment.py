"""Assignments: where the units and spread lots of a plan lie, and what the devices carry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from shardwright.domain import Shard, ShardingPlan
from shardwright_costmodel.features import FloatArray
from shardwright_server.search.cost import PlanCosts
from shardwright_server.search.lots import BoolArray, LotBook, Spread
from shardwright_server.search.pieces import Float64Array, IntArray


@dataclass(frozen=True)
class Unit:
    """A column piece of a lot, or all of it, on a device.

    Attributes:
        lot: Index of the lot.
        kind: Catalog id.
        device: Where it lies.
    """

    lot: int
    kind: int
    device: int


class Assignment:
    """A complete plan, with the sums that its cost is made of.

    No device has two units of one lot: they would be one.

    Args:
        book: The lots.
        units: Where units lie.
        spreads: Spread lots.

    Attributes:
        lots: `[u] int64`, the lot of each unit.
        kinds: `[u] int64`, catalog ids.
        devices: `[u] int64`.
        spreads: By lot.
        closed: `[lots, w] bool`, where a lot may get no unit: not allowed, or one is there.
        encodings: `[w, e] float32`, sums over each device.
        used_bytes: `[w] int64`.
        dims: `[w] int64`, sums of embedding dims.
        compute_ms: `[w] float64`.
        costs: Of this one plan.
        cost_ms: Of the plan.
    """

    def __init__(self, book: LotBook, units: Iterable[Unit], spreads: dict[int, Spread]) -> None:
        units = list(units)
        self.book = book
        self.lots: IntArray = np.array([unit.lot for unit in units], dtype=np.int64)
        self.kinds: IntArray = np.array([unit.kind for unit in units], dtype=np.int64)
        self.devices: IntArray = np.array([unit.device for unit in units], dtype=np.int64)
        self.spreads = spreads
        self.closed: BoolArray = ~book.allowed
        self.closed[self.lots, self.devices] = True
        self._sum_devices()

    def _sum_devices(self) -> None:
        catalog = self.book.catalog
        num_devices = self.book.num_devices
        self._base: FloatArray = np.zeros((num_devices, catalog.encodings.shape[1]), np.float32)
        self.used_bytes: IntArray = np.zeros(num_devices, dtype=np.int64)
        self.dims: IntArray = np.zeros(num_devices, dtype=np.int64)
        self._all_reduce_bytes = 0
        for spread in self.spreads.values():
            reach = slice(spread.first, spread.first + spread.count)
            self._base[reach] += catalog.encodings[spread.kind]
            self.used_bytes[reach] += catalog.memory_bytes[spread.kind]
            self.dims[reach] += catalog.num_columns[spread.kind]
            self._all_reduce_bytes += spread.all_reduce_bytes
        self.encodings: FloatArray = self._base.copy()
        np.add.at(self.encodings, self.devices, catalog.encodings[self.kinds])
        np.add.at(self.used_bytes, self.devices, catalog.memory_bytes[self.kinds])
        np.add.at(self.dims, self.devices, catalog.num_columns[self.kinds])
        self.compute_ms: Float64Array = self.book.evaluator.compute_ms(self.encodings)
        self.cost_comm()

    def cost_comm(self) -> None:
        """Predicts communication, and with it the cost."""
        self.costs = self.costs_with(self.compute_ms[None], self.dims[None])
        self.cost_ms = float(self.costs.cost_ms[0])

    def costs_with(self, compute_ms: Float64Array, dims: IntArray) -> PlanCosts:
        """Costs of plans `[p, w]` that differ from this one in where units lie."""
        all_reduce_bytes = np.full(len(dims), self._all_reduce_bytes, dtype=np.int64)
        return self.book.evaluator.costs(compute_ms, dims, all_reduce_bytes)

    def copy(self) -> Assignment:
        """An assignment of its own, equal to this one."""
        other = object.__new__(Assignment)
        other.__dict__.update(self.__dict__)
        for name in (
            "lots",
            "kinds",
            "devices",
            "closed",
            "encodings",
            "used_bytes",
            "dims",
            "compute_ms",
        ):
            setattr(other, name, getattr(self, name).copy())
        other.spreads = dict(self.spreads)
        return other

    def rebuilt(
        self, spreads: dict[int, Spread], units: Iterable[Unit], gone: set[int]
    ) -> Assignment:
        """The assignment with other spreads, less the units of some lots, plus some units."""
        stays = ~np.isin(self.lots, list(gone))
        keep = (
            Unit(lot, kind, device)
            for lot, kind, device in zip(
                self.lots[stays].tolist(),
                self.kinds[stays].tolist(),
                self.devices[stays].tolist(),
                strict=True,
            )
        )
        return Assignment(self.book, [*keep, *units], spreads)

    @property
    def transfer_ms(self) -> float:
        """Forward and backward transfer of the busiest device."""
        backward_ms, forward_ms = self.costs.backward_comm_ms, self.costs.forward_comm_ms
        return float(backward_ms.max() + forward_ms.max())

    def fits(self) -> bool:
        """Whether every device can hold what it carries."""
        return bool((self.used_bytes <= self.book.evaluator.memory_bytes).all())

    def take(self, unit: int, other: int, stays: int, goes: int, target: int) -> None:
        """Moves unit `unit` to `target`; sums of memory and dims follow, encodings do not.

        Args:
            unit: Position of the unit that is moved.
            other: Position of the unit that it meets there, or -1.
            stays: Catalog id of what its device gets for it, or -1.
            goes: Catalog id of what the target gets, in place of `other`.
            target: Device.
        """
        source = int(self.devices[unit])
        came = -1 if other < 0 else int(self.kinds[other])
        left = int(self.kinds[unit])
        for sums, weights in (
            (self.used_bytes, self.book.catalog.memory_bytes),
            (self.dims, self.book.catalog.num_columns),
        ):
            sums[source] += (weights[stays] if stays >= 0 else 0) - weights[left]
            sums[target] += weights[goes] - (weights[came] if came >= 0 else 0)
        self.kinds[unit], self.devices[unit] = goes, target
        lot = int(self.lots[unit])
        self.closed[lot, target] = True
        if other >= 0 and int(self.lots[other]) != lot:
            self.closed[self.lots[other], [source, target]] = True, False
            self.closed[lot, source] = False
        elif stays < 0:
            self.closed[lot, source] = False
        if stays >= 0 and other >= 0:
            self.kinds[other], self.devices[other] = stays, source
        elif stays >= 0:
            self.lots = np.append(self.lots, self.lots[unit])
            self.kinds = np.append(self.kinds, stays)
            self.devices = np.append(self.devices, source)
        elif other >= 0:
            keep = np.arange(len(self.lots)) != other
            self.lots, self.kinds = self.lots[keep], self.kinds[keep]
            self.devices = self.devices[keep]

    def to_plan(self) -> ShardingPlan:
        """The plan; pieces of a table by falling width, then by device."""
        columns = self.book.catalog.num_columns[self.kinds].tolist()
        by_lot: dict[int, list[tuple[int, int]]] = {}
        for lot, width, device in zip(
            self.lots.tolist(), columns, self.devices.tolist(), strict=True
        ):
            by_lot.setdefault(lot, []).append((-width, device))
        shards: list[Shard] = []
        for lot, placed in by_lot.items():
            shards += self._unit_shards(lot, sorted(placed))
        for lot, spread in self.spreads.items():
            shards += self._spread_shards(lot, spread)
        names = {table.name: i for i, table in enumerate(self.book.evaluator.problem.tables)}
        return ShardingPlan(tuple(sorted(shards, key=lambda shard: names[shard.table])))

    def _unit_shards(self, lot: int, placed: list[tuple[int, int]]) -> list[Shard]:
        tables = [self.book.evaluator.problem.tables[i] for i in self.book.lots[lot].tables]
        if len(placed) == 1:
            device = placed[0][1]
            return [Shard(t.name, device, 0, t.num_embeddings, 0, t.embedding_dim) for t in tables]
        (table,) = tables
        shards, offset = [], 0
        for negative_width, device in placed:
            shards.append(
                Shard(table.name, device, 0, table.num_embeddings, offset, -negative_width)
            )
            offset -= negative_width
        return shards

    def _spread_shards(self, lot: int, spread: Spread) -> list[Shard]:
        table = self.book.evaluator.problem.tables[self.book.lots[lot].tables[0]]
        rows, columns = table.num_embeddings, table.embedding_dim
        devices = range(spread.first, spread.first + spread.count)
        if spread.all_reduce_bytes:
            return [Shard(table.name, device, 0, rows, 0, columns) for device in devices]
        block = -(-rows // spread.count)
        starts = [min(i * block, rows) for i in range(spread.count)]
        return [
            Shard(table.name, device, start, min(block, rows - start), 0, columns)
            for device, start in zip(devices, starts, strict=True)
        ]
