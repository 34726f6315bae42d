"""The service on a good day: plans, evaluations, cost models, health, reflection."""

from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from server_bundles import make_bundle, plan_request
from server_harness import SERVICE_NAME, RunningServer, serving

from shardwright.domain import check_plan
from shardwright.v1 import plan_pb2, problem_pb2
from shardwright.v1 import sharding_plan_service_pb2 as service_pb2
from shardwright.wire import plan_from_proto, plan_request_from_proto
from shardwright_costmodel.features import FloatArray
from shardwright_costmodel.runtime import OnnxCostModel
from shardwright_server.model_store import ModelStore


def test_a_plan_is_legal_and_says_who_predicted_it(server: RunningServer) -> None:
    request = plan_request(num_tables=6, request_id="job-7")
    response = server.plan(request)
    plan = plan_from_proto(response.plan)
    check_plan(plan, plan_request_from_proto(request).problem)
    assert response.plan.fingerprint == plan.fingerprint
    assert response.request_id == "job-7"
    assert response.cost_ms == max(d.total_ms + d.wait_ms for d in response.devices)
    assert [d.device for d in response.devices] == [0, 1]
    assert response.cost_model == plan_pb2.CostModel(
        name="linear",
        version="v2",
        hardware="test-gpu",
        source=plan_pb2.COST_MODEL_SOURCE_MODELLED,
    )
    assert {b.name for b in response.baselines} == {
        *("dim", "size", "lookup", "size_lookup", "random")
    }


def test_the_same_request_gives_the_same_plan_again(server: RunningServer) -> None:
    first, second = (server.plan(plan_request(num_tables=20)) for _ in range(2))
    assert first.plan == second.plan
    assert first.cost_ms == second.cost_ms


def test_a_version_that_is_named_answers(server: RunningServer) -> None:
    request = plan_request()
    request.cost_model.version = "v1"
    assert server.plan(request).cost_model.version == "v1"


def test_evaluating_the_servers_own_plan_gives_its_own_costs(server: RunningServer) -> None:
    request = plan_request(num_tables=6)
    planned = server.plan(request)
    evaluated = server.stub.EvaluateShardingPlan(
        service_pb2.EvaluateShardingPlanRequest(
            request_id="again",
            tables=request.tables,
            cluster=request.cluster,
            global_batch_size=request.global_batch_size,
            optimizer=request.optimizer,
            plan=planned.plan,
        ),
        timeout=60,
    )
    assert evaluated.cost_ms == planned.cost_ms
    assert list(evaluated.devices) == list(planned.devices)
    assert evaluated.fingerprint == planned.plan.fingerprint
    assert evaluated.request_id == "again"
    assert evaluated.cost_model == planned.cost_model


def test_cost_models_are_listed_by_hardware_newest_first(server: RunningServer) -> None:
    answer = server.stub.ListCostModels(service_pb2.ListCostModelsRequest(), timeout=60)
    assert [
        (m.cost_model.hardware, m.cost_model.version, m.is_default) for m in answer.cost_models
    ] == [("other-gpu", "v1", True), ("test-gpu", "v2", True), ("test-gpu", "v1", False)]
    newest = answer.cost_models[1]
    assert newest.create_time.ToJsonString() == "2026-01-02T00:00:00Z"
    assert (newest.num_compute_measurements, newest.num_comm_measurements) == (10, 20)
    assert newest.accuracy[0].quantity == "compute"
    assert dict(newest.software) == {"numpy": "2"}


def test_cost_models_of_one_profile_can_be_asked_for(server: RunningServer) -> None:
    ask = service_pb2.ListCostModelsRequest(hardware="other-gpu")
    (only,) = server.stub.ListCostModels(ask, timeout=60).cost_models
    assert only.cost_model.hardware == "other-gpu"
    ask.hardware = "abacus"
    with pytest.raises(grpc.RpcError) as caught:
        server.stub.ListCostModels(ask, timeout=60)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "other-gpu, test-gpu" in caught.value.details()


def test_a_hundred_thousand_tables_fit_into_a_request(server: RunningServer) -> None:
    request = plan_request(num_tables=100_000)
    for i, table in enumerate(request.tables):
        table.name = f"embedding_bag_collection.sparse_arch.table_{i:06d}"
        table.reuse_histogram.extend([1.0] * 17)
        table.feature_names.append(f"feature_{i:06d}")
    request.cluster.device_memory_bytes = 1
    assert len(request.SerializeToString()) > 4 << 20, "more than gRPC takes by default"
    with pytest.raises(grpc.RpcError) as caught:
        server.plan(request)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(
    "service",
    ["", SERVICE_NAME, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"],
)
def test_health_of_every_service_is_serving(server: RunningServer, service: str) -> None:
    stub = health_pb2_grpc.HealthStub(server.channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_health_of_an_unknown_service_is_not_found(server: RunningServer) -> None:
    stub = health_pb2_grpc.HealthStub(server.channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=60)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_health_can_be_watched(server: RunningServer) -> None:
    watch = health_pb2_grpc.HealthStub(server.channel).Watch(
        health_pb2.HealthCheckRequest(service=SERVICE_NAME), timeout=60
    )
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


def test_reflection_describes_the_service(server: RunningServer) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    listed, described = stub.ServerReflectionInfo(
        iter(
            [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE_NAME),
            ]
        ),
        timeout=60,
    )
    assert SERVICE_NAME in {s.name for s in listed.list_services_response.service}
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(data)
        for data in described.file_descriptor_response.file_descriptor_proto
    ]
    services = {f"{f.package}.{s.name}": s for f in files for s in f.service}
    assert {m.name for m in services[SERVICE_NAME].method} == {
        *("GetShardingPlan", "StreamShardingPlan", "EvaluateShardingPlan", "ListCostModels")
    }


