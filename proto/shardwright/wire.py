"""Translation between domain types and protobuf; the only module that knows both.

Every pair `x_to_proto` / `x_from_proto` is a round trip. Reading a request collects every
violation, by field path, before it raises: a user sees all mistakes in one answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timezone
from enum import Enum
from typing import Any, Generic, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from shardwright.domain import (
    Algorithm,
    Baseline,
    Checks,
    Cluster,
    CostModelAccuracy,
    CostModelDescription,
    CostModelId,
    CostModelSource,
    DeviceCost,
    EmbeddingTable,
    EvaluateRequest,
    EvaluationResult,
    InvalidValueError,
    Optimizer,
    PlanRequest,
    PlanResult,
    SearchOptions,
    SearchSummary,
    Shard,
    ShardingPlan,
    ShardingProblem,
    ShardingType,
    StoppedBy,
    TableConstraints,
    Violation,
    WeightDtype,
)
from shardwright.domain.problem import check_device_names, check_problem_fields
from shardwright.v1 import plan_pb2, problem_pb2
from shardwright.v1 import sharding_plan_service_pb2 as service_pb2

MAX_REQUEST_ID_LENGTH = 128

T = TypeVar("T")
E = TypeVar("E", bound=Enum)


class _EnumCodec(Generic[E]):
    """Maps a domain enum to a protobuf enum whose values are `<PREFIX>_<member name>`."""

    def __init__(self, domain: type[E], wrapper: Any, prefix: str) -> None:
        self._to_number: dict[E, int] = {m: wrapper.Value(f"{prefix}_{m.name}") for m in domain}
        self._from_number = {number: member for member, number in self._to_number.items()}
        self._names = ", ".join(f"{prefix}_{m.name}" for m in domain)

    def encode(self, member: E) -> int:
        return self._to_number[member]

    def decode(self, number: int, field: str, unspecified: E | None = None) -> E:
        """The member of a number; `unspecified` is what 0 means, None makes 0 a violation."""
        if number == 0 and unspecified is not None:
            return unspecified
        try:
            return self._from_number[number]
        except KeyError:
            got = "nothing" if number == 0 else str(number)
            raise InvalidValueError(
                [Violation(field, f"must be one of {self._names}, got {got}")]
            ) from None


_DTYPES = _EnumCodec(WeightDtype, problem_pb2.WeightDtype, "WEIGHT_DTYPE")
_OPTIMIZERS = _EnumCodec(Optimizer, problem_pb2.Optimizer, "OPTIMIZER")
_ALGORITHMS = _EnumCodec(Algorithm, problem_pb2.Algorithm, "ALGORITHM")
_SHARDING_TYPES = _EnumCodec(ShardingType, problem_pb2.ShardingType, "SHARDING_TYPE")
_SOURCES = _EnumCodec(CostModelSource, plan_pb2.CostModelSource, "COST_MODEL_SOURCE")
_STOPPED_BY = _EnumCodec(StoppedBy, plan_pb2.StoppedBy, "STOPPED_BY")


class _Reader:
    """Builds domain values and gathers the violations of those that fail."""

    def __init__(self) -> None:
        self.checks = Checks()

    def build(self, prefix: str, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except InvalidValueError as error:
            if prefix:
                self.checks.extend(error.violations, prefix)
            else:
                self.checks.violations.extend(error.violations)
            return None


# --- problem ----------------------------------------------------------------------------------


def table_to_proto(table: EmbeddingTable) -> problem_pb2.Table:
    """Encodes a table."""
    message = problem_pb2.Table(
        name=table.name,
        num_embeddings=table.num_embeddings,
        embedding_dim=table.embedding_dim,
        pooling_factor=table.pooling_factor,
        reuse_histogram=table.reuse_histogram or (),
        weight_dtype=_DTYPES.encode(table.weight_dtype),  # type: ignore[arg-type]
        feature_names=table.feature_names,
    )
    if table.constraints != TableConstraints():
        message.constraints.CopyFrom(_constraints_to_proto(table.constraints))
    return message


def _constraints_to_proto(constraints: TableConstraints) -> problem_pb2.TableConstraints:
    return problem_pb2.TableConstraints(
        min_column_width=constraints.min_column_width,
        sharding_types=map(_SHARDING_TYPES.encode, constraints.sharding_types),  # type: ignore[arg-type]
        devices=constraints.devices,
        excluded_devices=constraints.excluded_devices,
        colocation_group=constraints.colocation_group,
    )


def _constraints_from_proto(message: problem_pb2.TableConstraints) -> TableConstraints:
    return TableConstraints(
        min_column_width=message.min_column_width or TableConstraints().min_column_width,
        sharding_types=_sharding_types_from_proto(message.sharding_types),
        devices=tuple(message.devices),
        excluded_devices=tuple(message.excluded_devices),
        colocation_group=message.colocation_group,
    )


def _sharding_types_from_proto(numbers: Iterable[int]) -> tuple[ShardingType, ...]:
    return tuple(_SHARDING_TYPES.decode(number, "sharding_types") for number in numbers)


def table_from_proto(message: problem_pb2.Table) -> EmbeddingTable:
    """Decodes a table.

    Raises:
        InvalidValueError: With every violation in it.
    """
    reader = _Reader()
    dtype = reader.build(
        "", lambda: _DTYPES.decode(message.weight_dtype, "weight_dtype", WeightDtype.FP32)
    )
    constraints = reader.build(
        "constraints",
        lambda: _constraints_from_proto(message.constraints),
    )
    table = reader.build(
        "",
        lambda: EmbeddingTable(
            name=message.name,
            num_embeddings=message.num_embeddings,
            embedding_dim=message.embedding_dim,
            pooling_factor=message.pooling_factor,
            reuse_histogram=tuple(message.reuse_histogram) or None,
            weight_dtype=dtype or WeightDtype.FP32,
            feature_names=tuple(message.feature_names),
            constraints=constraints or TableConstraints(),
        ),
    )
    reader.checks.raise_if_any()
    assert table is not None
    return table


def cluster_to_proto(cluster: Cluster) -> problem_pb2.Cluster:
    """Encodes a cluster."""
    return problem_pb2.Cluster(
        num_devices=cluster.num_devices,
        devices_per_host=cluster.devices_per_host,
        hardware=cluster.hardware,
        device_memory_bytes=cluster.device_memory_bytes,
        reserved_memory_bytes=cluster.reserved_memory_bytes,
        device_memory_overrides=[
            problem_pb2.DeviceMemoryOverride(device=device, memory_bytes=memory_bytes)
            for device, memory_bytes in cluster.device_memory_overrides
        ],
    )


def cluster_from_proto(message: problem_pb2.Cluster) -> Cluster:
    """Decodes a cluster.

    Raises:
        InvalidValueError: With every violation in it.
    """
    return Cluster(
        num_devices=message.num_devices,
        devices_per_host=message.devices_per_host,
        hardware=message.hardware,
        device_memory_bytes=message.device_memory_bytes,
        reserved_memory_bytes=message.reserved_memory_bytes,
        device_memory_overrides=tuple(
            (o.device, o.memory_bytes) for o in message.device_memory_overrides
        ),
    )


def options_to_proto(options: SearchOptions) -> problem_pb2.SearchOptions:
    """Encodes search options."""
    message = problem_pb2.SearchOptions(
        max_column_splits=options.max_column_splits,
        beam_width=options.beam_width,
        candidates=options.candidates,
        grid_steps=options.grid_steps,
        algorithm=_ALGORITHMS.encode(options.algorithm),  # type: ignore[arg-type]
        seed=options.seed,
        sharding_types=map(_SHARDING_TYPES.encode, options.sharding_types),  # type: ignore[arg-type]
    )
    if options.time_budget_s is not None:
        message.time_budget.CopyFrom(_duration(options.time_budget_s))
    return message


def options_from_proto(message: problem_pb2.SearchOptions) -> SearchOptions:
    """Decodes search options; absent ones take their defaults.

    Raises:
        InvalidValueError: With every violation in it.
    """
    reader = _Reader()
    defaults = SearchOptions()
    algorithm = reader.build(
        "", lambda: _ALGORITHMS.decode(message.algorithm, "algorithm", defaults.algorithm)
    )
    numbers = {
        name: getattr(message, name)
        for name in ("max_column_splits", "beam_width", "candidates", "grid_steps")
        if message.HasField(name)
    }
    sharding_types = reader.build("", lambda: _sharding_types_from_proto(message.sharding_types))
    budget = message.time_budget if message.HasField("time_budget") else None
    options = reader.build(
        "",
        lambda: SearchOptions(
            **numbers,
            time_budget_s=None if budget is None else _seconds(budget),
            algorithm=algorithm or defaults.algorithm,
            seed=message.seed,
            sharding_types=sharding_types or defaults.sharding_types,
        ),
    )
    reader.checks.raise_if_any()
    assert options is not None
    return options


def plan_request_to_proto(request: PlanRequest) -> service_pb2.GetShardingPlanRequest:
    """Encodes a plan request."""
    problem = request.problem
    return service_pb2.GetShardingPlanRequest(
        request_id=request.request_id,
        tables=map(table_to_proto, problem.tables),
        cluster=cluster_to_proto(problem.cluster),
        global_batch_size=problem.global_batch_size,
        optimizer=_OPTIMIZERS.encode(problem.optimizer),  # type: ignore[arg-type]
        options=options_to_proto(request.options),
        cost_model=problem_pb2.CostModelSelector(version=request.cost_model_version),
    )


def plan_request_from_proto(message: service_pb2.GetShardingPlanRequest) -> PlanRequest:
    """Decodes a plan request.

    Raises:
        InvalidValueError: With every violation in the whole request.
    """
    reader = _Reader()
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
        optimizer=_OPTIMIZERS.encode(problem.optimizer),  # type: ignore[arg-type]
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
    reader = _Reader()
    problem = _read_problem(reader, message)
    plan = reader.build("plan", lambda: plan_from_proto(message.plan))
    reader.checks.raise_if_any()
    assert problem is not None and plan is not None
    return EvaluateRequest(problem, plan, message.cost_model.version, message.request_id)


def _read_problem(
    reader: _Reader,
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
    optimizer = reader.build("", lambda: _OPTIMIZERS.decode(message.optimizer, "optimizer"))
    if cluster is not None:
        for i, table in enumerate(built):
            if table is not None:
                check_device_names(reader.checks, table, cluster, f"tables[{i}].constraints")
    if reader.checks.violations:
        return None
    assert cluster is not None and optimizer is not None
    return ShardingProblem(tables, cluster, message.global_batch_size, optimizer)


# --- plans and results --------------------------------------------------------------------------


def plan_to_proto(plan: ShardingPlan) -> plan_pb2.ShardingPlan:
    """Encodes a plan, with its fingerprint."""
    return plan_pb2.ShardingPlan(
        shards=[
            plan_pb2.Shard(
                table=s.table,
                device=s.device,
                row_offset=s.row_offset,
                num_rows=s.num_rows,
                column_offset=s.column_offset,
                num_columns=s.num_columns,
            )
            for s in plan.shards
        ],
        fingerprint=plan.fingerprint,
    )


def plan_from_proto(message: plan_pb2.ShardingPlan) -> ShardingPlan:
    """Decodes a plan; its fingerprint is computed anew.

    Raises:
        InvalidValueError: With every bad shard.
    """
    reader = _Reader()
    shards = [
        reader.build(
            f"shards[{i}]",
            lambda s=s: Shard(  # type: ignore[misc]
                s.table, s.device, s.row_offset, s.num_rows, s.column_offset, s.num_columns
            ),
        )
        for i, s in enumerate(message.shards)
    ]
    reader.checks.require(bool(shards), "shards", "must name at least one shard, got none")
    reader.checks.raise_if_any()
    return ShardingPlan(tuple(shard for shard in shards if shard is not None))


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


def cost_model_to_proto(cost_model: CostModelId) -> plan_pb2.CostModel:
    """Encodes a cost model's identity."""
    return plan_pb2.CostModel(
        name=cost_model.name,
        version=cost_model.version,
        hardware=cost_model.hardware,
        source=_SOURCES.encode(cost_model.source),  # type: ignore[arg-type]
    )


