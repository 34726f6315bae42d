"""Metrics of a real server, read from its own endpoint."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from server_bundles import plan_request
from server_harness import SERVICE_NAME, RunningServer, eventually, serving

from shardwright.v1 import sharding_plan_service_pb2 as service_pb2


@pytest.fixture
def fresh(bundles: Path) -> Iterator[RunningServer]:
    """A server that nobody has asked anything yet."""
    with serving(bundles) as server:
        yield server


def labels(method: str, service: str = SERVICE_NAME, kind: str = "unary") -> dict[str, str]:
    return {"grpc_type": kind, "grpc_service": service, "grpc_method": method}


def handled(server: RunningServer, code: str, **which: str) -> float:
    return server.metric("grpc_server_handled_total", grpc_code=code, **which)


def code_of(call: grpc.RpcError) -> grpc.StatusCode:
    return call.value.code()


def test_every_rpc_is_shown_from_the_start_at_zero(fresh: RunningServer) -> None:
    for which in (
        labels("GetShardingPlan"),
        labels("EvaluateShardingPlan"),
        labels("ListCostModels"),
        labels("Check", "grpc.health.v1.Health"),
        labels("Watch", "grpc.health.v1.Health", "server_stream"),
        labels("ServerReflectionInfo", "grpc.reflection.v1alpha.ServerReflection", "bidi_stream"),
    ):
        assert fresh.metric("grpc_server_started_total", **which) == 0
        assert handled(fresh, "OK", **which) == 0
        assert handled(fresh, "InvalidArgument", **which) == 0
        assert fresh.metric("grpc_server_handling_seconds_count", **which) == 0


def test_rpcs_are_counted_by_method_and_code(fresh: RunningServer) -> None:
    for _ in range(3):
        fresh.plan(plan_request())
    bad = plan_request()
    bad.tables[0].embedding_dim = 66
    with pytest.raises(grpc.RpcError):
        fresh.plan(bad)
    with pytest.raises(grpc.RpcError):
        fresh.plan(plan_request(hardware="abacus"))
    with pytest.raises(grpc.RpcError):
        fresh.send_bytes(f"/{SERVICE_NAME}/GetShardingPlan", b"\xff")
    which = labels("GetShardingPlan")
    # a refused call is counted when its status is on the way already
    eventually(lambda: fresh.metric("grpc_server_handling_seconds_count", **which) == 6)
    assert handled(fresh, "OK", **which) == 3
    assert handled(fresh, "InvalidArgument", **which) == 2, "one of them undecodable"
    assert handled(fresh, "NotFound", **which) == 1
    assert fresh.metric("grpc_server_started_total", **which) == 6
    assert fresh.metric("grpc_server_handling_seconds_sum", **which) > 0


def test_unknown_methods_are_counted_under_one_label(fresh: RunningServer) -> None:
    for method in (f"/{SERVICE_NAME}/Typo", "/other.Service/Call", "/a/b"):
        with pytest.raises(grpc.RpcError):
            fresh.send_bytes(method, b"")
    which = labels("unknown", "unknown")
    # a refused call is counted when its status is on the way already
    eventually(lambda: handled(fresh, "Unimplemented", **which) == 3)
    assert "Typo" not in fresh.scrape()


def test_streams_are_counted_when_they_end(fresh: RunningServer) -> None:
    which = labels("Watch", "grpc.health.v1.Health", "server_stream")
    watch = health_pb2_grpc.HealthStub(fresh.channel).Watch(health_pb2.HealthCheckRequest())
    next(watch)
    assert fresh.metric("grpc_server_started_total", **which) == 1
    assert fresh.metric("grpc_server_handling_seconds_count", **which) == 0
    watch.cancel()
    eventually(lambda: handled(fresh, "Canceled", **which) == 1)


def test_searches_are_timed_by_hardware_and_outcome(fresh: RunningServer) -> None:
    fresh.plan(plan_request())
    fresh.plan(plan_request(hardware="other-gpu"))
    crowded = plan_request()
    crowded.cluster.device_memory_bytes = 1000
    with pytest.raises(grpc.RpcError):
        fresh.plan(crowded)
    name = "shardwright_search_seconds_count"
    assert fresh.metric(name, hardware="test-gpu", outcome="completed") == 1
    assert fresh.metric(name, hardware="other-gpu", outcome="completed") == 1
    assert fresh.metric(name, hardware="test-gpu", outcome="no_plan") == 1


def test_plans_are_compared_with_the_best_baseline(fresh: RunningServer) -> None:
    response = fresh.plan(plan_request(num_tables=7))
    best_ms = min(b.cost_ms for b in response.baselines if b.feasible)
    total = fresh.metric("shardwright_plan_cost_ratio_sum", hardware="test-gpu")
    assert total == pytest.approx(response.cost_ms / best_ms)
    assert fresh.metric("shardwright_plan_cost_ratio_count", hardware="test-gpu") == 1


def test_bundles_are_shown_with_their_provenance(fresh: RunningServer) -> None:
    for hardware, version in (("test-gpu", "v1"), ("test-gpu", "v2"), ("other-gpu", "v1")):
        assert (
            fresh.metric(
                "shardwright_bundle_info",
                name="linear",
                version=version,
                hardware=hardware,
                source="modelled",
            )
            == 1
        )
    assert fresh.metric("shardwright_bundles_left_out") == 0


def test_evaluations_and_lists_are_no_searches(fresh: RunningServer) -> None:
    fresh.stub.ListCostModels(service_pb2.ListCostModelsRequest(), timeout=60)
    assert "shardwright_search_seconds_count{" not in fresh.scrape()
    assert handled(fresh, "OK", **labels("ListCostModels")) == 1
