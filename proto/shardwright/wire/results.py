"""Results of planning and of evaluating."""

from __future__ import annotations

from shardwright.domain import (
    Baseline,
    DeviceCost,
    EvaluationResult,
    PlanResult,
    SearchSummary,
    StoppedBy,
)
from shardwright.v1 import plan_pb2
from shardwright.v1 import sharding_plan_service_pb2 as service_pb2
from shardwright.wire.codecs import ALGORITHMS, STOPPED_BY, duration_of, seconds_of
from shardwright.wire.cost_models import cost_model_from_proto, cost_model_to_proto
from shardwright.wire.plan import plan_from_proto, plan_to_proto


def _device_cost_to_proto(cost: DeviceCost) -> plan_pb2.DeviceCost:
    return plan_pb2.DeviceCost(
        device=cost.device,
        compute_ms=cost.compute_ms,
        forward_comm_ms=cost.forward_comm_ms,
        backward_comm_ms=cost.backward_comm_ms,
        wait_ms=cost.wait_ms,
        total_ms=cost.total_ms,
        memory_bytes=cost.memory_bytes,
    )


def _device_cost_from_proto(message: plan_pb2.DeviceCost) -> DeviceCost:
    return DeviceCost(
        device=message.device,
        compute_ms=message.compute_ms,
        forward_comm_ms=message.forward_comm_ms,
        backward_comm_ms=message.backward_comm_ms,
        wait_ms=message.wait_ms,
        memory_bytes=message.memory_bytes,
    )


def _baseline_from_proto(message: plan_pb2.Baseline) -> Baseline:
    return Baseline(message.name, message.cost_ms if message.HasField("cost_ms") else None)


def plan_result_to_proto(result: PlanResult) -> service_pb2.GetShardingPlanResponse:
    """Encodes a plan result."""
    return service_pb2.GetShardingPlanResponse(
        plan=plan_to_proto(result.plan),
        cost_ms=result.cost_ms,
        lower_bound_ms=result.lower_bound_ms,
        devices=map(_device_cost_to_proto, result.devices),
        baselines=[
            plan_pb2.Baseline(name=b.name, cost_ms=b.cost_ms, feasible=b.feasible)
            for b in result.baselines
        ],
        cost_model=cost_model_to_proto(result.cost_model),
        search=plan_pb2.SearchSummary(
            duration=duration_of(result.search.duration_s),
            plans_evaluated=result.search.plans_evaluated,
            predictions=result.search.predictions,
            stopped_by=_stopped_by_to_proto(result.search.stopped_by),
            algorithm=ALGORITHMS.encode(result.search.algorithm),  # type: ignore[arg-type]
        ),
        request_id=result.request_id,
        warnings=result.warnings,
        gap=result.gap,
    )


def plan_result_from_proto(message: service_pb2.GetShardingPlanResponse) -> PlanResult:
    """Decodes a plan result.

    Raises:
        InvalidValueError: When it is not one that a server of this version sends.
    """
    return PlanResult(
        plan=plan_from_proto(message.plan),
        cost_ms=message.cost_ms,
        lower_bound_ms=message.lower_bound_ms if message.HasField("lower_bound_ms") else None,
        devices=tuple(map(_device_cost_from_proto, message.devices)),
        baselines=tuple(map(_baseline_from_proto, message.baselines)),
        cost_model=cost_model_from_proto(message.cost_model),
        search=SearchSummary(
            duration_s=seconds_of(message.search.duration),
            plans_evaluated=message.search.plans_evaluated,
            predictions=message.search.predictions,
            stopped_by=_stopped_by_from_proto(message.search.stopped_by),
            algorithm=ALGORITHMS.decode(message.search.algorithm, "search.algorithm"),
        ),
        request_id=message.request_id,
        warnings=tuple(message.warnings),
    )


def _stopped_by_to_proto(stopped_by: StoppedBy | None) -> plan_pb2.StoppedBy.ValueType:
    number = 0 if stopped_by is None else STOPPED_BY.encode(stopped_by)
    return number  # type: ignore[return-value]


def _stopped_by_from_proto(number: int) -> StoppedBy | None:
    return STOPPED_BY.decode(number, "search.stopped_by") if number else None


def evaluation_result_to_proto(
    result: EvaluationResult,
) -> service_pb2.EvaluateShardingPlanResponse:
    """Encodes an evaluation result."""
    return service_pb2.EvaluateShardingPlanResponse(
        cost_ms=result.cost_ms,
        devices=map(_device_cost_to_proto, result.devices),
        cost_model=cost_model_to_proto(result.cost_model),
        request_id=result.request_id,
        fingerprint=result.fingerprint,
        warnings=result.warnings,
    )


def evaluation_result_from_proto(
    message: service_pb2.EvaluateShardingPlanResponse,
) -> EvaluationResult:
    """Decodes an evaluation result.

    Raises:
        InvalidValueError: When it is not one that a server of this version sends.
    """
    return EvaluationResult(
        cost_ms=message.cost_ms,
        devices=tuple(map(_device_cost_from_proto, message.devices)),
        cost_model=cost_model_from_proto(message.cost_model),
        fingerprint=message.fingerprint,
        request_id=message.request_id,
        warnings=tuple(message.warnings),
    )
