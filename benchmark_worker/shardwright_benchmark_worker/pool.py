"""The pool of real tables that samples are drawn from (`data/README.md`)."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shardwright.domain import REUSE_BINS
from shardwright_benchmark_worker.errors import PoolError

POOL_PATH = Path(__file__).parent / "data" / "meta_dlrm_datasets_2021_t856.csv"
POOL_BATCH_SIZE = 65_536
"""Batch in which the pool's lookups and reuse histograms were counted."""

_BIN_COLUMNS = tuple(f"bin_{i}" for i in range(REUSE_BINS))
_COLUMNS = ("rows", "pooling_factor", *_BIN_COLUMNS)


@dataclass(frozen=True)
class TablePool:
    """Tables with at least one lookup, as columns; `n` tables.

    Attributes:
        num_embeddings: `[n] int64`, rows.
        pooling_factor: `[n] float64`, mean lookups per sample, above 0.
        reuse_histogram: `[n, 17] float64`, each row sums to 1, counted at `POOL_BATCH_SIZE`.
    """

    num_embeddings: npt.NDArray[np.int64]
    pooling_factor: npt.NDArray[np.float64]
    reuse_histogram: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.num_embeddings)

    def part(self, held_out: bool) -> TablePool:
        """A tenth of the tables for judging cost models, or the other nine for training them.

        Raises:
            PoolError: When there are too few tables for a tenth.
        """
        chosen = np.arange(len(self)) % 10 == 7
        chosen = chosen if held_out else ~chosen
        if not chosen.any():
            raise PoolError(f"--held-out needs a pool of 8 tables or more, this has {len(self)}")
        return TablePool(
            self.num_embeddings[chosen], self.pooling_factor[chosen], self.reuse_histogram[chosen]
        )


@lru_cache(maxsize=4)
def read_pool(path: Path = POOL_PATH) -> TablePool:
    """Reads a pool; tables without lookups are left out.

    Raises:
        PoolError: Naming file, line and what is wrong there.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [c for c in _COLUMNS if c not in (reader.fieldnames or ())]
            if missing:
                raise PoolError(f"{path}:1: table pool lacks the columns {missing}")
            rows = [_read_row(f"{path}:{reader.line_num}", record) for record in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PoolError(f"{path}: table pool cannot be read: {error}") from error
    used = [row for row in rows if row[1] > 0]
    if not used:
        raise PoolError(f"{path}: table pool has no table with lookups")
    histograms = np.array([row[2] for row in used], dtype=np.float64)
    return TablePool(
        num_embeddings=np.array([row[0] for row in used], dtype=np.int64),
        pooling_factor=np.array([row[1] for row in used], dtype=np.float64),
        reuse_histogram=histograms / histograms.sum(axis=1, keepdims=True),
    )


def _read_row(where: str, record: Mapping[str, str | None]) -> tuple[int, float, list[float]]:
    values = {column: _read_number(where, column, record[column]) for column in _COLUMNS}
    rows, pooling = values["rows"], values["pooling_factor"]
    histogram = [values[column] for column in _BIN_COLUMNS]
    if rows < 1 or rows != int(rows):
        raise PoolError(f"{where}: rows must be a whole number of at least 1, got {rows:g}")
    if pooling > 0 and not math.isclose(sum(histogram), 1, abs_tol=1e-3):
        raise PoolError(f"{where}: bin_0 .. bin_16 must sum to 1, got {sum(histogram):g}")
    return int(rows), pooling, histogram


def _read_number(where: str, column: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise PoolError(f"{where}: {column} must be a number of at least 0, got {text!r}")
    return value
