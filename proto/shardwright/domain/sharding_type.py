"""How tables are cut."""

from __future__ import annotations

from enum import Enum


class ShardingType(Enum):
    """How one table is cut; the values are TorchRec's names.

    TABLE_WISE       whole, on one device
    COLUMN_WISE      in column ranges, each on any device
    ROW_WISE         in equal row ranges, one on every device of the job
    TABLE_ROW_WISE   in equal row ranges, one on every device of one host
    DATA_PARALLEL    a copy on every device; gradients are all-reduced
    """

    TABLE_WISE = "table_wise"
    COLUMN_WISE = "column_wise"
    ROW_WISE = "row_wise"
    TABLE_ROW_WISE = "table_row_wise"
    DATA_PARALLEL = "data_parallel"


BY_ROWS = (ShardingType.ROW_WISE, ShardingType.TABLE_ROW_WISE)
"""Sharding types whose shards are row ranges."""
