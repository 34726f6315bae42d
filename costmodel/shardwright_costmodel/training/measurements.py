"""Checked arrays of the rows of one Parquet part, converted without a Python loop over rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shardwright.domain import REUSE_BINS, Optimizer, WeightDtype
from shardwright_costmodel.dataset import PIECE_ROWS, Part
from shardwright_costmodel.errors import DatasetError
from shardwright_costmodel.features import (
    ALL_REDUCE_COLUMNS,
    COMM_COLUMNS,
    FloatArray,
    comm_features,
    shard_features,
    zipf_reuse_histograms,
)

MIN_TRANSFER_MS = 1e-3
"""Noise can make a transfer seem shorter than nothing; no all-to-all is faster than this."""

_ZIPF_CHUNK = 1024
"""Tables at a time without a reuse histogram: bounds memory to some 10 MB."""

IntArray = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Measurements:
    """Groups of feature rows with their times: `r` groups, `n` rows in all.

    A group is a fused operator and its rows are tables, an all-to-all and its rows are devices, or
    an all-reduce, one row. The arrays may be mapped files, too large to copy but in pieces.

    Attributes:
        features: `[n, columns] float32`, raw.
        counts: `[r] int64`, rows of each group, in order.
        times_ms: Forward and backward: `[r, 2] float32` of operators, `[n, 2]` of devices; `[r, 1]`
            of all-reduces.
    """

    features: FloatArray
    counts: IntArray
    times_ms: FloatArray

    def __len__(self) -> int:
        return len(self.counts)

    def pieces(self, groups: int = PIECE_ROWS) -> Iterator[Measurements]:
        """Consecutive groups, some at a time, without copying."""
        per_group = self._times_per_group
        row = 0
        for group in range(0, len(self), groups):
            counts = self.counts[group : group + groups]
            end = row + int(counts.sum())
            times = slice(group, group + groups) if per_group else slice(row, end)
            yield Measurements(self.features[row:end], counts, self.times_ms[times])
            row = end

    @property
    def _times_per_group(self) -> bool:
        # a collective has two devices or more, so as many times as groups are those of operators
        return len(self.times_ms) == len(self.counts)

    def select(self, groups: IntArray) -> Measurements:
        """Some groups, in the order given."""
        counts = self.counts[groups]
        ends = np.cumsum(counts)
        starts = np.cumsum(self.counts) - self.counts
        items = np.arange(counts.sum()) + np.repeat(starts[groups] - (ends - counts), counts)
        times_ms = self.times_ms[groups if self._times_per_group else items]
        return Measurements(self.features[items], counts, times_ms)


class Placement(Enum):
    """Where an operator's weights lay."""

    DEVICE = "device"
    MANAGED = "managed"
    MANAGED_CACHING = "managed_caching"


def compute_measurements(part: Part) -> Measurements:
    """Converts fused operators, but for those that `unusable_operators` counts.

    Raises:
        DatasetError: Naming the first bad column and row.
    """
    rows = _Rows.of(part)
    feasible, placement = _conditions(rows)
    rows = rows.take(np.flatnonzero(feasible & (placement == 0)))
    tables, counts = rows.lists("tables")
    rows.require(counts > 0, "tables", "must name at least one table", counts)
    batch = _batch_sizes(tables, np.repeat(rows.positive("global_batch_size"), counts))
    optimizer = np.repeat(rows.enum("optimizer", Optimizer), counts)
    times_ms = np.stack([rows.positive("forward_ms"), rows.positive("backward_ms")], axis=1)
    num_rows, pooling = tables.positive("num_embeddings"), tables.positive("pooling_factor")
    dtype = tables.enum("weight_dtype", WeightDtype)
    features = shard_features(
        num_rows=num_rows,
        num_columns=tables.positive("embedding_dim"),
        pooling_factor=pooling,
        global_batch_size=batch,
        weight_bytes_per_element=np.array([d.num_bytes for d in WeightDtype])[dtype],
        state_bytes_per_element=np.array([o.state_bytes_per_element for o in Optimizer])[optimizer],
        state_bytes_per_row=np.array([o.state_bytes_per_row for o in Optimizer])[optimizer],
        reuse_histogram=_histograms(tables, num_rows, pooling * batch),
    )
    return Measurements(features, counts, times_ms.astype(np.float32))


