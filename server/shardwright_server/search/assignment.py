"""Assignments: where the units and spread lots of a plan lie."""

from __future__ import annotations

from dataclasses import dataclass

from shardwright.domain import Shard, ShardingPlan
from shardwright_server.search.lots import LotBook, Spread
from shardwright_server.search.pieces import IntArray


@dataclass(frozen=True, eq=False)
class Assignment:
    """A complete plan, in lots.

    No device has two units of one lot: they would be one.

    Attributes:
        book: The lots.
        lots: `[u] int64`, the lot of each unit.
        kinds: `[u] int64`, catalog ids.
        devices: `[u] int64`.
        spreads: Spread lots, by number.
    """

    book: LotBook
    lots: IntArray
    kinds: IntArray
    devices: IntArray
    spreads: dict[int, Spread]

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
        devices = range(spread.first, spread.first + spread.devices)
        if spread.all_reduce_bytes:
            return [Shard(table.name, device, 0, rows, 0, columns) for device in devices]
        block = -(-rows // spread.devices)
        starts = [min(i * block, rows) for i in range(spread.devices)]
        return [
            Shard(table.name, device, start, min(block, rows - start), 0, columns)
            for device, start in zip(devices, starts, strict=True)
        ]
