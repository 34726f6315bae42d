"""A real gRPC server on loopback whose answers a test writes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import status_pb2
from grpc_status import rpc_status

from shardwright import wire
from shardwright.domain import (
    Algorithm,
    Baseline,
    Cluster,
    CostModelAccuracy,
    CostModelDescription,
    CostModelId,
    CostModelSource,
    DeviceCost,
    EmbeddingTable,
    EvaluationResult,
    Optimizer,
    PlanResult,
    SearchSummary,
    Shard,
    ShardingPlan,
    ShardingProblem,
    StoppedBy,
    device_memory_bytes,
)
from shardwright.v1 import plan_pb2
from shardwright.v1 import sharding_plan_service_pb2 as service_pb2
from shardwright.v1 import sharding_plan_service_pb2_grpc as service_grpc

COST_MODEL = CostModelId("roofline", "2026.11.1", "test-gpu", CostModelSource.MODELLED)

Handler = Callable[[Any, grpc.ServicerContext], Any]


class CannedServer:
    """Answers every call with `handler`, by default sensibly, and keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.handler: Handler = answer
        self.improvements: tuple[float, ...] = ()
        self.pause: threading.Event | None = None
        self.paused = threading.Event()
        self.ended = threading.Event()
        self._server = grpc.server(
            futures.ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)]
        )
        service_grpc.add_ShardingPlanServiceServicer_to_server(_Servicer(self), self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self.target = f"127.0.0.1:{self.port}"

    def fail(self, code: grpc.StatusCode, message: str, details: Sequence[Any] = ()) -> None:
        """From now on every call ends with this status."""

        def handler(request: Any, context: grpc.ServicerContext) -> Any:
            status = status_pb2.Status(code=code.value[0], message=message)
            for detail in details:
                packed = any_pb2.Any()
                packed.Pack(detail)
                status.details.append(packed)
            context.abort_with_status(rpc_status.to_status(status))

        self.handler = handler

    def handle(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        return self.handler(request, context)

    def handle_stream(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """Every improvement of the answer, and then the answer itself."""
        self.requests.append(request)
        answered = self.handler(request, context)
        for cost in self.improvements:
            better = type(answered)()
            better.CopyFrom(answered)
            better.cost_ms = cost
            better.search.stopped_by = plan_pb2.STOPPED_BY_UNSPECIFIED
            yield better
            if self.pause is not None:
                self.paused.set()
                self.pause.wait(timeout=60)
        self.ended.set()
        yield answered

    def __enter__(self) -> CannedServer:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()


class _Servicer(service_grpc.ShardingPlanServiceServicer):
    def __init__(self, server: CannedServer) -> None:
        self.GetShardingPlan = server.handle  # type: ignore[method-assign]
        self.StreamShardingPlan = server.handle_stream  # type: ignore[method-assign]
        self.EvaluateShardingPlan = server.handle  # type: ignore[method-assign]
        self.ListCostModels = server.handle  # type: ignore[method-assign]


def answer(request: Any, context: grpc.ServicerContext) -> Any:
    """A plausible answer of the right type."""
    if isinstance(request, service_pb2.GetShardingPlanRequest):
        asked = wire.plan_request_from_proto(request)
        result = plan_result(asked.problem, asked.request_id)
        return wire.plan_result_to_proto(result)
    if isinstance(request, service_pb2.EvaluateShardingPlanRequest):
        given = wire.evaluate_request_from_proto(request)
        devices = device_costs(given.plan, given.problem)
        return wire.evaluation_result_to_proto(
            EvaluationResult(
                cost_ms(devices), devices, COST_MODEL, given.plan.fingerprint, given.request_id
            )
        )
    return service_pb2.ListCostModelsResponse(
        cost_models=[wire.description_to_proto(description())]
    )


def small_problem(num_tables: int = 6, num_devices: int = 2) -> ShardingProblem:
    """A few tables on one host."""
    return ShardingProblem(
        tables=tuple(
            EmbeddingTable(f"table_{i}", 1000 + i, 64, pooling_factor=i + 1.0)
            for i in range(num_tables)
        ),
        cluster=Cluster(num_devices, num_devices, "test-gpu", 2**40, 2**30),
        global_batch_size=1024,
        optimizer=Optimizer.ADAGRAD,
    )


def any_plan(problem: ShardingProblem) -> ShardingPlan:
    """The first table in two column shards, the second in rows, the others whole, in turn."""
    shards: list[Shard] = []
    num_devices = problem.cluster.num_devices
    for i, t in enumerate(problem.tables):
        rows, half = t.num_embeddings, t.embedding_dim // 8 * 4
        if i == 0 and half:
            shards.append(Shard(t.name, num_devices - 1, 0, rows, 0, half))
            shards.append(Shard(t.name, 0, 0, rows, half, t.embedding_dim - half))
        elif i == 1:
            block = -(-rows // num_devices)
            starts = [min(d * block, rows) for d in range(num_devices)]
            shards += [
                Shard(t.name, d, start, min(block, rows - start), 0, t.embedding_dim)
                for d, start in enumerate(starts)
            ]
        else:
            shards.append(Shard(t.name, i % num_devices, 0, rows, 0, t.embedding_dim))
    return ShardingPlan(tuple(shards))


def device_costs(plan: ShardingPlan, problem: ShardingProblem) -> tuple[DeviceCost, ...]:
    """Costs that are consistent with one another: nobody waits longer than for the slowest."""
    memory = device_memory_bytes(plan, problem)
    compute = [5.0 + device for device in range(problem.cluster.num_devices)]
    last = max(compute) + 1.0
    return tuple(
        DeviceCost(device, ms, 2.0, 1.0, last - ms - 1.0, memory[device])
        for device, ms in enumerate(compute)
    )


def cost_ms(devices: Sequence[DeviceCost]) -> float:
    return max(d.total_ms + d.wait_ms for d in devices)


def plan_result(problem: ShardingProblem, request_id: str = "") -> PlanResult:
    """A complete answer."""
    plan = any_plan(problem)
    devices = device_costs(plan, problem)
    cost = cost_ms(devices)
    return PlanResult(
        plan=plan,
        cost_ms=cost,
        lower_bound_ms=cost * 0.8,
        devices=devices,
        baselines=(
            Baseline("dim", cost * 1.5),
            Baseline("size", None),
            Baseline("lookup", cost * 1.25),
        ),
        cost_model=COST_MODEL,
        search=SearchSummary(1.5, 321, 6543, StoppedBy.COMPLETED, Algorithm.NEUROSHARD),
        request_id=request_id,
        warnings=("table_5 lies outside the training range.",),
    )


def description() -> CostModelDescription:
    return CostModelDescription(
        cost_model=COST_MODEL,
        create_time=datetime(2026, 11, 1, 12, 30, tzinfo=UTC),
        num_compute_measurements=10_000,
        num_comm_measurements=2_000,
        accuracy=(CostModelAccuracy("compute", 3.25, 0.987, 500),),
        software={"torch": "2.13.0"},
        is_default=True,
    )
