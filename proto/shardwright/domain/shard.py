"""Shards: rectangles of tables on devices."""

from __future__ import annotations

from dataclasses import dataclass

from shardwright.domain.errors import Checks


@dataclass(frozen=True, order=True)
class Shard:
    """A rectangle of one table on one device.

    Attributes:
        table: Name of the table.
        device: Where it lives, from 0.
        row_offset: First row.
        num_rows: Rows; 0 for the empty tail of a row-wise table that has too few for all devices;
            plans of TorchRec may hold such, plans of the server do not.
        column_offset: First column.
        num_columns: Columns.

    Raises:
        InvalidValueError: On negative offsets or sizes.
    """

    table: str
    device: int
    row_offset: int
    num_rows: int
    column_offset: int
    num_columns: int

    def __post_init__(self) -> None:
        checks = Checks()
        for name in ("device", "column_offset"):
            checks.require_int(getattr(self, name), name, 0, 2**31 - 1)
        for name in ("row_offset", "num_rows"):
            checks.require_int(getattr(self, name), name, 0, 2**62)
        checks.require_int(self.num_columns, "num_columns", 1, 2**31 - 1)
        checks.raise_if_any()
