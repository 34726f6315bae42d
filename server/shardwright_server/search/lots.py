"""Lots: what a local search cuts and moves, with the constraints on it.

A lot is one table, or the tables of a colocation group, which lie whole on one device. Its *units*
are what lies on single devices and moves freely: column pieces, or the lot as a whole. A lot that
is *spread* (row-wise, table-row-wise, data-parallel) has no units: it lies on all devices of the
job or of a host, and weighs the same on each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import compress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shardwright.domain import (
    COLUMN_MULTIPLE,
    SearchOptions,
    ShardingType,
    allowed_sharding_types,
    colocation_groups,
)
from shardwright_server.search.cost import PlanEvaluator, gradient_bytes
from shardwright_server.search.pieces import MOST_KINDS, Fields, IntArray, Piece, column_pieces

BoolArray = npt.NDArray[np.bool_]

SPREADS = (ShardingType.ROW_WISE, ShardingType.TABLE_ROW_WISE, ShardingType.DATA_PARALLEL)


class Spread(NamedTuple):
    """A lot on all devices of a range.

    Attributes:
        kind: Catalog id of what lies on each.
        first: First device.
        devices: How many.
        all_reduce_bytes: Dense gradient; 0 unless data-parallel.
    """

    kind: int
    first: int
    devices: int
    all_reduce_bytes: int = 0


@dataclass(frozen=True)
class Lot:
    """What is cut as one.

    Attributes:
        tables: Indices in the problem; several in a colocation group.
        columns: Width of the table; of a group, which is never cut, 0.
        min_width: Narrowest unit allowed.
        whole: Whether it may lie uncut on one device.
        cut: Whether it may be cut in columns.
        spreads: Ways to spread it that are allowed and that this cluster can do.
        hosts: Hosts all of whose devices are allowed.
    """

    tables: tuple[int, ...]
    columns: int
    min_width: int
    whole: bool
    cut: bool
    spreads: tuple[ShardingType, ...]
    hosts: tuple[int, ...]

    @property
    def least_units(self) -> int:
        """Units it has at least, if it has any."""
        return 1 if self.whole else 2


class LotBook:
    """The lots of a problem and the catalog ids of what they can be cut into.

    Args:
        evaluator: Of the problem.
        options: Name the sharding types that tables without constraints may have.
        on_step: Called often; may raise to stop.

    Attributes:
        evaluator: Of the problem.
        catalog: The evaluator's.
        lots: The lots: tables in order, a group at its first table.
        allowed: `[lots, w] bool`, devices that constraints allow.
        wholes: `[lots] int64`, catalog ids of uncut lots.
        num_devices: `w`.
        devices_per_host: Devices of a host.
    """

    def __init__(
        self,
        evaluator: PlanEvaluator,
        options: SearchOptions,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.evaluator = evaluator
        self.catalog = evaluator.catalog
        self.num_devices = evaluator.problem.cluster.num_devices
        self.devices_per_host = evaluator.problem.cluster.devices_per_host
        self._options = options
        problem = evaluator.problem
        wholes = self.catalog.whole_tables()
        self._units: dict[tuple[int, int], int] = {}
        self._spreads: dict[tuple[int, ShardingType], int] = {}
        groups = {members[0]: members for members in colocation_groups(problem.tables).values()}
        grouped = {i for members in groups.values() for i in members}
        members = [
            groups.get(i, [i])
            for i in range(len(problem.tables))
            if i in groups or i not in grouped
        ]
        self.allowed: BoolArray = np.ones((len(members), self.num_devices), dtype=bool)
        for i, tables in enumerate(members):
            self._allow(i, tables)
        on_hosts = self.allowed.reshape(len(members), -1, self.devices_per_host)
        hosts: BoolArray = np.asarray(on_hosts.all(axis=2))
        everywhere: list[bool] = np.asarray(hosts.all(axis=1)).tolist()
        all_hosts = tuple(range(hosts.shape[1]))
        several: list[bool] = (self.allowed.sum(axis=1) > 1).tolist()
        self.lots: list[Lot] = []
        for i, tables in enumerate(members):
            on_step()
            of_lot = all_hosts if everywhere[i] else tuple(np.flatnonzero(hosts[i]).tolist())
            self.lots.append(self._lot(tables, of_lot, everywhere[i], several[i]))
            whole = (
                wholes[tables[0]]
                if len(tables) == 1
                else self.catalog.group([wholes[t] for t in tables])
            )
            self._units[i, self.lots[i].columns] = whole
        self.wholes: IntArray = np.array(list(self._units.values()), dtype=np.int64)
        self._meet_all()

    def _meet_all(self) -> None:
        """Encodes all widths and spreads in one call, if they are not too many."""
        lots = list(enumerate(self.lots))
        spreads = [(i, kind) for i, lot in lots for kind in lot.spreads]
        widths = {
            i: range(lot.min_width, lot.columns, COLUMN_MULTIPLE) for i, lot in lots if lot.cut
        }
        if sum(map(len, widths.values())) + len(spreads) > MOST_KINDS:
            return
        pieces: list[Fields] = []
        for i, of_lot in widths.items():
            pieces += column_pieces(self.lots[i].tables, of_lot)
        units = len(pieces)
        pieces += [self._spread_piece(i, kind) for i, kind in spreads]
        ids = self.catalog.ids(pieces)
        keys = [(i, width) for i, of_lot in widths.items() for width in of_lot]
        self._units.update(zip(keys, ids[:units], strict=True))
        self._spreads.update(zip(spreads, ids[units:], strict=True))

    def _allow(self, lot: int, tables: list[int]) -> None:
        for table in tables:
            constraints = self.evaluator.problem.tables[table].constraints
            if constraints.devices:
                named = np.zeros(self.num_devices, dtype=bool)
                named[[d for d in constraints.devices if d < self.num_devices]] = True
                self.allowed[lot] &= named
            if constraints.excluded_devices:
                excluded = [d for d in constraints.excluded_devices if d < self.num_devices]
                self.allowed[lot, excluded] = False

    def _lot(
        self, tables: list[int], hosts: tuple[int, ...], everywhere: bool, several: bool
    ) -> Lot:
        """A lot, of which devices are allowed: on whole hosts, on all of them, on more than one."""
        problem = self.evaluator.problem
        first = problem.tables[tables[0]]
        types = allowed_sharding_types(first, self._options, problem.cluster)
        least = first.constraints.min_column_width
        # on a single device, and on hosts of one, other types come to the same
        whole = (
            ShardingType.TABLE_WISE in types
            or self.num_devices == 1
            or (self.devices_per_host == 1 and ShardingType.TABLE_ROW_WISE in types)
        )
        cut = ShardingType.COLUMN_WISE in types and first.embedding_dim >= 2 * least
        return Lot(
            tables=tuple(tables),
            columns=first.embedding_dim if len(tables) == 1 else 0,
            min_width=least,
            whole=whole,
            cut=cut and len(tables) == 1 and several,
            spreads=self._possible_spreads(types, bool(hosts), everywhere),
            hosts=hosts,
        )

    def _possible_spreads(
        self, types: tuple[ShardingType, ...], somewhere: bool, everywhere: bool
    ) -> tuple[ShardingType, ...]:
        """Ways to spread that are allowed and possible; of two that come to the same, one."""
        several, one_host = self.num_devices > 1, self.num_devices == self.devices_per_host
        in_rows = several and everywhere and ShardingType.ROW_WISE in types
        on_host = self.devices_per_host > 1 and somewhere and not (in_rows and one_host)
        on_host = on_host and ShardingType.TABLE_ROW_WISE in types
        copied = several and everywhere and ShardingType.DATA_PARALLEL in types
        return tuple(compress(SPREADS, (in_rows, on_host, copied)))

    def _parts_of(self, kind: ShardingType) -> int:
        """Row ranges of a way to spread."""
        if kind is ShardingType.DATA_PARALLEL:
            return 1
        return self.num_devices if kind is ShardingType.ROW_WISE else self.devices_per_host

    @property
    def known_units(self) -> Mapping[tuple[int, int], int]:
        """Catalog ids of the units `(lot, columns)` met so far; all there are unless too many."""
        return self._units

    def unit(self, lot: int, columns: int) -> int:
        """Catalog id of a unit of so many columns."""
        return self.units([(lot, columns)])[0]

    def units(self, wanted: Iterable[tuple[int, int]]) -> list[int]:
        """Catalog ids of units `(lot, columns)`; those not met before are encoded in one call."""
        wanted = list(wanted)
        new = [key for key in wanted if key not in self._units]
        if new:
            pieces = [Piece(self.lots[lot].tables[0], columns) for lot, columns in new]
            self._units.update(zip(new, self.catalog.ids(pieces), strict=True))
        return [self._units[key] for key in wanted]

    def meet_spreads(self, wanted: Iterable[tuple[int, ShardingType]]) -> None:
        """Encodes what spread lots leave on a device, in one call."""
        new = [key for key in dict.fromkeys(wanted) if key not in self._spreads]
        if not new:
            return
        pieces = [self._spread_piece(lot, kind) for lot, kind in new]
        self._spreads.update(zip(new, self.catalog.ids(pieces), strict=True))

    def _spread_piece(self, lot: int, kind: ShardingType) -> Piece:
        table, columns = self.lots[lot].tables[0], self.lots[lot].columns
        if kind is ShardingType.DATA_PARALLEL:
            return Piece(table, columns, copies=self.num_devices)
        return Piece(table, columns, row_parts=self._parts_of(kind))

    def spread(self, lot: int, kind: ShardingType, host: int = 0) -> Spread:
        """A lot spread in one of its ways; `host` counts for table-row-wise only."""
        piece = self._spreads.get((lot, kind))
        if piece is None:
            self.meet_spreads([(lot, kind)])
            piece = self._spreads[lot, kind]
        if kind is ShardingType.TABLE_ROW_WISE:
            return Spread(piece, host * self.devices_per_host, self.devices_per_host)
        if kind is ShardingType.ROW_WISE:
            return Spread(piece, 0, self.num_devices)
        table = self.evaluator.problem.tables[self.lots[lot].tables[0]]
        return Spread(piece, 0, self.num_devices, gradient_bytes(table))


def even_widths(columns: int, parts: int) -> list[int]:
    """Widths of a cut in so many parts, multiples of 4 that differ by 4 at most, falling."""
    steps, more = divmod(columns // COLUMN_MULTIPLE, parts)
    return [COLUMN_MULTIPLE * (steps + (i < more)) for i in range(parts)]
