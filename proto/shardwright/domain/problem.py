"""The sharding problem: tables, cluster, and how the model is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from shardwright.domain.errors import Checks
from shardwright.domain.table import EmbeddingTable
from shardwright.domain.topology import Cluster

MAX_GLOBAL_BATCH_SIZE = 2**31
MAX_TABLES = 100_000


class Optimizer(Enum):
    """Optimizer fused into the backward pass; the value is its name in proto JSON."""

    SGD = "sgd"
    ROWWISE_ADAGRAD = "rowwise_adagrad"
    ADAGRAD = "adagrad"
    ADAM = "adam"

    @property
    def state_bytes_per_row(self) -> int:
        """State of one row of a shard, whatever its width."""
        return 4 if self is Optimizer.ROWWISE_ADAGRAD else 0

    @property
    def state_bytes_per_element(self) -> int:
        """State of one weight."""
        if self is Optimizer.ADAM:
            return 8
        return 4 if self is Optimizer.ADAGRAD else 0


@dataclass(frozen=True)
class ShardingProblem:
    """What has to be sharded, where, and for which training job.

    Attributes:
        tables: The tables; at least one, names unique.
        cluster: The devices.
        global_batch_size: Samples per iteration over all devices.
        optimizer: Decides the state kept beside the weights.

    Raises:
        InvalidValueError: With every broken invariant.
    """

    tables: tuple[EmbeddingTable, ...]
    cluster: Cluster
    global_batch_size: int
    optimizer: Optimizer

    def __post_init__(self) -> None:
        object.__setattr__(self, "tables", tuple(self.tables))
        names = [table.name for table in self.tables]
        checks = check_problem_fields(names, self.global_batch_size)
        for i, table in enumerate(self.tables):
            check_device_names(checks, table, self.cluster, f"tables[{i}].constraints")
        checks.raise_if_any()

    def shard_bytes(self, table: EmbeddingTable, num_rows: int, num_columns: int) -> int:
        """Device memory of a `num_rows` x `num_columns` shard: weights and optimizer state."""
        element_bytes = table.weight_dtype.num_bytes + self.optimizer.state_bytes_per_element
        return num_rows * (num_columns * element_bytes + self.optimizer.state_bytes_per_row)

    def replica_bytes(self, table: EmbeddingTable) -> int:
        """Device memory of a data-parallel copy: as a shard, and its dense gradient."""
        elements = table.num_embeddings * table.embedding_dim
        shard_bytes = self.shard_bytes(table, table.num_embeddings, table.embedding_dim)
        return shard_bytes + elements * table.weight_dtype.num_bytes

    @property
    def total_bytes(self) -> int:
        """Device memory of all tables, unsharded."""
        return sum(self.shard_bytes(t, t.num_embeddings, t.embedding_dim) for t in self.tables)


def check_problem_fields(table_names: Sequence[str], global_batch_size: int) -> Checks:
    """The invariants that hold between a problem's fields, for callers that collect more.

    Takes names, not tables: a table that is itself invalid still counts and still clashes.
    """
    checks = Checks()
    checks.require(
        0 < len(table_names) <= MAX_TABLES,
        "tables",
        f"must name 1 to {MAX_TABLES} tables, got {len(table_names)}",
    )
    # an empty name is the table's own violation
    for name, count in Counter(name for name in table_names if name).items():
        checks.require(
            count == 1, "tables", f"names must be unique, got {name!r:.80} {count} times"
        )
    checks.require_int(global_batch_size, "global_batch_size", 1, MAX_GLOBAL_BATCH_SIZE)
    return checks


def check_device_names(
    checks: Checks, table: EmbeddingTable, cluster: Cluster, prefix: str
) -> None:
    """Requires that a table's constraints name devices of the cluster."""
    for name in ("devices", "excluded_devices"):
        for device in getattr(table.constraints, name):
            checks.require(
                device < cluster.num_devices,
                f"{prefix}.{name}",
                f"must be below num_devices ({cluster.num_devices}), got {device}",
            )
