"""The service: decodes, calls, encodes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import structlog

from shardwright import wire
from shardwright.domain import EvaluationResult, PlanResult
from shardwright.v1 import sharding_plan_service_pb2 as service_pb2
from shardwright_server import planning
from shardwright_server.admission import Admission, Turn
from shardwright_server.decoding import decode
from shardwright_server.metrics import Metrics
from shardwright_server.model_store import ModelStore
from shardwright_server.outbox import Outbox
from shardwright_server.validation import Limits, read_evaluate_request, read_plan_request

Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = service_pb2.DESCRIPTOR.services_by_name["ShardingPlanService"]

MARGIN_PART = 0.1
MAX_MARGIN_S = 0.5
"""A search stops a tenth of the time left before its RPC's deadline, at most half a second: the
answer must still be encoded and travel."""


class ShardingPlanServicer:
    """Serves `shardwright.v1.ShardingPlanService`.

    Requests and responses are bytes here: large ones are decoded and encoded on other threads, so
    that the event loop stays free for short RPCs.

    Attributes:
        models: The cost models that answer; may be replaced at any time, an RPC asks once.
    """

    def __init__(
        self, models: ModelStore, admission: Admission, limits: Limits, metrics: Metrics
    ) -> None:
        self.models = models
        self._admission = admission
        self._limits = limits
        self._metrics = metrics

    async def get_sharding_plan(self, data: bytes, context: Context) -> bytes:
        """Searches for the plan with the lowest predicted cost."""
        return await self._plan(data, context, on_improvement=None)

    async def stream_sharding_plan(self, data: bytes, context: Context) -> None:
        """As `get_sharding_plan`, and writes each better plan as soon as it is found."""
        outbox = Outbox(asyncio.get_running_loop())

        def improved(result: PlanResult) -> None:
            outbox.put(wire.plan_result_to_proto(result).SerializeToString())

        search = asyncio.create_task(self._plan(data, context, improved))
        search.add_done_callback(lambda _: outbox.close())
        try:
            while (improvement := await outbox.get()) is not None:
                await context.write(improvement)
            await context.write(await search)
        finally:
            search.cancel()

    async def _plan(
        self, data: bytes, context: Context, on_improvement: Callable[[PlanResult], None] | None
    ) -> bytes:
        deadline_s = search_deadline_s(context.time_remaining(), time.monotonic())
        message = await asyncio.to_thread(decode, service_pb2.GetShardingPlanRequest, data)
        structlog.contextvars.bind_contextvars(request_id=_shown(message.request_id))
        request = await asyncio.to_thread(read_plan_request, message, self._limits)
        hardware = request.problem.cluster.hardware
        model = self.models.resolve(hardware, request.cost_model_version)

        def search(turn: Turn) -> PlanResult:
            with self._metrics.search(hardware) as outcome:
                result = planning.plan(
                    request,
                    model,
                    deadline_s=turn.stop_at_s,
                    on_improvement=on_improvement,
                    cancelled=turn.cancelled,
                )
                outcome.found(result)
            return result

        result = await self._admission.run(search, deadline_s)
        self._metrics.plan_found(result)
        return await asyncio.to_thread(
            lambda: wire.plan_result_to_proto(result).SerializeToString()
        )

    async def evaluate_sharding_plan(self, data: bytes, _context: Context) -> bytes:
        """Predicts what a given plan costs."""
        message = await asyncio.to_thread(decode, service_pb2.EvaluateShardingPlanRequest, data)
        structlog.contextvars.bind_contextvars(request_id=_shown(message.request_id))
        request = await asyncio.to_thread(read_evaluate_request, message, self._limits)
        model = self.models.resolve(request.problem.cluster.hardware, request.cost_model_version)

        def evaluate(_turn: Turn) -> EvaluationResult:
            return planning.evaluate(request, model)

        result = await self._admission.run(evaluate, deadline_s=None)
        return await asyncio.to_thread(
            lambda: wire.evaluation_result_to_proto(result).SerializeToString()
        )

    async def list_cost_models(self, data: bytes, _context: Context) -> bytes:
        """Lists the cost models that can answer."""
        message = decode(service_pb2.ListCostModelsRequest, data)
        descriptions = self.models.describe(message.hardware)
        return service_pb2.ListCostModelsResponse(
            cost_models=map(wire.description_to_proto, descriptions)
        ).SerializeToString()


def handlers(servicer: ShardingPlanServicer) -> grpc.GenericRpcHandler:
    """The service's methods, which take and give bytes."""
    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "GetShardingPlan": unary(servicer.get_sharding_plan),
        "StreamShardingPlan": stream(servicer.stream_sharding_plan),
        "EvaluateShardingPlan": unary(servicer.evaluate_sharding_plan),
        "ListCostModels": unary(servicer.list_cost_models),
    }
    assert set(methods) == set(SERVICE.methods_by_name), "the contract has other methods"
    return grpc.method_handlers_generic_handler(SERVICE.full_name, methods)


def search_deadline_s(remaining_s: float | None, now_s: float) -> float | None:
    """The moment a search is to stop at; None when the RPC has no deadline.

    Args:
        remaining_s: Until the RPC's deadline.
        now_s: `time.monotonic()`.
    """
    if remaining_s is None:
        return None
    return now_s + remaining_s - min(MAX_MARGIN_S, MARGIN_PART * remaining_s)


def _shown(request_id: str) -> str:
    return request_id[: wire.MAX_REQUEST_ID_LENGTH]
