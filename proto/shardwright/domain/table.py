"""Embedding tables."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from enum import Enum

from shardwright.domain.errors import Checks

COLUMN_MULTIPLE = 4
"""Every column width is a multiple of this: fbgemm's kernels load four elements at a time."""

REUSE_BINS = 17
"""Bins of a reuse histogram: access counts (0,1], (1,2], (2,4], ... (16384,32768], >32768."""

MAX_NUM_EMBEDDINGS = 10**12
MAX_EMBEDDING_DIM = 2**16
MAX_POOLING_FACTOR = 1e6
MAX_NAME_LENGTH = 512


class WeightDtype(Enum):
    """Element type of a table's weights; the value is its name in proto JSON."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"

    @property
    def num_bytes(self) -> int:
        """Bytes per element."""
        return 4 if self is WeightDtype.FP32 else 2


@dataclass(frozen=True)
class TableConstraints:
    """Limits on how one table may be sharded.

    Attributes:
        min_column_width: Narrowest column shard allowed; a multiple of 4.
    """

    min_column_width: int = COLUMN_MULTIPLE

    def __post_init__(self) -> None:
        checks = Checks()
        if checks.require_int(self.min_column_width, "min_column_width", 4, MAX_EMBEDDING_DIM):
            checks.require(
                self.min_column_width % COLUMN_MULTIPLE == 0,
                "min_column_width",
                f"must be a multiple of {COLUMN_MULTIPLE}, got {self.min_column_width}",
            )
        checks.raise_if_any()


@dataclass(frozen=True)
class EmbeddingTable:
    """One embedding table of the model.

    Attributes:
        name: Unique among the tables of a problem.
        num_embeddings: Rows.
        embedding_dim: Columns; a multiple of 4.
        pooling_factor: Mean lookups per sample.
        reuse_histogram: 17 shares of the distinct rows accessed in one global batch, by access
            count in (0,1], (1,2], (2,4], ... >32768, in any unit; None when unknown.
        weight_dtype: Element type.
        feature_names: Sparse features that look up this table; informative.
        constraints: Limits on how it may be sharded.

    Raises:
        InvalidValueError: With every broken invariant.
    """

    name: str
    num_embeddings: int
    embedding_dim: int
    pooling_factor: float
    reuse_histogram: tuple[float, ...] | None = None
    weight_dtype: WeightDtype = WeightDtype.FP32
    feature_names: tuple[str, ...] = ()
    constraints: TableConstraints = field(default_factory=TableConstraints)

    def __post_init__(self) -> None:
        checks = Checks()
        checks.require(
            isinstance(self.name, str) and 0 < len(self.name) <= MAX_NAME_LENGTH,
            "name",
            f"must have 1 to {MAX_NAME_LENGTH} characters, got {self.name!r:.80}",
        )
        checks.require_int(self.num_embeddings, "num_embeddings", 1, MAX_NUM_EMBEDDINGS)
        if checks.require_int(self.embedding_dim, "embedding_dim", 1, MAX_EMBEDDING_DIM):
            above = -(-self.embedding_dim // COLUMN_MULTIPLE) * COLUMN_MULTIPLE
            checks.require(
                self.embedding_dim == above,
                "embedding_dim",
                f"must be a multiple of {COLUMN_MULTIPLE} (fbgemm's kernels need it), "
                f"got {self.embedding_dim}; pad it to {above}",
            )
        checks.require_positive(
            self.pooling_factor,
            "pooling_factor",
            MAX_POOLING_FACTOR,
            " (mean lookups per sample)",
        )
        if self.reuse_histogram is not None:
            _check_histogram(checks, self.reuse_histogram)
        checks.raise_if_any()

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights alone."""
        return self.num_embeddings * self.embedding_dim * self.weight_dtype.num_bytes


def _check_histogram(checks: Checks, histogram: tuple[float, ...]) -> None:
    bad = [
        f"[{i}] = {share!r:.40}"
        for i, share in enumerate(histogram[:REUSE_BINS])
        if not (isinstance(share, (int, float)) and 0 <= share <= sys.float_info.max)
    ]
    counted = checks.require(
        len(histogram) == REUSE_BINS,
        "reuse_histogram",
        f"must be empty or have {REUSE_BINS} bins, got {len(histogram)}",
    )
    clean = checks.require(
        not bad, "reuse_histogram", f"must be non-negative numbers, got {', '.join(bad[:3])}"
    )
    if counted and clean:
        total = sum(histogram)  # fsum raises where this one becomes infinite
        checks.require(
            0 < total < math.inf,
            "reuse_histogram",
            f"must have a positive, finite sum, got {total}",
        )
