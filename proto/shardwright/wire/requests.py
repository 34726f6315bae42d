"""Requests: a problem, and what is asked of it."""

from __future__ import annotations

from shardwright.domain import EvaluateRequest, PlanRequest, ShardingProblem
from shardwright.domain.problem import check_device_names, check_problem_fields
from shardwright.v1 import problem_pb2
from shardwright.v1 import sharding_plan_service_pb2 as service_pb2
from shardwright.wire.codecs import OPTIMIZERS, Reader
from shardwright.wire.plan import plan_from_proto, plan_to_proto
from shardwright.wire.problem import (
    cluster_from_proto,
    cluster_to_proto,
    options_from_proto,
    options_to_proto,
    table_from_proto,
    table_to_proto,
)

MAX_REQUEST_ID_LENGTH = 128


def plan_request_to_proto(request: PlanRequest) -> service_pb2.GetShardingPlanRequest:
    """Encodes a plan request."""
    problem = request.problem
    return service_pb2.GetShardingPlanRequest(
        request_id=request.request_id,
        tables=map(table_to_proto, problem.tables),
        cluster=cluster_to_proto(problem.cluster),
        global_batch_size=problem.global_batch_size,
        optimizer=OPTIMIZERS.encode(problem.optimizer),  # type: ignore[arg-type]
        options=options_to_proto(request.options),
        cost_model=problem_pb2.CostModelSelector(version=request.cost_model_version),
    )


def plan_request_from_proto(message: service_pb2.GetShardingPlanRequest) -> PlanRequest:
    """Decodes a plan request.

    Raises:
        InvalidValueError: With every violation in the whole request.
    """
    reader = Reader()
    problem = _read_problem(reader, message)
    options = reader.build("options", lambda: options_from_proto(message.options))
    reader.checks.raise_if_any()
    assert problem is not None and options is not None
    return PlanRequest(problem, options, message.cost_model.version, message.request_id)


def evaluate_request_to_proto(request: EvaluateRequest) -> service_pb2.EvaluateShardingPlanRequest:
    """Encodes an evaluation request."""
    problem = request.problem
    return service_pb2.EvaluateShardingPlanRequest(
        request_id=request.request_id,
        tables=map(table_to_proto, problem.tables),
        cluster=cluster_to_proto(problem.cluster),
        global_batch_size=problem.global_batch_size,
        optimizer=OPTIMIZERS.encode(problem.optimizer),  # type: ignore[arg-type]
        plan=plan_to_proto(request.plan),
        cost_model=problem_pb2.CostModelSelector(version=request.cost_model_version),
    )


def evaluate_request_from_proto(
    message: service_pb2.EvaluateShardingPlanRequest,
) -> EvaluateRequest:
    """Decodes an evaluation request.

    Raises:
        InvalidValueError: With every violation in the whole request; whether the plan is legal
            for the problem is `shardwright.domain.check_plan`'s question.
    """
    reader = Reader()
    problem = _read_problem(reader, message)
    plan = reader.build("plan", lambda: plan_from_proto(message.plan))
    reader.checks.raise_if_any()
    assert problem is not None and plan is not None
    return EvaluateRequest(problem, plan, message.cost_model.version, message.request_id)


def _read_problem(
    reader: Reader,
    message: service_pb2.GetShardingPlanRequest | service_pb2.EvaluateShardingPlanRequest,
) -> ShardingProblem | None:
    reader.checks.require(
        len(message.request_id) <= MAX_REQUEST_ID_LENGTH,
        "request_id",
        f"must have at most {MAX_REQUEST_ID_LENGTH} characters, got {len(message.request_id)}",
    )
    built = [
        reader.build(f"tables[{i}]", lambda t=t: table_from_proto(t))  # type: ignore[misc]
        for i, t in enumerate(message.tables)
    ]
    tables = tuple(table for table in built if table is not None)
    names = [table.name for table in message.tables]
    shared = check_problem_fields(names, message.global_batch_size)
    reader.checks.violations.extend(shared.violations)
    cluster = reader.build("cluster", lambda: cluster_from_proto(message.cluster))
    optimizer = reader.build("", lambda: OPTIMIZERS.decode(message.optimizer, "optimizer"))
    if cluster is not None:
        for i, table in enumerate(built):
            if table is not None:
                check_device_names(reader.checks, table, cluster, f"tables[{i}].constraints")
    if reader.checks.violations:
        return None
    assert cluster is not None and optimizer is not None
    return ShardingProblem(tables, cluster, message.global_batch_size, optimizer)
