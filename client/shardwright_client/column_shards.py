"""Column shards in the shape that TorchRec runs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from shardwright.domain import Shard


def equal_widths_per_device(shards: Iterable[Shard]) -> list[Shard]:
    """Recuts column shards of one table so that those on one device are equally wide.

    TorchRec 1.8 takes all slices of a table on one rank to be as wide as the first (in
    `_gen_named_parameters_by_table_fused`): with other widths a model does not start, or its
    parameters show the memory of other tables. Neighbours on a device that needs it become one
    shard; if its shards still differ, they are cut to their greatest common width. Every column
    stays on its device, so memory, results and communication stay the same.

    Args:
        shards: All column shards of one table.

    Returns:
        The shards by column offset; unchanged where widths are equal.
    """
    merged = _merge_neighbours(shards, _devices_of_unequal_widths(shards))
    uneven = _devices_of_unequal_widths(merged)
    recut: list[Shard] = []
    for shard in merged:
        width = shard.num_columns
        if shard.device in uneven:
            width = math.gcd(*(s.num_columns for s in merged if s.device == shard.device))
        end = shard.column_offset + shard.num_columns
        recut += [
            replace(shard, column_offset=offset, num_columns=width)
            for offset in range(shard.column_offset, end, width)
        ]
    return recut


def _devices_of_unequal_widths(shards: Iterable[Shard]) -> set[int]:
    widths: dict[int, set[int]] = {}
    for shard in shards:
        widths.setdefault(shard.device, set()).add(shard.num_columns)
    return {device for device, found in widths.items() if len(found) > 1}


def _merge_neighbours(shards: Iterable[Shard], devices: set[int]) -> list[Shard]:
    merged: list[Shard] = []
    for shard in sorted(shards, key=lambda s: s.column_offset):
        last = merged[-1] if merged else None
        if last is not None and last.device == shard.device and shard.device in devices:
            merged[-1] = replace(last, num_columns=last.num_columns + shard.num_columns)
        else:
            merged.append(shard)
    return merged