def test_an_unknown_method_is_unimplemented(server: RunningServer) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.send_bytes(f"/{SERVICE_NAME}/GetShardingPlans", b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


class BrokenCostModel(OnnxCostModel):
    """A cost model whose fault nobody foresaw."""

    def encode(self, shard_features: FloatArray) -> FloatArray:
        raise KeyError("/secret/path")


def test_a_fault_of_the_server_is_internal_tells_nothing_and_is_logged(
    capfd: pytest.CaptureFixture[str],
) -> None:
    models = ModelStore(
        [BrokenCostModel(make_bundle("broken", "v1")), OnnxCostModel(make_bundle("sound", "v1"))]
    )
    with serving(models=models) as server:
        with pytest.raises(grpc.RpcError) as caught:
            server.plan(plan_request(hardware="broken"))
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert caught.value.details() == "internal error; the server's log has the cause"
        assert "secret" not in str(caught.value.trailing_metadata())
        assert server.plan(plan_request(hardware="sound")).cost_ms > 0
        assert server.metric("shardwright_searches_running") == 0
    logged = "".join(capfd.readouterr())
    assert "KeyError: '/secret/path'" in logged and "Traceback" in logged


def test_limits_are_settings(bundles: Path) -> None:
    with serving(bundles, "--max-tables", "3", "--max-devices", "1") as small:
        with pytest.raises(grpc.RpcError) as caught:
            small.plan(plan_request(num_tables=4))
        assert "this server takes at most 3 tables, got 4" in caught.value.details()
        with pytest.raises(grpc.RpcError) as caught:
            small.plan(plan_request(num_tables=3))
        assert "this server takes at most 1 devices, got 2" in caught.value.details()


def test_optimizer_state_counts_as_memory(server: RunningServer) -> None:
    request = plan_request(num_tables=2)
    without = server.plan(request)
    request.optimizer = problem_pb2.OPTIMIZER_ADAM
    with_state = server.plan(request)
    assert sum(d.memory_bytes for d in with_state.devices) == 3 * sum(
        d.memory_bytes for d in without.devices
    )


def test_plans_of_every_sharding_type_are_evaluated(server: RunningServer) -> None:
    request = plan_request(num_tables=5)
    request.cluster.num_devices, request.cluster.devices_per_host = 4, 2
    shards = [
        *(_shard(0, device, num_rows=1000) for device in range(4)),
        *(
            _shard(1, device, row_offset=251 * device, num_rows=min(251, 1001 - 251 * device))
            for device in range(4)
        ),
        *(_shard(2, 2 + i, row_offset=501 * i, num_rows=501) for i in range(2)),
        *(_shard(3, 3 - i, num_rows=1003, column_offset=16 * i, num_columns=16) for i in range(4)),
        _shard(4, 1, num_rows=1004),
    ]
    answer = server.stub.EvaluateShardingPlan(
        service_pb2.EvaluateShardingPlanRequest(
            tables=request.tables,
            cluster=request.cluster,
            global_batch_size=request.global_batch_size,
            optimizer=request.optimizer,
            plan=plan_pb2.ShardingPlan(shards=shards),
        ),
        timeout=60,
    )
    assert answer.cost_ms == max(d.total_ms + d.wait_ms for d in answer.devices) > 0
    _, rows, copies = answer.warnings
    assert rows.startswith("tables 't1', 't2' are cut in rows")
    assert copies.startswith("table 't0' is copied to every device")
    # weights, and a dense gradient of the copy
    blocks, columns = [251, 251, 251, 248], 1003 * 16
    whole = {1: 1004 * 64}
    host = {2: 501 * 64, 3: 501 * 64}
    assert [d.memory_bytes for d in answer.devices] == [
        4 * (2 * 1000 * 64 + blocks[d] * 64 + columns + whole.get(d, 0) + host.get(d, 0))
        for d in range(4)
    ]


def _shard(table: int, device: int, **rectangle: int) -> plan_pb2.Shard:
    return plan_pb2.Shard(table=f"t{table}", device=device, **{"num_columns": 64, **rectangle})
