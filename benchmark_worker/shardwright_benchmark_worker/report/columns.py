"""Columns of a part, or of a piece of one, as arrays, with what a report derives from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shardwright.domain import REUSE_BINS, WeightDtype
from shardwright_costmodel.dataset import Part
from shardwright_costmodel.errors import DatasetError

Array = npt.NDArray[Any]

FLOAT_BYTES = 4
"""Pooled embeddings travel as fp32."""


def numbers(table: pa.Table, column: str) -> Array:
    """A column of numbers `[rows] float64`; null, or a column that is not there, is NaN."""
    if column not in table.schema.names:
        return np.full(table.num_rows, np.nan)
    values = table.column(column).combine_chunks()
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)


def texts(table: pa.Table, column: str, default: str = "") -> Array:
    """A column of words `[rows] object`; null, or a column that is not there, is the default."""
    if column not in table.schema.names:
        return np.full(table.num_rows, default, dtype=object)
    values = pc.fill_null(table.column(column).combine_chunks(), default)
    return np.asarray(values.to_numpy(zero_copy_only=False))


@dataclass(frozen=True)
class Lists:
    """A list column: its items one after another, and how many stand in each row."""

    items: pa.Array
    counts: Array

    @classmethod
    def of(cls, table: pa.Table, column: str) -> Lists:
        """Reads a column; null, or a column that is not there, is empty."""
        if column not in table.schema.names:
            return cls(pa.array([], pa.float64()), np.zeros(table.num_rows, dtype=np.int64))
        values = table.column(column).combine_chunks()
        counts = pc.fill_null(pc.list_value_length(values), 0)
        return cls(values.flatten(), np.asarray(counts.to_numpy(zero_copy_only=False)))

    def numbers(self, name: str | None = None) -> Array:
        """The items, or a field of them, `[items] float64`; null is NaN."""
        values = self.items if name is None else pc.struct_field(self.items, name)
        return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)

    def sums(self, values: Array) -> Array:
        """Sum of the items of each row, `[rows]`; 0 of none."""
        row_of = np.repeat(np.arange(len(self.counts)), self.counts)
        return np.bincount(row_of, weights=values, minlength=len(self.counts))

    def largest(self, values: Array) -> Array:
        """Largest item of each row, `[rows]`; 0 of none."""
        result = np.zeros(len(self.counts))
        row_of = np.repeat(np.arange(len(self.counts)), self.counts)
        np.maximum.at(result, row_of, values)
        return result


@dataclass(frozen=True)
class Operators:
    """Fused operators of a part. `r` rows, `n` tables in all.

    Attributes:
        num_tables: `[r]` tables of each operator.
        rows: `[n]` of each table.
        dim: `[n]`.
        pooling: `[n]` lookups per sample.
        dtype: `[n]` names.
        batch: `[r]` global batch size.
        batch_of_table: `[n]` samples that each table sees.
        optimizer: `[r]` names.
        placement: `[r]` names.
        feasible: `[r]` bool.
        lookups: `[r]` in all.
        distinct_rows: `[r]` rows that they touch, by the reuse histograms.
        hottest: `[r]` lookups of the row that is looked up most, to a factor of 2.
        gathered_bytes: `[r]` weights that forward reads, each lookup anew.
        output_bytes: `[r]` pooled embeddings.
        weight_bytes: `[r]` of the tables.
        times_ms: Forward and backward, `[r, 2]`; NaN where infeasible.
        spread_percent: From p10 to p90, of the median, `[r, 2]`.
        ci_percent: Of the medians, `[r, 2]`; NaN where not recorded.
        drift_percent: `[r]`; NaN where not recorded.
    """

    num_tables: Array
    rows: Array
    dim: Array
    pooling: Array
    dtype: Array
    batch: Array
    batch_of_table: Array
    optimizer: Array
    placement: Array
    feasible: Array
    lookups: Array
    distinct_rows: Array
    hottest: Array
    gathered_bytes: Array
    output_bytes: Array
    weight_bytes: Array
    times_ms: Array
    spread_percent: Array
    ci_percent: Array
    drift_percent: Array

    @classmethod
    def of(cls, part: Part) -> Operators:
        """Reads the columns."""
        table = part.table
        tables = Lists.of(table, "tables")
        batch = numbers(table, "global_batch_size")
        own_batch = tables.numbers("batch_size")
        batch_of_table = np.where(np.isnan(own_batch), np.repeat(batch, tables.counts), own_batch)
        rows, dim = tables.numbers("num_embeddings"), tables.numbers("embedding_dim")
        pooling = tables.numbers("pooling_factor")
        dtype = np.asarray(pc.struct_field(tables.items, "weight_dtype").to_pylist(), dtype=object)
        element_bytes = _element_bytes(dtype)
        lookups = pooling * batch_of_table
        per_row, hottest = _reuse(pc.struct_field(tables.items, "reuse_histogram"))
        times = np.stack([numbers(table, f"{t}_ms") for t in ("forward", "backward")], axis=1)
        feasible = np.ones(len(batch), dtype=bool)
        if "feasible" in table.schema.names:
            feasible = np.asarray(
                pc.fill_null(table.column("feasible").combine_chunks(), True).to_numpy(
                    zero_copy_only=False
                ),
                dtype=bool,
            )
        return cls(
            num_tables=tables.counts,
            rows=rows,
            dim=dim,
            pooling=pooling,
            dtype=dtype,
            batch=batch,
            batch_of_table=batch_of_table,
            optimizer=texts(table, "optimizer"),
            placement=texts(table, "placement", "device"),
            feasible=feasible,
            lookups=tables.sums(lookups),
            distinct_rows=tables.sums(np.minimum(lookups / per_row, rows)),
            hottest=tables.largest(hottest),
            gathered_bytes=tables.sums(lookups * dim * element_bytes),
            output_bytes=tables.sums(batch_of_table * dim * FLOAT_BYTES),
            weight_bytes=tables.sums(rows * dim * element_bytes),
            times_ms=times,
            spread_percent=np.stack([_spread(table, t) for t in ("forward", "backward")], axis=1),
            ci_percent=np.stack(
                [numbers(table, f"{t}_ci_percent") for t in ("forward", "backward")], axis=1
            ),
            drift_percent=numbers(table, "drift_percent"),
        )


def _reuse(histograms: pa.Array) -> tuple[Array, Array]:
    """Mean lookups of a distinct row, and those of the hottest bin with a share, `[n]`.

    Both are 1 where a table has no histogram.
    """
    lengths = np.asarray(pc.list_value_length(histograms).to_numpy(zero_copy_only=False))
    known = lengths == REUSE_BINS
    per_row, hottest = np.ones(len(lengths)), np.ones(len(lengths))
    if known.any():
        shares = histograms.filter(pa.array(known)).flatten().to_numpy(zero_copy_only=False)
        shares = np.maximum(shares.reshape(-1, REUSE_BINS), 1e-12)
        # bin i holds counts in (2^(i - 1), 2^i]
        counts = np.maximum(0.75 * 2.0 ** np.arange(REUSE_BINS), 1.0)
        per_row[known] = shares @ counts / shares.sum(axis=1)
        last = REUSE_BINS - 1 - (shares[:, ::-1] > 1e-9).argmax(axis=1)
        hottest[known] = counts[last]
    return per_row, hottest


def _element_bytes(dtype: Array) -> Array:
    sizes = np.full(len(dtype), float(FLOAT_BYTES))
    for member in WeightDtype:
        sizes[dtype == member.value] = member.num_bytes
    return sizes


def _spread(table: pa.Table, time: str) -> Array:
    median, p10, p90 = (numbers(table, f"{time}_ms{suffix}") for suffix in ("", "_p10", "_p90"))
    with np.errstate(divide="ignore", invalid="ignore"):
        return 100.0 * (p90 - p10) / median


@dataclass(frozen=True)
class Collectives:
    """All-to-alls, all-reduces or reduce-scatters of a part, `r` rows.

    Attributes:
        world: `[r]` devices.
        per_host: `[r]` devices of a host.
        busiest_bytes: `[r]` that the device which moves most sends to others, or, of all-reduces
            and reduce-scatters, holds.
        imbalance: `[r]` largest over mean sum of dims; NaN but for all-to-alls.
        batch: `[r]` global batch size; NaN but for all-to-alls.
        skew_ms: `[r]` between first and last starter; NaN but for all-to-alls.
        times_ms: Of the slowest device, `[r, 1]`, or forward (without waiting) and backward of
            all-to-alls, `[r, 2]`.
        spread_percent: From p10 to p90, `[r]`; NaN of all-to-alls.
        ci_percent: `[r, 1 or 2]`; NaN where not recorded.
        drift_percent: `[r]`; NaN where not recorded.
    """

    world: Array
    per_host: Array
    busiest_bytes: Array
    imbalance: Array
    batch: Array
    skew_ms: Array
    times_ms: Array
    spread_percent: Array
    ci_percent: Array
    drift_percent: Array

    @classmethod
    def of_all_to_all(cls, part: Part) -> Collectives:
        """Reads an all-to-all's columns."""
        table = part.table
        world, batch = numbers(table, "world_size"), numbers(table, "global_batch_size")
        dims = _per_device(part, "dims", world)
        values = dims.numbers()
        largest, total = dims.largest(values), dims.sums(values)
        skew = _per_device(part, "start_skew_ms", world)
        # a device keeps its own samples: it sends the other (w - 1) / w of its pooled embeddings,
        # and receives as much of the others' as its share of the samples
        with np.errstate(divide="ignore", invalid="ignore"):
            sent = largest * batch * FLOAT_BYTES * (world - 1) / world
            imbalance = np.where(total > 0, largest * world / total, 1.0)
        return cls(
            world=world,
            per_host=numbers(table, "devices_per_host"),
            busiest_bytes=sent,
            imbalance=imbalance,
            batch=batch,
            skew_ms=skew.largest(skew.numbers()),
            times_ms=_all_to_all_ms(part, skew, world),
            spread_percent=np.full(len(world), np.nan),
            ci_percent=np.stack(
                [numbers(table, f"{t}_ci_percent") for t in ("forward", "backward")], axis=1
            ),
            drift_percent=numbers(table, "drift_percent"),
        )

    @classmethod
    def of_reduction(cls, part: Part) -> Collectives:
        """Reads the columns of an all-reduce or reduce-scatter."""
        table = part.table
        nothing = np.full(table.num_rows, np.nan)
        return cls(
            world=numbers(table, "world_size"),
            per_host=numbers(table, "devices_per_host"),
            busiest_bytes=numbers(table, "num_bytes"),
            imbalance=nothing,
            batch=nothing,
            skew_ms=nothing,
            times_ms=numbers(table, "time_ms")[:, None],
            spread_percent=_spread(table, "time"),
            ci_percent=numbers(table, "ci_percent")[:, None],
            drift_percent=numbers(table, "drift_percent"),
        )


def _all_to_all_ms(part: Part, skew: Lists, world: Array) -> Array:
    """Slowest transfer forward (waiting taken off) and slowest backward, `[r, 2]`."""
    forward, backward = (_per_device(part, f"{t}_ms", world) for t in ("forward", "backward"))
    starts = skew.numbers()
    wait = np.repeat(skew.largest(starts), skew.counts) - starts
    measured = Lists.of(part.table, "wait_ms")
    there = measured.counts == world
    wait[np.repeat(there, skew.counts)] = measured.numbers()[np.repeat(there, measured.counts)]
    return np.stack(
        [forward.largest(forward.numbers() - wait), backward.largest(backward.numbers())], axis=1
    )


def _per_device(part: Part, column: str, world: Array) -> Lists:
    lists = Lists.of(part.table, column)
    bad = np.flatnonzero(lists.counts != world)
    if len(bad):
        raise DatasetError(
            f"{part.url}: column {column}, row {part.first_row + bad[0]}: must have one entry per "
            f"device (world_size {world[bad[0]]:.0f}), got {lists.counts[bad[0]]}"
        )
    return lists
