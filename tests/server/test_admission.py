"""Admission: bounded concurrency, a bounded queue, refusals that say when to come back."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from server_bundles import make_bundle, plan_request
from server_harness import RunningServer, eventually, serving

from shardwright.v1 import sharding_plan_service_pb2 as service_pb2
from shardwright_costmodel.features import FloatArray
from shardwright_costmodel.runtime import OnnxCostModel
from shardwright_server.admission import Admission, retry_after_s
from shardwright_server.model_store import ModelStore
from shardwright_server.servicer import search_deadline_s


class GatedCostModel(OnnxCostModel):
    """A real cost model that waits at a gate before it encodes; so searches last as long as told.

    Attributes:
        gate: Open lets everybody pass.
        arrived: Released once by each search that came to the gate.
    """

    def __init__(self) -> None:
        super().__init__(make_bundle("test-gpu", "v1"))
        self.gate = threading.Event()
        self.arrived = threading.Semaphore(0)

    def encode(self, shard_features: FloatArray) -> FloatArray:
        self.arrived.release()
        assert self.gate.wait(timeout=60)
        return super().encode(shard_features)


@contextmanager
def gated_server(*flags: str) -> Iterator[tuple[RunningServer, GatedCostModel]]:
    model = GatedCostModel()
    with serving(None, *flags, models=ModelStore([model])) as server:
        try:
            yield server, model
        finally:
            model.gate.set()


def queued(server: RunningServer) -> float:
    return server.metric("shardwright_searches_queued")


def running(server: RunningServer) -> float:
    return server.metric("shardwright_searches_running")


def test_short_rpcs_answer_while_every_planner_is_busy() -> None:
    with gated_server("--planner-threads", "2") as (server, model):
        searches = [server.stub.GetShardingPlan.future(plan_request()) for _ in range(3)]
        assert model.arrived.acquire(timeout=60) and model.arrived.acquire(timeout=60)
        answer = server.stub.ListCostModels(service_pb2.ListCostModelsRequest(), timeout=60)
        assert len(answer.cost_models) == 1
        assert not any(search.done() for search in searches)
        eventually(lambda: (running(server), queued(server)) == (2, 1))
        model.gate.set()
        assert len({search.result().plan.fingerprint for search in searches}) == 1
        eventually(lambda: (running(server), queued(server)) == (0, 0))


def test_mistakes_are_told_even_when_the_queue_is_full() -> None:
    with gated_server("--planner-threads", "1", "--max-queued", "0") as (server, model):
        search = server.stub.GetShardingPlan.future(plan_request())
        assert model.arrived.acquire(timeout=60)
        with pytest.raises(grpc.RpcError) as caught:
            server.plan(service_pb2.GetShardingPlanRequest())
        assert not search.done()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_beyond_the_queue_requests_are_refused_and_told_when_to_come_back() -> None:
    with gated_server("--planner-threads", "1", "--max-queued", "1") as (server, model):
        first = server.stub.GetShardingPlan.future(plan_request())
        assert model.arrived.acquire(timeout=60)
        second = server.stub.GetShardingPlan.future(plan_request())
        eventually(lambda: queued(server) == 1)
        with pytest.raises(grpc.RpcError) as caught:
            server.plan(plan_request())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.details().startswith("1 searches are running and 1 are waiting")
        status = rpc_status.from_call(caught.value)
        retry = error_details_pb2.RetryInfo()
        assert status is not None and status.details[0].Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() >= 1000
        model.gate.set()
        assert first.result().cost_ms == second.result().cost_ms > 0
        assert server.plan(plan_request()).cost_ms > 0


def test_a_cancelled_rpc_frees_its_place_in_the_queue() -> None:
    with gated_server("--planner-threads", "1", "--max-queued", "1") as (server, model):
        first = server.stub.GetShardingPlan.future(plan_request())
        assert model.arrived.acquire(timeout=60)
        waiting = server.stub.GetShardingPlan.future(plan_request())
        eventually(lambda: queued(server) == 1)
        waiting.cancel()
        eventually(lambda: queued(server) == 0)
        third = server.stub.GetShardingPlan.future(plan_request())
        eventually(lambda: queued(server) == 1)
        model.gate.set()
        assert first.result().cost_ms == third.result().cost_ms > 0


def test_a_deadline_that_passes_in_the_queue_frees_the_place_too() -> None:
    with gated_server("--planner-threads", "1", "--max-queued", "1") as (server, model):
        first = server.stub.GetShardingPlan.future(plan_request())
        assert model.arrived.acquire(timeout=60)
        with pytest.raises(grpc.RpcError) as caught:
            server.plan(plan_request(), timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        eventually(lambda: queued(server) == 0)
        model.gate.set()
        assert first.result().cost_ms > 0


def test_an_abandoned_search_keeps_its_thread_until_it_ends() -> None:
    with gated_server("--planner-threads", "1") as (server, model):
        search = server.stub.GetShardingPlan.future(plan_request())
        assert model.arrived.acquire(timeout=60)
        search.cancel()
        labels = {
            "grpc_type": "unary",
            "grpc_service": "shardwright.v1.ShardingPlanService",
            "grpc_method": "GetShardingPlan",
            "grpc_code": "Canceled",
        }
        eventually(lambda: server.metric("grpc_server_handled_total", **labels) == 1)
        assert running(server) == 1
        model.gate.set()
        eventually(lambda: running(server) == 0)
        assert server.plan(plan_request()).cost_ms > 0


def test_time_that_runs_out_before_a_plan_is_a_deadline_exceeded_of_the_server() -> None:
    with gated_server("--max-search-seconds", "0.05") as (server, model):
        search = server.stub.GetShardingPlan.future(plan_request())
        assert model.arrived.acquire(timeout=60)
        time.sleep(0.1)
        model.gate.set()
        error: Any = search.exception()
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "before any plan that fits" in error.details()


def test_a_search_is_to_stop_a_little_before_the_deadline_of_its_rpc() -> None:
    assert search_deadline_s(None, now_s=7.0) is None
    assert search_deadline_s(1.0, now_s=7.0) == pytest.approx(7.9)
    assert search_deadline_s(100.0, now_s=7.0) == pytest.approx(106.5)


def test_a_search_is_to_stop_at_its_deadline_or_at_the_servers_limit() -> None:
    async def stop_at_s(deadline_s: float | None) -> float:
        admission = Admission(threads=1, max_queued=1, max_search_s=100.0)
        try:
            return await admission.run(lambda turn: turn.stop_at_s, deadline_s)
        finally:
            admission.close()

    now_s = time.monotonic()
    assert asyncio.run(stop_at_s(now_s + 30)) == now_s + 30
    assert now_s + 100 <= asyncio.run(stop_at_s(now_s + 1e6)) <= time.monotonic() + 100
    assert now_s + 100 <= asyncio.run(stop_at_s(None)) <= time.monotonic() + 100


def test_searches_run_in_the_order_of_their_arrival() -> None:
    order: list[int] = []

    async def scenario() -> None:
        admission = Admission(threads=1, max_queued=10, max_search_s=60.0)
        await asyncio.gather(
            *(admission.run(lambda _turn, i=i: order.append(i), None) for i in range(8))
        )
        admission.close()

    asyncio.run(scenario())
    assert order == list(range(8))


def test_an_error_of_a_search_reaches_its_caller_and_frees_the_thread() -> None:
    async def scenario() -> None:
        admission = Admission(threads=1, max_queued=0, max_search_s=60.0)

        def fail(_turn: object) -> None:
            raise ZeroDivisionError

        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await admission.run(fail, None)
            await asyncio.sleep(0.01)
        assert admission.running == 0
        admission.close()

    asyncio.run(scenario())


def test_the_more_wait_and_the_longer_searches_take_the_later_to_come_back() -> None:
    assert retry_after_s(queued=0, threads=4, mean_search_s=0.1) == 1
    assert retry_after_s(queued=7, threads=4, mean_search_s=5.0) == pytest.approx(10)
    assert retry_after_s(queued=1000, threads=1, mean_search_s=5.0) == 60