def unusable_operators(part: Part) -> dict[str, int]:
    """How many operators there are no cost of, or not that of a device's own memory, by reason.

    Raises:
        DatasetError: Naming the first unknown placement.
    """
    feasible, placement = _conditions(_Rows.of(part))
    reasons = {"infeasible": int((~feasible).sum())}
    for i, member in enumerate(Placement):
        if member is not Placement.DEVICE:
            reasons[member.value] = int((feasible & (placement == i)).sum())
    return {reason: count for reason, count in reasons.items() if count}


def _conditions(rows: _Rows) -> tuple[Array, IntArray]:
    """Whether each operator fitted, and the position of its placement; null is the usual."""
    feasible = rows.column("feasible").fill_null(True).to_numpy(zero_copy_only=False)
    return feasible, rows.enum("placement", Placement, Placement.DEVICE)


def _batch_sizes(tables: _Rows, global_batch_size: Array) -> Array:
    """Samples that each table sees, `[n]`: its own batch size, or else the global one."""
    own = tables.numbers("batch_size")
    positive = np.isnan(own) | (own > 0)
    tables.require(positive, "tables.batch_size", "must be above 0, or null", own)
    return np.where(np.isnan(own), global_batch_size, own)


def _histograms(tables: _Rows, num_rows: Array, lookups: Array) -> Array:
    """Reuse histograms `[n, 17]`; an empty one means unknown, as in a request to the server."""
    bins, lengths = tables.lists("reuse_histogram")
    tables.require(
        (lengths == REUSE_BINS) | (lengths == 0),
        "tables.reuse_histogram",
        f"must have {REUSE_BINS} bins, or none when unknown",
        lengths,
    )
    shares = bins.values()
    bins.require(
        np.isfinite(shares) & (shares >= 0), "tables.reuse_histogram", "must be 0 or more", shares
    )
    histograms = np.empty((len(lengths), REUSE_BINS))
    histograms[lengths > 0] = shares.reshape(-1, REUSE_BINS)
    sums = histograms.sum(axis=1, where=(lengths > 0)[:, None])
    tables.require(
        (lengths == 0) | (sums > 0), "tables.reuse_histogram", "must have a positive sum", sums
    )
    unknown = np.flatnonzero(lengths == 0)
    for chunk in np.split(unknown, range(_ZIPF_CHUNK, len(unknown), _ZIPF_CHUNK)):
        histograms[chunk] = zipf_reuse_histograms(num_rows[chunk], lookups[chunk])
    return histograms


def comm_measurements(part: Part) -> Measurements:
    """Converts collectives of two devices or more; others are left out, they move nothing.

    A forward time becomes the transfer alone: the recorded time less the waiting for the latest
    starter, as measured or else max(start_skew) - own start_skew; at least `MIN_TRANSFER_MS`.

    Raises:
        DatasetError: Naming the first bad column and row.
    """
    rows = _Rows.of(part)
    world = rows.positive("world_size").astype(np.int64)
    per_host = rows.positive("devices_per_host").astype(np.int64)
    rows.require(world % per_host == 0, "devices_per_host", "must divide world_size", per_host)
    batch = rows.positive("global_batch_size")
    dims, skew, forward, backward = (
        _per_device(rows, column, world)
        for column in ("dims", "start_skew_ms", "forward_ms", "backward_ms")
    )
    wait = _waits(rows, world, skew)
    transfers = np.maximum(np.stack([forward - wait, backward], axis=1), MIN_TRANSFER_MS)
    features = _device_features(dims, world, per_host, batch)
    moves = np.repeat(world > 1, world)
    return Measurements(features[moves], world[world > 1], transfers[moves].astype(np.float32))


def _waits(rows: _Rows, world: IntArray, skew: Array) -> Array:
    """How long each device waited for the latest starter, milliseconds."""
    starts = np.cumsum(world) - world
    wait = np.repeat(np.maximum.reduceat(skew, starts), world) - skew
    measured = rows.column("wait_ms").is_valid().to_numpy(zero_copy_only=False)
    wait[np.repeat(measured, world)] = _per_device(rows, "wait_ms", np.where(measured, world, 0))
    return wait


def _per_device(rows: _Rows, column: str, expected: IntArray) -> Array:
    devices, counts = rows.lists(column)
    rows.require(counts == expected, column, "must have one entry per device (world_size)", counts)
    values = devices.values()
    devices.require(np.isfinite(values) & (values >= 0), column, "must be 0 or more", values)
    return values


