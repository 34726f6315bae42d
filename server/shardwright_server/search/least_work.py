"""The least work that each table brings, however it is cut: what a lower bound is made of.

Two measures of it are used. Per channel of an encoding: the least number that any allowed way to
cut the table gives to that channel, even where no single way is least in all of them. And by
weights of the channels: the least weighted sum that a single way gives, which is more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from shardwright.domain import (
    COLUMN_MULTIPLE,
    SearchOptions,
    ShardingType,
    allowed_sharding_types,
)
from shardwright_costmodel.features import FloatArray
from shardwright_server.search.cost import PlanEvaluator
from shardwright_server.search.cost_model import CostModel
from shardwright_server.search.pieces import (
    MOST_KINDS,
    Fields,
    Float64Array,
    IntArray,
    Piece,
    column_pieces,
)
from shardwright_server.search.reach import Reach, Reaches
from shardwright_server.search.ways import BoolArray, Columns, Spread, Way, cut_rods, least_from

MAX_UNITS = 256
"""Widest table, in units of 4 columns, whose column cuts are looked at: 1024 columns, the widest
that cost models are trained on. A wider one that may be cut in columns is taken to be free, which
leaves a bound valid; cutting it optimally takes the square of its width."""

MAX_KEPT_ROWS = 400_000
"""Encodings kept for weighing, 128 bytes each; of problems with more, only channels are known."""

_CHUNK_ROWS = 8192
"""Pieces encoded at once; bounds memory, not results."""


@dataclass(frozen=True)
class LeastWork:
    """Of `t` tables.

    Attributes:
        total: `[t, e] float32`, least sum over all devices.
        busiest: `[r, e] float32`, for each way to cut a table, a lower bound of what its busiest
            device gets of it.
        busiest_tables: `[r] int64`, the table of each such row; a table without rows has no bound.
        reach: Of each table.
        copied: `[t] bool`, tables that may be data-parallel.
        only_copied: `[t] bool`, tables that must be.
        columns: `[t] int64`, widths.
        dims: `[t] float64`, least sum of dims over devices, unless data-parallel.
        pieces: `[t] int64`, devices that a table can reach at most.
        ways: All ways to cut all tables that are not free; None when they are too many to keep.
        free: Tables that are too wide to look at, and so bring nothing.
    """

    total: FloatArray
    busiest: FloatArray
    busiest_tables: IntArray
    reach: list[Reach]
    copied: BoolArray
    only_copied: BoolArray
    columns: IntArray
    dims: Float64Array
    pieces: IntArray
    ways: list[Way] | None
    free: IntArray

    def weighted(self, ways: list[Way], weights: Float64Array) -> Float64Array:
        """The least weighted sum over devices of each table, cut in a single way.

        Args:
            ways: The ways there are.
            weights: `[e] float64`, not negative.

        Returns:
            `[t]`; 0 for free tables and those that fit in no way.
        """
        least = np.full(len(self.total), np.inf)
        for way in ways:
            least[way.tables] = np.minimum(
                least[way.tables], way.least(way.encodings @ weights, way.allowed)
            )
        least[self.free] = 0.0
        return np.where(np.isfinite(least), least, 0.0)

    def least_peaks(self, channels: int) -> FloatArray:
        """Of each table, what every device that holds a piece of it has in the last channels.

        Returns:
            `[t, channels]`; 0 for free tables, those that fit in no way, and where ways are not
            kept.
        """
        first = self.total.shape[1] - channels
        least = np.full((len(self.total), channels), np.inf, dtype=np.float32)
        for way in self.ways or ():
            peaks = np.where(way.allowed[:, :, None], way.encodings[:, :, first:], np.inf)
            np.minimum.at(least, way.tables, peaks.min(axis=1))
        least[self.free] = 0.0
        return np.where(np.isfinite(least), least, np.float32(0.0))


def least_work(
    evaluator: PlanEvaluator,
    options: SearchOptions,
    cost_model: CostModel,
    on_step: Callable[[], None] = lambda: None,
) -> LeastWork:
    """The least work of every table, over all that its constraints and memory allow.

    A way that memory forbids in truth may still be counted as allowed: that lowers the result.
    """
    return _Collector(evaluator, options, cost_model, on_step).collect()


class _Collector:
    def __init__(
        self,
        evaluator: PlanEvaluator,
        options: SearchOptions,
        cost_model: CostModel,
        on_step: Callable[[], None],
    ) -> None:
        self._evaluator = evaluator
        self._on_step = on_step
        self._problem = evaluator.problem
        self._options = options
        self._cost_model = cost_model
        tables, cluster = self._problem.tables, self._problem.cluster
        reaches = Reaches(cluster)
        self._reach = [reaches.of(table) for table in tables]
        types = [allowed_sharding_types(table, options, cluster) for table in tables]
        self._allows: dict[ShardingType, BoolArray] = {
            kind: np.array([kind in of_table for of_table in types]) for kind in ShardingType
        }
        # on a single device every way to cut leaves a table whole
        self._allows[ShardingType.TABLE_WISE] |= cluster.num_devices == 1
        self._columns: IntArray = np.array([table.embedding_dim for table in tables])
        self._min_columns: IntArray = np.array([t.constraints.min_column_width for t in tables])
        size = len(tables), cost_model.encoding_size
        self._total: FloatArray = np.full(size, np.inf, dtype=np.float32)
        self._ways: list[Way] | None = []
        self._kept_rows = 0
        self._kept_in_catalog = int(self._columns.sum()) // COLUMN_MULTIPLE <= MOST_KINDS
        self._busiest: list[FloatArray] = []
        self._busiest_tables: list[IntArray] = []
        self._waiting: list[tuple[list[Fields], Callable[[FloatArray], None]]] = []
        self._waiting_rows = 0

    def collect(self) -> LeastWork:
        cluster = self._problem.cluster
        num_devices, on_host = cluster.num_devices, cluster.devices_per_host
        self._add_spread(ShardingType.ROW_WISE, num_devices, copies=False)
        self._add_spread(ShardingType.TABLE_ROW_WISE, on_host, copies=False)
        copied = self._copied()
        self._add_spread(ShardingType.DATA_PARALLEL, num_devices, copies=True, allowed=copied)
        free = self._add_columns()
        self._flush()
        self._total[free] = 0.0
        self._total[np.isinf(self._total)] = 0.0  # no way fits into memory: no plan, any bound
        tables = np.concatenate([*self._busiest_tables, np.empty(0, np.int64)])
        rows = np.concatenate([*self._busiest, np.empty((0, self._total.shape[1]), np.float32)])
        is_free = np.zeros(len(self._total), dtype=bool)
        is_free[free] = True
        bounded = ~is_free[tables]
        return LeastWork(
            total=self._total,
            busiest=rows[bounded],
            busiest_tables=tables[bounded],
            reach=self._reach,
            copied=copied,
            only_copied=copied & (np.sum(list(self._allows.values()), axis=0) == 1),
            columns=self._columns,
            dims=self._dims(),
            pieces=self._pieces(),
            ways=self._ways,
            free=free,
        )

    def _keep(self, way: Way) -> None:
        self._kept_rows += way.encodings.size // way.encodings.shape[-1]
        if self._ways is not None:
            self._ways.append(way)
        if self._kept_rows > MAX_KEPT_ROWS:
            self._ways = None

    def _dims(self) -> Float64Array:
        """Other ways to cut leave one copy of each output on each device that they reach."""
        cluster, allows = self._problem.cluster, self._allows
        once = allows[ShardingType.TABLE_WISE] | allows[ShardingType.COLUMN_WISE]
        on_host = allows[ShardingType.TABLE_ROW_WISE]
        spread = np.where(on_host, cluster.devices_per_host, cluster.num_devices)
        return np.asarray(self._columns * np.where(once, 1.0, spread))

    def _pieces(self) -> IntArray:
        cluster, allows = self._problem.cluster, self._allows
        everywhere = allows[ShardingType.ROW_WISE] | allows[ShardingType.DATA_PARALLEL]
        most = np.maximum(
            np.where(allows[ShardingType.TABLE_ROW_WISE], cluster.devices_per_host, 1),
            np.where(allows[ShardingType.COLUMN_WISE], self._columns // self._min_columns, 1),
        )
        return np.asarray(np.where(everywhere, cluster.num_devices, np.maximum(1, most)))

    def _copied(self) -> BoolArray:
        least_bytes = int(self._evaluator.memory_bytes.min())
        copied = self._allows[ShardingType.DATA_PARALLEL].copy()
        for i in np.flatnonzero(copied).tolist():
            fits = self._problem.replica_bytes(self._problem.tables[i]) <= least_bytes
            copied[i] = fits and self._reach[i].everywhere
        return copied

    def _add_spread(
        self,
        kind: ShardingType,
        devices: int,
        copies: bool,
        allowed: BoolArray | None = None,
    ) -> None:
        """A way that puts the same piece on a number of devices."""
        tables = self._problem.tables
        if allowed is None:
            allowed = self._allows[kind]
        parts = {"copies": devices} if copies else {"row_parts": devices}
        for indices in _chunks(np.flatnonzero(allowed), _CHUNK_ROWS):
            pieces: list[Fields] = [
                Piece(i, tables[i].embedding_dim, **parts) for i in indices.tolist()
            ]
            self._add(pieces, partial(self._note_spread, indices, devices, copies))

    def _note_spread(
        self, indices: IntArray, devices: int, copies: bool, encodings: FloatArray
    ) -> None:
        self._keep(Spread(indices, encodings[:, None], devices, copies))
        self._total[indices] = np.minimum(self._total[indices], encodings * devices)
        self._add_busiest(indices, encodings)

    def _add(self, pieces: list[Fields], note: Callable[[FloatArray], None]) -> None:
        """Calls `note` with the encodings of pieces `[n, e]`, once there are enough to encode."""
        self._on_step()
        if self._waiting_rows + len(pieces) > _CHUNK_ROWS:
            self._flush()
        self._waiting.append((pieces, note))
        self._waiting_rows += len(pieces)

    def _flush(self) -> None:
        waiting, self._waiting, self._waiting_rows = self._waiting, [], 0
        encodings = self._encode([piece for pieces, _ in waiting for piece in pieces])
        start = 0
        for pieces, note in waiting:
            note(encodings[start : start + len(pieces)])
            start += len(pieces)

    def _encode(self, pieces: list[Fields]) -> FloatArray:
        """Encodings of pieces, `[n, e]`; the catalog keeps them, unless they are too many."""
        catalog = self._evaluator.catalog
        if self._kept_in_catalog:
            ids = catalog.ids(pieces)
            return catalog.encodings[ids]
        return self._cost_model.encode(catalog.features(pieces))

    def _add_busiest(self, indices: IntArray, encodings: FloatArray) -> None:
        possible = np.isfinite(encodings).all(axis=1)
        self._busiest.append(encodings[possible])
        self._busiest_tables.append(indices[possible])

    def _add_columns(self) -> IntArray:
        """Whole tables and column cuts; returns the tables that are too wide to look at."""
        units, least = self._columns // COLUMN_MULTIPLE, self._min_columns // COLUMN_MULTIPLE
        # narrowest pieces; 0: not to be cut
        least = np.where(self._allows[ShardingType.COLUMN_WISE] & (units >= 2 * least), least, 0)
        is_free = (least > 0) & (units > MAX_UNITS)
        has_units = self._allows[ShardingType.TABLE_WISE] | (least > 0)
        looked_at = np.flatnonzero(has_units & ~is_free)
        shapes: dict[tuple[int, int], list[int]] = {}
        shape_of = zip(units[looked_at].tolist(), least[looked_at].tolist(), strict=True)
        for i, shape in zip(looked_at.tolist(), shape_of, strict=True):
            shapes.setdefault(shape, []).append(i)
        for (whole, narrowest), members in shapes.items():
            narrow = range(narrowest, whole - narrowest + 1) if narrowest else ()
            widths = np.array([*narrow, whole])
            columns = (COLUMN_MULTIPLE * widths).tolist()
            for indices in _chunks(np.array(members), max(1, _CHUNK_ROWS // len(widths))):
                pieces = column_pieces(indices.tolist(), columns)
                self._add(pieces, partial(self._note_columns, indices, widths, narrowest))
        return np.flatnonzero(is_free)

    def _note_columns(
        self, indices: IntArray, widths: IntArray, least: int, encodings: FloatArray
    ) -> None:
        """Tables of one width, with all their pieces of allowed widths.

        Args:
            indices: `[n] int64`, of the tables.
            widths: Rising, in units; the last is the whole table's.
            least: Narrowest piece, in units; 0: the tables are not cut.
            encodings: `[n * widths, e]`, of all widths of each table in turn.
        """
        units = int(widths[-1])
        encoded = encodings.reshape(len(indices), len(widths), -1)
        allowed = widths <= self._fitting_units(indices)[:, None]
        allowed[:, -1] &= self._allows[ShardingType.TABLE_WISE][indices]
        way = Columns(indices, encoded, widths, allowed)
        self._keep(way)
        cheapest = way.pieces(encoded, allowed)
        if least:
            cheapest = cut_rods(cheapest)
        self._total[indices] = np.minimum(self._total[indices], cheapest[:, -1])
        # some device gets so many units at least, as it is cut in few pieces
        devices = np.array([len(self._reach[i].devices) for i in indices.tolist()])
        most_devices = np.maximum(1, np.minimum(devices, units // least)) if least else 1
        shares = np.broadcast_to(-(-units // most_devices), len(indices))
        # what is at least so wide, cut in any way
        self._add_busiest(indices, least_from(cheapest, shares))

    def _fitting_units(self, indices: IntArray) -> IntArray:
        """Widths, in units, of the widest pieces of tables that an allowed device can hold."""
        problem, optimizer = self._problem, self._problem.optimizer
        tables = [problem.tables[i] for i in indices.tolist()]
        rows = np.array([table.num_embeddings for table in tables])
        weight_bytes = np.array([table.weight_dtype.num_bytes for table in tables])
        room = np.array([self._reach[i].largest_bytes for i in indices.tolist()])
        # as ShardingProblem.shard_bytes
        column_bytes = rows * (weight_bytes + optimizer.state_bytes_per_element)
        left = room - rows * optimizer.state_bytes_per_row
        return np.asarray(left // (COLUMN_MULTIPLE * column_bytes))


def _chunks(indices: IntArray, size: int) -> Iterator[IntArray]:
    return (indices[start : start + size] for start in range(0, len(indices), size))