def cost_model_from_proto(message: plan_pb2.CostModel) -> CostModelId:
    """Decodes a cost model's identity.

    Raises:
        InvalidValueError: When the source is unknown.
    """
    source = _SOURCES.decode(message.source, "source")
    return CostModelId(message.name, message.version, message.hardware, source)


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
            duration=_duration(result.search.duration_s),
            plans_evaluated=result.search.plans_evaluated,
            predictions=result.search.predictions,
            stopped_by=_stopped_by_to_proto(result.search.stopped_by),
            algorithm=_ALGORITHMS.encode(result.search.algorithm),  # type: ignore[arg-type]
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
            duration_s=_seconds(message.search.duration),
            plans_evaluated=message.search.plans_evaluated,
            predictions=message.search.predictions,
            stopped_by=_stopped_by_from_proto(message.search.stopped_by),
            algorithm=_ALGORITHMS.decode(message.search.algorithm, "search.algorithm"),
        ),
        request_id=message.request_id,
        warnings=tuple(message.warnings),
    )


def _stopped_by_to_proto(stopped_by: StoppedBy | None) -> plan_pb2.StoppedBy.ValueType:
    number = 0 if stopped_by is None else _STOPPED_BY.encode(stopped_by)
    return number  # type: ignore[return-value]


def _stopped_by_from_proto(number: int) -> StoppedBy | None:
    return _STOPPED_BY.decode(number, "search.stopped_by") if number else None


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


