"""Plans as a server writes them, made by hand: no server is needed to replay one."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import json_format

from shardwright import wire
from shardwright.domain import (
    Algorithm,
    Cluster,
    CostModelId,
    CostModelSource,
    DeviceCost,
    EmbeddingTable,
    Optimizer,
    PlanRequest,
    PlanResult,
    SearchSummary,
    Shard,
    ShardingPlan,
    ShardingProblem,
    StoppedBy,
    WeightDtype,
)

HARDWARE = "intel-xeon-test"
MIXED_TABLES = (
    EmbeddingTable("columns", 3000, 96, 4.0),
    EmbeddingTable("rows", 1001, 32, 2.0, reuse_histogram=(4.0, 2.0, 1.0, *[0.0] * 14)),
    EmbeddingTable("copied", 24, 16, 1.0),
    EmbeddingTable("whole", 500, 8, 0.5),
    EmbeddingTable("half", 700, 64, 3.0, weight_dtype=WeightDtype.FP16),
    EmbeddingTable("one_row", 1, 4, 1.0),
)
MIXED_SHARDS = (
    Shard("columns", 0, 0, 3000, 0, 32),
    Shard("columns", 0, 0, 3000, 32, 32),
    Shard("columns", 1, 0, 3000, 64, 32),
    Shard("rows", 0, 0, 501, 0, 32),
    Shard("rows", 1, 501, 500, 0, 32),
    Shard("copied", 0, 0, 24, 0, 16),
    Shard("copied", 1, 0, 24, 0, 16),
    Shard("whole", 1, 0, 500, 0, 8),
    Shard("half", 0, 0, 700, 0, 64),
    # fewer rows than devices: the second part is empty
    Shard("one_row", 0, 0, 1, 0, 4),
    Shard("one_row", 1, 0, 0, 0, 4),
)


def make_problem(
    tables: tuple[EmbeddingTable, ...] = MIXED_TABLES,
    num_devices: int = 2,
    batch_size: int = 101,
    optimizer: Optimizer = Optimizer.SGD,
) -> ShardingProblem:
    """A problem on one host."""
    return ShardingProblem(
        tables, Cluster(num_devices, num_devices, HARDWARE, 2**50), batch_size, optimizer
    )


def make_result(
    shards: tuple[Shard, ...], num_devices: int = 2, request_id: str = "task"
) -> PlanResult:
    """An answer whose predictions are 1 ms and 2 ms of compute, and so on."""
    devices = tuple(
        DeviceCost(i, 1.0 + i, 0.25, 0.125, float(num_devices - 1 - i), 1000)
        for i in range(num_devices)
    )
    return PlanResult(
        plan=ShardingPlan(shards),
        cost_ms=max(d.total_ms + d.wait_ms for d in devices),
        lower_bound_ms=None,
        devices=devices,
        baselines=(),
        cost_model=CostModelId("hand", "v1", HARDWARE, CostModelSource.MEASURED),
        search=SearchSummary(0.1, 1, 1, StoppedBy.COMPLETED, Algorithm.LOCAL_SEARCH),
        request_id=request_id,
    )


def write_request(path: Path, problem: ShardingProblem, request_id: str = "task") -> Path:
    """Writes a request in proto JSON."""
    message = wire.plan_request_to_proto(PlanRequest(problem, request_id=request_id))
    path.write_text(json_format.MessageToJson(message, preserving_proto_field_name=True))
    return path


def write_response(path: Path, result: PlanResult) -> Path:
    """Writes a response in proto JSON."""
    message = wire.plan_result_to_proto(result)
    path.write_text(json_format.MessageToJson(message, preserving_proto_field_name=True))
    return path
