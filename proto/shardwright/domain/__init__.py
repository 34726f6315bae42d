"""Domain types of Shardwright: frozen, standard library only, invariants inside."""

from shardwright.domain.constraints import (
    allowed_devices,
    allowed_sharding_types,
    check_constraints,
    colocation_groups,
    contradictions,
)
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
from shardwright.domain.sharding_type import BY_ROWS, ShardingType
from shardwright.domain.table import (
    COLUMN_MULTIPLE,
    REUSE_BINS,
    EmbeddingTable,
    PoolingMode,
    TableConstraints,
    WeightDtype,
)
from shardwright.domain.topology import Cluster

__all__ = [
    "BY_ROWS",
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
    "PoolingMode",
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
    "allowed_devices",
    "allowed_sharding_types",
    "check_constraints",
    "check_memory",
    "check_plan",
    "colocation_groups",
    "contradictions",
    "device_memory_bytes",
    "merge_columns",
    "sharding_type",
]
