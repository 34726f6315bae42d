"""What the planner answers: costs, baselines, provenance."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from shardwright.domain.options import Algorithm, SearchOptions
from shardwright.domain.plan import ShardingPlan
from shardwright.domain.problem import ShardingProblem


@dataclass(frozen=True)
class PlanRequest:
    """A question to the planner.

    Attributes:
        problem: What to shard.
        options: How to search.
        cost_model_version: Bundle version; empty means the profile's default.
        request_id: Echoed in the answer.
    """

    problem: ShardingProblem
    options: SearchOptions = field(default_factory=SearchOptions)
    cost_model_version: str = ""
    request_id: str = ""


@dataclass(frozen=True)
class EvaluateRequest:
    """A plan of anybody's, to be scored; attributes as in `PlanRequest`."""

    problem: ShardingProblem
    plan: ShardingPlan
    cost_model_version: str = ""
    request_id: str = ""


@dataclass(frozen=True)
class DeviceCost:
    """Predicted cost of one device, ms per iteration.

    Attributes:
        device: From 0.
        compute_ms: Fused embedding bags, forward + backward + optimizer.
        forward_comm_ms: Forward all-to-all transfer.
        backward_comm_ms: Backward all-to-all transfer.
        wait_ms: Waiting for the slowest device before the forward all-to-all.
        memory_bytes: Weights + optimizer state of the device's shards.
    """

    device: int
    compute_ms: float
    forward_comm_ms: float
    backward_comm_ms: float
    wait_ms: float
    memory_bytes: int

    @property
    def total_ms(self) -> float:
        """Work of the device, without waiting."""
        return self.compute_ms + self.backward_comm_ms + self.forward_comm_ms


@dataclass(frozen=True)
class Baseline:
    """What a simple strategy would cost; `cost_ms` is None when it finds no plan that fits."""

    name: str
    cost_ms: float | None

    @property
    def feasible(self) -> bool:
        """Whether the strategy found a plan that fits into memory."""
        return self.cost_ms is not None


class CostModelSource(Enum):
    """Where a cost model's measurements come from."""

    MEASURED = "measured"
    MODELLED = "modelled"


@dataclass(frozen=True)
class CostModelId:
    """Identity of the cost model behind an answer."""

    name: str
    version: str
    hardware: str
    source: CostModelSource


@dataclass(frozen=True)
class CostModelAccuracy:
    """Held-out accuracy of one predicted quantity."""

    quantity: str
    mape_percent: float
    kendall_tau: float
    num_measurements: int


@dataclass(frozen=True)
class CostModelDescription:
    """A cost model and its provenance."""

    cost_model: CostModelId
    create_time: datetime
    num_compute_measurements: int
    num_comm_measurements: int
    accuracy: tuple[CostModelAccuracy, ...]
    software: dict[str, str]
    is_default: bool


class StoppedBy(Enum):
    """Why a search ended."""

    COMPLETED = "completed"
    TIME_BUDGET = "time_budget"
    DEADLINE = "deadline"


@dataclass(frozen=True)
class SearchSummary:
    """How a plan was found.

    Attributes:
        duration_s: Wall-clock seconds.
        plans_evaluated: Complete plans whose cost was predicted.
        predictions: Rows sent through the cost models.
        stopped_by: Why it ended; None while it goes on, in a stream of improving plans.
        algorithm: Which search.
    """

    duration_s: float
    plans_evaluated: int
    predictions: int
    stopped_by: StoppedBy | None
    algorithm: Algorithm


@dataclass(frozen=True)
class PlanResult:
    """The answer to a `PlanRequest`.

    Attributes:
        plan: The plan.
        cost_ms: Predicted ms per iteration of the slowest device: max(total_ms + wait_ms).
        lower_bound_ms: No legal plan costs less by the same models; None when not derived.
        devices: One per device, in order.
        baselines: Simple strategies on the same problem.
        cost_model: Who predicted.
        search: How it was found.
        request_id: Echo.
        warnings: What to know before trusting the numbers.
    """

    plan: ShardingPlan
    cost_ms: float
    lower_bound_ms: float | None
    devices: tuple[DeviceCost, ...]
    baselines: tuple[Baseline, ...]
    cost_model: CostModelId
    search: SearchSummary
    request_id: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def gap(self) -> float | None:
        """cost_ms / lower_bound_ms - 1: at most so much better could any plan be."""
        if not self.lower_bound_ms:
            return None
        return self.cost_ms / self.lower_bound_ms - 1.0


@dataclass(frozen=True)
class EvaluationResult:
    """The answer to an `EvaluateRequest`; attributes as in `PlanResult`."""

    cost_ms: float
    devices: tuple[DeviceCost, ...]
    cost_model: CostModelId
    fingerprint: str
    request_id: str = ""
    warnings: tuple[str, ...] = ()