def _device_features(dims: Array, world: IntArray, per_host: IntArray, batch: Array) -> FloatArray:
    """Features of the devices of ragged collectives, one call for each shape of a job."""
    starts = np.cumsum(world) - world
    features = np.empty((len(dims), len(COMM_COLUMNS)), dtype=np.float32)
    for size, hosted in np.unique(np.stack([world, per_host], axis=1), axis=0):
        groups = np.flatnonzero((world == size) & (per_host == hosted))
        devices = starts[groups][:, None] + np.arange(size)
        features[devices] = comm_features(dims[devices], int(hosted), 1)
    features[:, COMM_COLUMNS.index("global_batch_size")] = np.repeat(batch, world)
    return features


def all_reduce_measurements(part: Part) -> Measurements:
    """Converts all-reduces, or reduce-scatters, of two devices or more; others move nothing.

    Raises:
        DatasetError: Naming the first bad column and row.
    """
    rows = _Rows.of(part)
    columns = [rows.positive(column) for column in ALL_REDUCE_COLUMNS]
    world, per_host = columns[:2]
    rows.require(world % per_host == 0, "devices_per_host", "must divide world_size", per_host)
    moves = world > 1
    features = np.stack(columns, axis=1)[moves].astype(np.float32)
    times_ms = rows.positive("time_ms")[moves, None].astype(np.float32)
    return Measurements(features, np.ones(len(features), dtype=np.int64), times_ms)


class _Rows:
    """Rows of a part, or the items of a list column of it, with checks that name the row.

    Args:
        url: The part.
        array: The values; a struct of columns, or plain numbers.
        row_of: Row of the part that each value stands in.
        prefix: Name of the list column, as `tables.`.
    """

    def __init__(self, url: str, array: pa.Array, row_of: IntArray, prefix: str = "") -> None:
        self._url, self._array, self._prefix, self._row_of = url, array, prefix, row_of

    @classmethod
    def of(cls, part: Part) -> _Rows:
        """The rows of a part."""
        row_of = part.first_row + np.arange(len(part.table))
        return cls(part.url, part.table.to_struct_array().combine_chunks(), row_of)

    def take(self, positions: IntArray) -> _Rows:
        """Some of the rows."""
        taken = self._array.take(pa.array(positions))
        return _Rows(self._url, taken, self._row_of[positions], self._prefix)

    def require(self, good: Array, column: str, rule: str, values: Array) -> None:
        """Raises DatasetError for the first value that is not good."""
        bad = np.flatnonzero(~good)
        if len(bad):
            raise DatasetError(
                f"{self._url}: column {column}, row {self._row_of[bad[0]]}: {rule}, got "
                f"{values[bad[0]]} ({len(bad)} such values in this part)"
            )

    def values(self) -> Array:
        """The numbers themselves, float64; null is NaN."""
        return np.asarray(self._array.to_numpy(zero_copy_only=False), dtype=np.float64)

    def numbers(self, column: str) -> Array:
        """A column of numbers, float64; null is NaN."""
        return _Rows(self._url, self.column(column), self._row_of).values()

    def positive(self, column: str) -> Array:
        """A column of finite numbers above 0, float64."""
        found = self.numbers(column)
        rule = "must be a number above 0"
        self.require(np.isfinite(found) & (found > 0), self._prefix + column, rule, found)
        return found

    def enum(self, column: str, kind: type[Enum], default: Enum | None = None) -> IntArray:
        """A column of names, as positions in an enumeration; null is the default."""
        known = [member.value for member in kind]
        names = self.column(column)
        if default is not None:
            names = names.fill_null(default.value)
        position = pc.fill_null(pc.index_in(names, pa.array(known)), -1)
        found = np.asarray(position.to_numpy(zero_copy_only=False), dtype=np.int64)
        rule = f"must be one of {', '.join(known)}"
        shown = names.to_numpy(zero_copy_only=False)
        self.require(found >= 0, self._prefix + column, rule, shown)
        return found

    def lists(self, column: str) -> tuple[_Rows, IntArray]:
        """The items of a list column, and the length of each row's list; null is empty."""
        lists = self.column(column)
        lengths = pc.fill_null(pc.list_value_length(lists), 0)
        counts = np.asarray(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)
        items = lists.flatten()
        return _Rows(self._url, items, np.repeat(self._row_of, counts), f"{column}."), counts

    def column(self, column: str) -> pa.Array:
        """A column as Arrow has it."""
        return pc.struct_field(self._array, column)
