"""Embedding tables."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from enum import Enum

from shardwright.domain.errors import Checks
from shardwright.domain.sharding_type import ShardingType

COLUMN_MULTIPLE = 4
"""Every column width is a multiple of this: fbgemm's kernels load four elements at a time."""

REUSE_BINS = 17
"""Bins of a reuse histogram: access counts (0,1], (1,2], (2,4], ... (16384,32768], >32768."""

MAX_NUM_EMBEDDINGS = 10**12
MAX_EMBEDDING_DIM = 2**16
MAX_POOLING_FACTOR = 1e6
MAX_NAME_LENGTH = 512
MAX_DEVICES = 65_536


class WeightDtype(Enum):
    """Element type of a table's weights; the value is its name in proto JSON."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"

    @property
    def num_bytes(self) -> int:
        """Bytes per element."""
        return 4 if self is WeightDtype.FP32 else 2


class PoolingMode(Enum):
    """How the lookups of one sample are combined; the value is its name in proto JSON."""

    SUM = "sum"
    MEAN = "mean"


@dataclass(frozen=True)
class TableConstraints:
    """Limits on how one table may be sharded.

    Attributes:
        min_column_width: Narrowest column shard allowed; a multiple of 4.
        sharding_types: Allowed ways to cut it; empty: those of the search options.
        devices: Devices its shards may lie on; empty: all.
        excluded_devices: Devices its shards may not lie on.
        colocation_group: Tables of the same non-empty group lie whole on one device, together.

    Raises:
        InvalidValueError: With every broken invariant and contradiction.
    """

    min_column_width: int = COLUMN_MULTIPLE
    sharding_types: tuple[ShardingType, ...] = ()
    devices: tuple[int, ...] = ()
    excluded_devices: tuple[int, ...] = ()
    colocation_group: str = ""

    def __post_init__(self) -> None:
        checks = Checks()
        if checks.require_int(self.min_column_width, "min_column_width", 4, MAX_EMBEDDING_DIM):
            checks.require(
                self.min_column_width % COLUMN_MULTIPLE == 0,
                "min_column_width",
                f"must be a multiple of {COLUMN_MULTIPLE}, got {self.min_column_width}",
            )
        for name in ("devices", "excluded_devices"):
            for device in getattr(self, name):
                checks.require_int(device, name, 0, MAX_DEVICES - 1)
        checks.require(
            not self.devices or bool(set(self.devices) - set(self.excluded_devices)),
            "excluded_devices",
            f"must leave one of devices ({list(self.devices)[:8]}), and excludes them all",
        )
        checks.require(
            len(self.colocation_group) <= MAX_NAME_LENGTH,
            "colocation_group",
            f"must have at most {MAX_NAME_LENGTH} characters, got {len(self.colocation_group)}",
        )
        checks.require(
            not self.colocation_group
            or not self.sharding_types
            or ShardingType.TABLE_WISE in self.sharding_types,
            "sharding_types",
            "must allow table_wise in a colocation_group, whose tables lie whole on one device; "
            f"got {[kind.value for kind in self.sharding_types]}",
        )
        checks.raise_if_any()

    def allows_device(self, device: int) -> bool:
        """Whether a shard may lie on the device."""
        return (not self.devices or device in self.devices) and (
            device not in self.excluded_devices
        )


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
        pooling_mode: How the lookups of a sample are combined. A mean-pooled table is never cut in
            rows: TorchRec 1.8 then computes tables beside it wrongly.

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
    pooling_mode: PoolingMode = PoolingMode.SUM

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
