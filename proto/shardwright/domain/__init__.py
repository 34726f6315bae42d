"""Domain types of Shardwright: frozen, standard library only, invariants inside."""

from shardwright.domain.errors import (
    Checks,
    DomainError,
    IllegalPlanError,
    InsufficientMemoryError,
    InvalidValueError,
    Violation,
)
from shardwright.domain.options import Algorithm, SearchOptions
from shardwright.domain.plan import (
    ShardingPlan,
    ShardingType,
    check_memory,
    check_plan,
    device_memory_bytes,
    merge_columns,
    sharding_type,
)
from shardwright.domain.problem import Optimizer, ShardingProblem
from shardwright.domain.result import (
    Baseline,
    CostModelAccuracy,
    CostModelDescription,
    CostModelId,
    CostModelSource,
    DeviceCost,
    EvaluateRequest,
    EvaluationResult,
    PlanRequest,
    PlanResult,
    SearchSummary,
    StoppedBy,
)
from shardwright.domain.shard import Shard
from shardwright.domain.table import (
    COLUMN_MULTIPLE,
    REUSE_BINS,
    EmbeddingTable,
    TableConstraints,
    WeightDtype,
)
from shardwright.domain.topology import Cluster

__all__ = [
    "COLUMN_MULTIPLE",
    "REUSE_BINS",
    "Algorithm",
    "Baseline",
    "Checks",
    "Cluster",
    "CostModelAccuracy",
    "CostModelDescription",
    "CostModelId",
    "CostModelSource",
    "DeviceCost",
    "DomainError",
    "EmbeddingTable",
    "EvaluateRequest",
    "EvaluationResult",
    "IllegalPlanError",
    "InsufficientMemoryError",
    "InvalidValueError",
    "Optimizer",
    "PlanRequest",
    "PlanResult",
    "SearchOptions",
    "SearchSummary",
    "Shard",
    "ShardingPlan",
    "ShardingProblem",
    "ShardingType",
    "StoppedBy",
    "TableConstraints",
    "Violation",
    "WeightDtype",
    "check_memory",
    "check_plan",
    "device_memory_bytes",
    "merge_columns",
    "sharding_type",
]
