"""Pieces: what is placed on devices, and what is known about each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, count, filterfalse
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shardwright.domain import COLUMN_MULTIPLE, EmbeddingTable, ShardingProblem
from shardwright_costmodel.features import (
    NUM_COLUMNS_INDEX,
    SHARD_COLUMNS,
    FloatArray,
    table_features,
)
from shardwright_server.search.cost_model import CostModel

IntArray = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

MOST_KINDS = 50_000
"""Of problems with more column widths and ways to spread, only those that are met are kept."""

_NUM_ROWS_INDEX = SHARD_COLUMNS.index("num_rows")
_POOLING_INDEX = SHARD_COLUMNS.index("pooling_factor")
_BATCH_INDEX = SHARD_COLUMNS.index("global_batch_size")


class Piece(NamedTuple):
    """A kind of shard; two shards of one kind cost the same wherever they are cut.

    Attributes:
        table: Index of the table in the problem.
        num_columns: Width.
        row_parts: Devices the rows are spread over; 1: all rows. A piece of several holds
            ceil(rows / row_parts) rows and sees pooling / row_parts lookups per sample, but its
            output has the table's full width.
        copies: Devices that each have a copy; above 1: data-parallel. A copy sees its device's
            samples only, takes no part in all-to-alls, and keeps a dense gradient.
    """

    table: int
    num_columns: int
    row_parts: int = 1
    copies: int = 1


Fields = tuple[int, int, int, int]
"""A `Piece`, or its fields as a plain tuple, which is made in a sixth of the time."""


def column_pieces(tables: Iterable[int], widths: Sequence[int]) -> list[Fields]:
    """Pieces with all rows: of each table, one of each width."""
    return [(table, width, 1, 1) for table in tables for width in widths]


def can_halve(table: EmbeddingTable, num_columns: int) -> bool:
    """Whether a piece of this width may be cut in two equal halves of legal width."""
    half, odd = divmod(num_columns, 2)
    return odd == 0 and half % COLUMN_MULTIPLE == 0 and half >= table.constraints.min_column_width


class PieceCatalog:
    """The pieces met so far, numbered in order of appearance; each is encoded once.

    Attributes:
        encodings: `[n, e] float32`.
        compute_ms: `[n] float64`, forward + backward of the piece alone on a device.
        memory_bytes: `[n] int64`, weights and optimizer state.
        num_columns: `[n] int64`; a piece's share in the sum of dims of its device; 0 for a copy.
    """

    def __init__(self, problem: ShardingProblem, cost_model: CostModel) -> None:
        self._problem = problem
        self._cost_model = cost_model
        self._table_features = table_features(
            problem.tables, problem.global_batch_size, problem.optimizer
        )
        tables, optimizer = problem.tables, problem.optimizer
        self._rows: IntArray = np.array([t.num_embeddings for t in tables], dtype=np.int64)
        weight_bytes = [t.weight_dtype.num_bytes for t in tables]
        self._weight_bytes: IntArray = np.array(weight_bytes, dtype=np.int64)
        self._element_bytes: IntArray = self._weight_bytes + optimizer.state_bytes_per_element
        self._ids: dict[Fields, int] = {}
        self._pieces: list[Fields] = []
        self.encodings: FloatArray = np.empty((0, cost_model.encoding_size), dtype=np.float32)
        self.compute_ms: Float64Array = np.empty(0, dtype=np.float64)
        self.memory_bytes: IntArray = np.empty(0, dtype=np.int64)
        self.num_columns: IntArray = np.empty(0, dtype=np.int64)

    def ids(self, pieces: Iterable[Fields]) -> list[int]:
        """Ids of pieces; those not met before are encoded, all in one call."""
        pieces = list(pieces)
        new = list(dict.fromkeys(filterfalse(self._ids.__contains__, pieces)))
        if new:
            self._ids.update(zip(new, count(len(self._pieces)), strict=False))
            self._pieces += new
            self._append(new)
        return [self._ids[piece] for piece in pieces]

    def __len__(self) -> int:
        return len(self._pieces)

    def piece(self, piece_id: int) -> Piece:
        """The piece with an id; for a group the first of its pieces."""
        return Piece._make(self._pieces[piece_id])

    def whole_tables(self) -> list[int]:
        """Ids of the uncut tables, in order."""
        return self.ids(Piece(i, t.embedding_dim) for i, t in enumerate(self._problem.tables))

    def group(self, ids: Sequence[int]) -> int:
        """The id of pieces that are moved as one: an entry of its own that sums theirs."""
        encoding = self.encodings[ids].sum(axis=0, keepdims=True)
        compute_ms = self._cost_model.compute_ms(encoding).astype(np.float64).sum(axis=1)
        self._ids[self._pieces[ids[0]][0], -len(self._pieces), 1, 1] = len(self._pieces)
        self._pieces.append(self._pieces[ids[0]])
        self._extend(
            encoding, compute_ms, self.memory_bytes[ids].sum(), self.num_columns[ids].sum()
        )
        return len(self._pieces) - 1

    def features(self, pieces: Sequence[Fields]) -> FloatArray:
        """Raw features of pieces, `[n, len(SHARD_COLUMNS)] float32`."""
        return self._features(_columns(pieces))

    def _features(self, pieces: IntArray) -> FloatArray:
        table, columns, row_parts, copies = pieces
        features: FloatArray = self._table_features[table]
        features[:, NUM_COLUMNS_INDEX] = columns
        features[:, _NUM_ROWS_INDEX] = -(-self._rows[table] // row_parts)
        features[:, _POOLING_INDEX] /= row_parts.astype(np.float32)
        features[:, _BATCH_INDEX] /= copies.astype(np.float32)
        return features

    def _append(self, new: list[Fields]) -> None:
        table, columns, row_parts, copies = fields = _columns(new)
        encodings = self._cost_model.encode(self._features(fields))
        compute_ms = self._cost_model.compute_ms(encodings).astype(np.float64).sum(axis=1)
        rows = -(-self._rows[table] // row_parts)
        # as ShardingProblem.shard_bytes and, with a dense gradient, replica_bytes
        element_bytes = self._element_bytes[table] + self._weight_bytes[table] * (copies > 1)
        row_state_bytes = self._problem.optimizer.state_bytes_per_row
        memory_bytes = rows * (columns * element_bytes + row_state_bytes)
        self._extend(encodings, compute_ms, memory_bytes, np.where(copies > 1, 0, columns))

    def _extend(
        self,
        encodings: FloatArray,
        compute_ms: Float64Array,
        memory_bytes: npt.ArrayLike,
        num_columns: npt.ArrayLike,
    ) -> None:
        self.encodings = np.concatenate([self.encodings, encodings])
        self.compute_ms = np.concatenate([self.compute_ms, compute_ms])
        self.memory_bytes = np.append(self.memory_bytes, np.asarray(memory_bytes, np.int64))
        self.num_columns = np.append(self.num_columns, np.asarray(num_columns, np.int64))


def _columns(pieces: Sequence[Fields]) -> IntArray:
    """Fields of pieces, `[4, n]`; many times faster than an array of tuples."""
    flat = np.fromiter(chain.from_iterable(pieces), dtype=np.int64, count=4 * len(pieces))
    return flat.reshape(-1, 4).T.copy()
