"""Planning: pure functions of a problem, a cost model and a deadline.

The same request and the same cost model give the same plan, in any process, unless time runs out.
"""

from __future__ import annotations

import time

from shardwright.domain import (
    CostModelSource,
    DeviceCost,
    DomainError,
    EvaluateRequest,
    EvaluationResult,
    Optimizer,
    PlanRequest,
    PlanResult,
    SearchSummary,
    ShardingPlan,
    ShardingProblem,
    ShardingType,
    check_plan,
    device_memory_bytes,
    merge_columns,
)
from shardwright_server.search.algorithms import SEARCHES
from shardwright_server.search.baselines import baselines
from shardwright_server.search.budget import Budget
from shardwright_server.search.capacity import check_capacity
from shardwright_server.search.cost import PlanCosts, PlanEvaluator
from shardwright_server.search.cost_model import CostModel, CountingCostModel

_NAMES_SHOWN = 3


def plan(request: PlanRequest, cost_model: CostModel, *, deadline_s: float | None) -> PlanResult:
    """Searches for the plan with the lowest predicted cost.

    Args:
        request: The question.
        cost_model: Who predicts.
        deadline_s: A `time.monotonic()` moment at which the search ends with the best plan so
            far; leave room behind it for costing baselines and answering. None: no limit.

    Raises:
        InsufficientMemoryError: When no plan fits into memory, or none was found.
        NoPlanInTimeError: When the deadline passed before any plan that fits was found.
    """
    started_s = time.monotonic()
    problem, options = request.problem, request.options
    check_capacity(problem)
    budget = Budget(options.time_budget_s, deadline_s)
    counting = CountingCostModel(cost_model)
    evaluator = PlanEvaluator(problem, counting)
    found = SEARCHES[options.algorithm](evaluator, options, budget)
    # a search may put several pieces of a table on one device; TorchRec wants them equally wide
    best = merge_columns(found.plan)
    types = _check_own_plan(best, problem)
    cost_ms, devices, warnings = _score(best, types, evaluator, cost_model)
    compared = baselines(evaluator, options.seed)
    return PlanResult(
        plan=best,
        cost_ms=cost_ms,
        lower_bound_ms=None,
        devices=devices,
        baselines=compared,
        cost_model=cost_model.id,
        search=SearchSummary(
            duration_s=time.monotonic() - started_s,
            plans_evaluated=evaluator.plans_evaluated,
            predictions=counting.predictions,
            stopped_by=found.stopped_by,
            algorithm=options.algorithm,
        ),
        request_id=request.request_id,
        warnings=warnings,
    )


def evaluate(request: EvaluateRequest, cost_model: CostModel) -> EvaluationResult:
    """Predicts what a plan costs, whoever made it.

    Raises:
        IllegalPlanError: When a TorchRec job could not run the plan.
        InsufficientMemoryError: When a device cannot hold its shards.
    """
    types = check_plan(request.plan, request.problem)
    evaluator = PlanEvaluator(request.problem, cost_model)
    cost_ms, devices, warnings = _score(request.plan, types, evaluator, cost_model)
    return EvaluationResult(
        cost_ms=cost_ms,
        devices=devices,
        cost_model=cost_model.id,
        fingerprint=request.plan.fingerprint,
        request_id=request.request_id,
        warnings=warnings,
    )


def _check_own_plan(found: ShardingPlan, problem: ShardingProblem) -> dict[str, ShardingType]:
    """As `check_plan`; an illegal plan of our own is a bug, not the user's mistake."""
    try:
        return check_plan(found, problem)
    except DomainError as error:
        raise AssertionError(f"the search made an illegal plan: {error}") from error


def _score(
    sharding_plan: ShardingPlan,
    types: dict[str, ShardingType],
    evaluator: PlanEvaluator,
    cost_model: CostModel,
) -> tuple[float, tuple[DeviceCost, ...], tuple[str, ...]]:
    """Cost, device costs and warnings of a legal plan; one way for `plan` and `evaluate`."""
    layout = evaluator.layout(sharding_plan)
    costs = evaluator.layout_costs([layout])
    catalog = evaluator.catalog
    features = catalog.features([catalog.pieces[i] for i in layout.piece_ids])
    comm_features = evaluator.comm_features(evaluator.device_dims(layout)[None])
    warnings = (
        *_provenance_warnings(cost_model),
        *_type_warnings(types, evaluator.problem),
        *cost_model.range_warnings(features, comm_features),
    )
    memory_bytes = device_memory_bytes(sharding_plan, evaluator.problem)
    return float(costs.cost_ms[0]), _device_costs(costs, memory_bytes), warnings


def _device_costs(costs: PlanCosts, memory_bytes: list[int]) -> tuple[DeviceCost, ...]:
    """Device costs of the only plan in `costs`."""
    return tuple(
        DeviceCost(
            device=device,
            compute_ms=float(costs.compute_ms[0, device]),
            forward_comm_ms=float(costs.forward_comm_ms[0, device]),
            backward_comm_ms=float(costs.backward_comm_ms[0, device]),
            wait_ms=float(costs.wait_ms[0, device]),
            memory_bytes=used,
        )
        for device, used in enumerate(memory_bytes)
    )


def _provenance_warnings(cost_model: CostModel) -> list[str]:
    if cost_model.id.source is not CostModelSource.MODELLED:
        return []
    return [
        f"costs are MODELLED: cost model {cost_model.id.version} of {cost_model.id.hardware} was "
        "trained on an analytic model of the hardware, not on measurements; measure your own to be "
        "sure of the milliseconds"
    ]


def _type_warnings(types: dict[str, ShardingType], problem: ShardingProblem) -> list[str]:
    warnings = []
    cut = [name for name, kind in types.items() if kind is ShardingType.COLUMN_WISE]
    if cut and problem.optimizer is Optimizer.ROWWISE_ADAGRAD:
        warnings.append(
            f"{_tables(cut)} cut in columns: with rowwise Adagrad each column shard keeps row "
            "state of its own, so training differs slightly from the uncut table"
        )
    in_rows = (ShardingType.ROW_WISE, ShardingType.TABLE_ROW_WISE)
    cut = [name for name, kind in types.items() if kind in in_rows]
    if cut:
        warnings.append(
            f"{_tables(cut)} cut in rows: costed as an all-to-all of full-width partial sums, each "
            "shard with an equal share of the lookups; reduce-scatter kernels may differ"
        )
    return warnings


def _tables(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_NAMES_SHOWN])
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"table {shown} is" if len(names) == 1 else f"tables {shown}{more} are"
