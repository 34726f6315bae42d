"""Planning: pure functions of a problem, a cost model and a deadline.

The same request and the same cost model give the same plan, in any process, unless time runs out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property

from shardwright.domain import (
    Baseline,
    DeviceCost,
    DomainError,
    EvaluateRequest,
    EvaluationResult,
    IllegalPlanError,
    InvalidValueError,
    PlanRequest,
    PlanResult,
    SearchSummary,
    ShardingPlan,
    ShardingType,
    StoppedBy,
    check_constraints,
    check_plan,
    contradictions,
    device_memory_bytes,
    merge_columns,
)
from shardwright_server.plan_warnings import provenance_warnings, type_warnings
from shardwright_server.search.algorithms import SEARCHES
from shardwright_server.search.baselines import baselines
from shardwright_server.search.bound import lower_bound_ms
from shardwright_server.search.budget import Budget, ShareSpent
from shardwright_server.search.capacity import check_capacity
from shardwright_server.search.cost import PlanCosts, PlanEvaluator
from shardwright_server.search.cost_model import CostModel, CountingCostModel
from shardwright_server.support import unknown_to_neuroshard

_BOUND_SHARE, _BASELINES_SHARE = 0.25, 0.1
"""Of the time that a limit leaves, at most; beyond, the answer does without."""


def plan(
    request: PlanRequest,
    cost_model: CostModel,
    *,
    deadline_s: float | None,
    on_improvement: Callable[[PlanResult], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> PlanResult:
    """Searches for the plan with the lowest predicted cost.

    Args:
        request: The question.
        cost_model: Who predicts.
        deadline_s: A `time.monotonic()` moment at which the search ends with the best plan so
            far; leave room behind it for answering. None: no limit.
        on_improvement: Called, as the search goes on, with each plan that is better than all
            before it; such a result does not say what stopped the search. The last may be the plan
            that is returned.
        cancelled: Asked often; once it says yes, the search ends as at a deadline.

    Raises:
        InvalidValueError: When constraints contradict each other, or the algorithm knows them not.
        InsufficientMemoryError: When no plan fits into memory, or none was found.
        NoPlanInTimeError: When the deadline passed before any plan that fits was found.
    """
    budget = Budget(
        request.options.time_budget_s,
        deadline_s,
        clock=lambda: math.inf if cancelled() else time.monotonic(),
    )
    planner = _Planner(request, cost_model, budget)

    least_ms = math.inf

    def improved(better: ShardingPlan) -> None:
        nonlocal least_ms
        assert on_improvement is not None
        result = planner.improvement(better)
        # merging a table's pieces on a device may change costs, so that a plan is no better after
        if result.cost_ms < least_ms:
            least_ms = result.cost_ms
            on_improvement(result)

    found = SEARCHES[request.options.algorithm](
        planner.evaluator, request.options, budget, improved if on_improvement else None
    )
    return planner.result(found.plan, found.stopped_by)


class _Planner:
    """One request on its way: what stands before the search, and what makes answers of plans."""

    def __init__(self, request: PlanRequest, cost_model: CostModel, budget: Budget) -> None:
        self._started_s = time.monotonic()
        self._request = request
        self._cost_model = cost_model
        problem, options = request.problem, request.options
        found = [*contradictions(problem, options), *unknown_to_neuroshard(problem, options)]
        if found:
            raise InvalidValueError(found)
        check_capacity(problem, options)
        self._counting = CountingCostModel(cost_model)
        self.evaluator = PlanEvaluator(problem, self._counting)
        self._lower_bound_ms: float | None = None
        self._baselines: tuple[Baseline, ...] = ()
        with suppress(ShareSpent):
            check = budget.share(_BOUND_SHARE)
            self._lower_bound_ms = lower_bound_ms(self.evaluator, options, self._counting, check)
        with suppress(ShareSpent):
            check = budget.share(_BASELINES_SHARE)
            self._baselines = baselines(self.evaluator, options.seed, check)

    def result(self, found: ShardingPlan, stopped_by: StoppedBy) -> PlanResult:
        """The answer that a plan makes."""
        return self._result(found, stopped_by, self.evaluator)

    def improvement(self, found: ShardingPlan) -> PlanResult:
        """The answer that a plan makes while the search goes on.

        It is scored apart from the search, which finds and counts the same whoever listens.
        """
        return self._result(found, None, self._scorer)

    @cached_property
    def _scorer(self) -> PlanEvaluator:
        return PlanEvaluator(self._request.problem, self._cost_model)

    def _result(
        self, found: ShardingPlan, stopped_by: StoppedBy | None, evaluator: PlanEvaluator
    ) -> PlanResult:
        best = self._merged(found)
        types = self._check(best)
        cost_ms, devices, warnings = _score(best, types, evaluator, self._cost_model)
        return PlanResult(
            plan=best,
            cost_ms=cost_ms,
            lower_bound_ms=self._lower_bound_ms,
            devices=devices,
            baselines=self._baselines,
            cost_model=self._cost_model.id,
            search=SearchSummary(
                duration_s=time.monotonic() - self._started_s,
                plans_evaluated=self.evaluator.plans_evaluated,
                predictions=self._counting.predictions,
                stopped_by=stopped_by,
                algorithm=self._request.options.algorithm,
            ),
            request_id=self._request.request_id,
            warnings=warnings,
        )

    def _merged(self, found: ShardingPlan) -> ShardingPlan:
        """A search may put several pieces of a table on one device; TorchRec wants one width there.

        A table that must be cut stays cut where all its pieces share a device.
        """
        merged = merge_columns(found)
        if merged is found:
            return found
        try:
            check_constraints(merged, self._request.problem, self._request.options)
        except IllegalPlanError:
            return found
        return merged

    def _check(self, found: ShardingPlan) -> dict[str, ShardingType]:
        """As `check_plan`, and constraints; an illegal plan of ours is a bug, not a mistake."""
        try:
            types = check_plan(found, self._request.problem)
            check_constraints(found, self._request.problem, self._request.options, types)
            return types
        except DomainError as error:
            raise AssertionError(f"the search made an illegal plan: {error}") from error


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
    features = catalog.features([catalog.piece(i) for i in layout.piece_ids.tolist()])
    comm_features = evaluator.comm_features(evaluator.device_dims(layout)[None])
    warnings = (
        *provenance_warnings(cost_model.id),
        *type_warnings(types, evaluator.problem),
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