def description_to_proto(description: CostModelDescription) -> plan_pb2.CostModelDescription:
    """Encodes a cost model's description."""
    create_time = Timestamp()
    create_time.FromDatetime(description.create_time)
    return plan_pb2.CostModelDescription(
        cost_model=cost_model_to_proto(description.cost_model),
        create_time=create_time,
        num_compute_measurements=description.num_compute_measurements,
        num_comm_measurements=description.num_comm_measurements,
        accuracy=[
            plan_pb2.CostModelAccuracy(
                quantity=a.quantity,
                mape_percent=a.mape_percent,
                kendall_tau=a.kendall_tau,
                num_measurements=a.num_measurements,
            )
            for a in description.accuracy
        ],
        software=description.software,
        is_default=description.is_default,
    )


def description_from_proto(message: plan_pb2.CostModelDescription) -> CostModelDescription:
    """Decodes a cost model's description.

    Raises:
        InvalidValueError: When the source is unknown.
    """
    return CostModelDescription(
        cost_model=cost_model_from_proto(message.cost_model),
        create_time=message.create_time.ToDatetime(tzinfo=timezone.utc),
        num_compute_measurements=message.num_compute_measurements,
        num_comm_measurements=message.num_comm_measurements,
        accuracy=tuple(
            CostModelAccuracy(a.quantity, a.mape_percent, a.kendall_tau, a.num_measurements)
            for a in message.accuracy
        ),
        software=dict(message.software),
        is_default=message.is_default,
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
