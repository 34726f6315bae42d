"""Bad input: the right status, every violation in one answer, and the server lives on."""

import math
from collections.abc import Callable

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from server_bundles import plan_request
from server_harness import SERVICE_NAME, RunningServer

from shardwright.v1 import plan_pb2, problem_pb2
from shardwright.v1 import sharding_plan_service_pb2 as service_pb2

Request = service_pb2.GetShardingPlanRequest
Table = problem_pb2.Table

NAN_BINS = [math.nan] + [1.0] * 16


def refused(call: Callable[[], object]) -> tuple[grpc.RpcError, status_pb2.Status]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    status = rpc_status.from_call(caught.value)
    assert status is not None, f"{caught.value.code()} {caught.value.details()} has no details"
    return caught.value, status


def detail(status: status_pb2.Status, kind: type) -> object:
    assert len(status.details) == 1
    message = kind()
    assert status.details[0].Unpack(message), status.details[0].type_url
    return message


def violations(server: RunningServer, request: Request) -> dict[str, list[str]]:
    """Field paths of the BadRequest that answers a request, with their descriptions."""
    error, status = refused(lambda: server.plan(request))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    found: dict[str, list[str]] = {}
    for v in detail(status, error_details_pb2.BadRequest).field_violations:
        found.setdefault(v.field, []).append(v.description)
    return found


def changed(change: Callable[[Request], object]) -> Request:
    request = plan_request()
    change(request)
    return request


def setter(path: str, value: object) -> Callable[[Request], object]:
    """Sets `tables.0.name` and the like."""

    def set_field(request: Request) -> None:
        *parents, last = path.split(".")
        target = request
        for part in parents:
            target = target[int(part)] if part.isdigit() else getattr(target, part)
        if isinstance(value, list):
            getattr(target, last).extend(value)
        else:
            setattr(target, last, value)

    return set_field


BAD = {
    "empty request": (lambda r: r.Clear(), {"tables", "cluster.num_devices", "optimizer"}),
    "no tables": (lambda r: r.ClearField("tables"), {"tables"}),
    "no cluster": (lambda r: r.ClearField("cluster"), {"cluster.num_devices", "cluster.hardware"}),
    "no devices": (setter("cluster.num_devices", 0), {"cluster.num_devices"}),
    "negative devices": (setter("cluster.num_devices", -4), {"cluster.num_devices"}),
    "absurd devices": (setter("cluster.num_devices", 2**31 - 2), {"cluster.num_devices"}),
    "more devices than served": (setter("cluster.num_devices", 4098), {"cluster.num_devices"}),
    "ragged hosts": (setter("cluster.devices_per_host", 3), {"cluster.devices_per_host"}),
    "no memory": (setter("cluster.device_memory_bytes", 0), {"cluster.device_memory_bytes"}),
    "all reserved": (
        setter("cluster.reserved_memory_bytes", 1 << 30),
        {"cluster.reserved_memory_bytes"},
    ),
    "no hardware": (setter("cluster.hardware", ""), {"cluster.hardware"}),
    "duplicate names": (setter("tables.0.name", "t1"), {"tables"}),
    "no name": (setter("tables.2.name", ""), {"tables[2].name"}),
    "no rows": (setter("tables.1.num_embeddings", 0), {"tables[1].num_embeddings"}),
    "negative rows": (setter("tables.1.num_embeddings", -7), {"tables[1].num_embeddings"}),
    "absurd rows": (setter("tables.1.num_embeddings", 2**62), {"tables[1].num_embeddings"}),
    "dim not times 4": (setter("tables.3.embedding_dim", 66), {"tables[3].embedding_dim"}),
    "negative dim": (setter("tables.3.embedding_dim", -64), {"tables[3].embedding_dim"}),
    "no lookups": (setter("tables.0.pooling_factor", 0.0), {"tables[0].pooling_factor"}),
    "negative lookups": (setter("tables.0.pooling_factor", -1.0), {"tables[0].pooling_factor"}),
    "NaN lookups": (setter("tables.0.pooling_factor", math.nan), {"tables[0].pooling_factor"}),
    "infinite lookups": (setter("tables.0.pooling_factor", math.inf), {"tables[0].pooling_factor"}),
    "short histogram": (setter("tables.0.reuse_histogram", [1.0]), {"tables[0].reuse_histogram"}),
    "NaN bin": (setter("tables.0.reuse_histogram", NAN_BINS), {"tables[0].reuse_histogram"}),
    "negative bin": (
        setter("tables.0.reuse_histogram", [-1.0] + [1.0] * 16),
        {"tables[0].reuse_histogram"},
    ),
    "empty bins": (setter("tables.0.reuse_histogram", [0.0] * 17), {"tables[0].reuse_histogram"}),
    "overflowing bins": (
        setter("tables.0.reuse_histogram", [1e308] * 17),
        {"tables[0].reuse_histogram"},
    ),
    "unknown dtype": (setter("tables.0.weight_dtype", 99), {"tables[0].weight_dtype"}),
    "ragged min width": (
        setter("tables.0.constraints.min_column_width", 6),
        {"tables[0].constraints.min_column_width"},
    ),
    "no batch": (setter("global_batch_size", 0), {"global_batch_size"}),
    "absurd batch": (setter("global_batch_size", 2**40), {"global_batch_size"}),
    "no optimizer": (setter("optimizer", 0), {"optimizer"}),
    "unknown optimizer": (setter("optimizer", 77), {"optimizer"}),
    "no beam": (setter("options.beam_width", 0), {"options.beam_width"}),
    "absurd beam": (setter("options.beam_width", 10**9), {"options.beam_width"}),
    "no grid": (setter("options.grid_steps", 0), {"options.grid_steps"}),
    "negative splits": (setter("options.max_column_splits", -1), {"options.max_column_splits"}),
    "negative budget": (setter("options.time_budget.seconds", -1), {"options.time_budget"}),
    "absurd candidates": (setter("options.candidates", 10**9), {"options.candidates"}),
    "unknown algorithm": (setter("options.algorithm", 42), {"options.algorithm"}),
    "long request id": (setter("request_id", "x" * 129), {"request_id"}),
}


@pytest.mark.parametrize("case", BAD)
def test_each_mistake_is_named_by_its_field_and_a_good_request_follows(
    server: RunningServer, case: str
) -> None:
    change, fields = BAD[case]
    found = violations(server, changed(change))
    if case == "empty request":
        assert fields <= set(found)
    elif case == "no cluster":
        assert fields <= set(found) and all(f.startswith("cluster.") for f in found)
    else:
        assert set(found) == fields
    assert server.plan(plan_request()).cost_ms > 0


def test_all_mistakes_of_a_request_come_in_one_answer(server: RunningServer) -> None:
    request = plan_request()
    request.tables[0].embedding_dim = 66
    request.tables[0].pooling_factor = math.nan
    request.tables[1].num_embeddings = 0
    request.tables[3].name = "t2"
    request.cluster.devices_per_host = 3
    request.cluster.reserved_memory_bytes = -1
    request.global_batch_size = -5
    request.optimizer = problem_pb2.OPTIMIZER_UNSPECIFIED
    request.options.candidates = 0
    assert set(violations(server, request)) == {
        "tables[0].embedding_dim",
        "tables[0].pooling_factor",
        "tables[1].num_embeddings",
        "tables",
        "cluster.devices_per_host",
        "cluster.reserved_memory_bytes",
        "global_batch_size",
        "optimizer",
        "options.candidates",
    }


def test_a_limit_of_this_server_is_told_together_with_other_mistakes(server: RunningServer) -> None:
    request = plan_request()
    request.cluster.num_devices = 4098
    request.tables[0].embedding_dim = 66
    found = violations(server, request)
    assert set(found) == {"cluster.num_devices", "tables[0].embedding_dim"}
    assert found["cluster.num_devices"] == ["this server takes at most 4096 devices, got 4098"]


def test_a_search_that_would_fill_the_memory_is_refused(server: RunningServer) -> None:
    request = plan_request(num_tables=2000)
    request.options.beam_width = 100
    request.options.candidates = 1000
    request.optimizer = 0
    found = violations(server, request)
    assert set(found) == {"options", "optimizer"}
    assert "lower beam_width or candidates" in found["options"][0]


def test_the_message_alone_says_what_is_wrong_and_what_to_change(server: RunningServer) -> None:
    error, _ = refused(lambda: server.plan(changed(setter("tables.3.embedding_dim", 66))))
    assert error.details() == (
        "1 violation: tables[3].embedding_dim: must be a multiple of 4 (fbgemm's kernels need "
        "it), got 66; pad it to 68"
    )


def test_a_thousand_violations_arrive_as_many_as_fit_and_a_count_of_the_rest(
    server: RunningServer,
) -> None:
    request = plan_request(num_tables=1000)
    for table in request.tables:
        table.embedding_dim = 66
    error, status = refused(lambda: server.plan(request))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    listed = list(detail(status, error_details_pb2.BadRequest).field_violations)
    assert len(listed) > 20
    assert [v.field for v in listed[:-1]] == [
        f"tables[{i}].embedding_dim" for i in range(len(listed) - 1)
    ]
    assert listed[-1].description == f"and {1000 - (len(listed) - 1)} more violations"
    assert error.details().startswith("1000 violations: tables[0].embedding_dim: must be")
    assert error.details().endswith("; and 997 more")


def test_long_names_that_are_not_ascii_still_leave_room_for_the_answer(
    server: RunningServer,
) -> None:
    request = plan_request(num_tables=50)
    for i, table in enumerate(request.tables):
        table.name = "\u8868\u26a1" * 250 + str(i // 2)
    error, status = refused(lambda: server.plan(request))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    listed = detail(status, error_details_pb2.BadRequest).field_violations
    assert error.details().startswith("25 violations: ")
    assert {v.field for v in listed[:-1]} == {"tables"}


def test_more_tables_than_served_are_refused_without_looking_at_each(
    server: RunningServer,
) -> None:
    request = plan_request()
    request.tables.extend([Table()] * 200_000)
    assert violations(server, request) == {
        "tables": ["this server takes at most 100000 tables, got 200004"]
    }
    assert server.plan(plan_request()).cost_ms > 0


def test_a_message_above_the_limit_is_refused_and_the_server_lives_on(
    server: RunningServer,
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server.send_bytes(f"/{SERVICE_NAME}/GetShardingPlan", b"\0" * (65 << 20))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.plan(plan_request()).cost_ms > 0


@pytest.mark.parametrize("method", ["GetShardingPlan", "EvaluateShardingPlan", "ListCostModels"])
@pytest.mark.parametrize(
    "data",
    [b"\xff" * 40, b"\x12\xff\xff\xff\xff\x7f", b"\x0a\x02\xc3\x28", b"not protobuf at all"],
    ids=["noise", "length past the end", "not UTF-8", "text"],
)
def test_undecodable_bytes_are_an_invalid_argument(
    server: RunningServer, method: str, data: bytes
) -> None:
    error, status = refused(lambda: server.send_bytes(f"/{SERVICE_NAME}/{method}", data))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith(f"the request is not a shardwright.v1.{method}Request")
    (violation,) = detail(status, error_details_pb2.BadRequest).field_violations
    assert violation.description == error.details()
    assert server.plan(plan_request()).cost_ms > 0


@pytest.mark.parametrize(
    "method",
    ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"],
)
def test_undecodable_bytes_for_other_services_are_an_invalid_argument_too(
    server: RunningServer, method: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(server.channel.unary_stream(method)(b"\xff" * 9, timeout=60))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "the request cannot be decoded"


def test_undecodable_bytes_in_a_stream_are_an_invalid_argument_too(server: RunningServer) -> None:
    method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    with pytest.raises(grpc.RpcError) as caught:
        list(server.channel.stream_stream(method)(iter([b"\xff" * 9]), timeout=60))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_unknown_hardware_is_not_found_and_the_answer_lists_what_there_is(
    server: RunningServer,
) -> None:
    error, status = refused(lambda: server.plan(plan_request(hardware="abacus")))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == (
        "no cost model for hardware 'abacus'; there are: other-gpu, test-gpu"
    )
    info = detail(status, error_details_pb2.ResourceInfo)
    assert info.resource_type == "shardwright.v1.CostModel"
    assert info.description == error.details()


def test_an_unknown_version_is_not_found_and_the_answer_lists_what_there_is(
    server: RunningServer,
) -> None:
    request = changed(setter("cost_model.version", "v9"))
    error, _ = refused(lambda: server.plan(request))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == (
        "no version 'v9' of the cost model for 'test-gpu'; there are: v1, v2"
    )


def test_mistakes_go_before_unknown_hardware(server: RunningServer) -> None:
    request = plan_request(hardware="abacus")
    request.tables[0].embedding_dim = 66
    assert set(violations(server, request)) == {"tables[0].embedding_dim"}


def test_memory_that_cannot_hold_the_tables_is_a_failed_precondition(
    server: RunningServer,
) -> None:
    request = plan_request()
    request.cluster.device_memory_bytes = 100_000
    error, status = refused(lambda: server.plan(request))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    total = sum(t.num_embeddings * t.embedding_dim * 4 for t in request.tables)
    assert f"{total - 200_000}" in error.details(), "says how many bytes are missing"
    (violation,) = detail(status, error_details_pb2.PreconditionFailure).violations
    assert violation.type == "DEVICE_MEMORY"
    assert violation.subject == "cluster.device_memory_bytes"
    assert violation.description == error.details()
    assert server.plan(plan_request()).cost_ms > 0


def evaluate_request(*shards: plan_pb2.Shard) -> service_pb2.EvaluateShardingPlanRequest:
    good = plan_request(num_tables=1)
    return service_pb2.EvaluateShardingPlanRequest(
        tables=good.tables,
        cluster=good.cluster,
        global_batch_size=good.global_batch_size,
        optimizer=good.optimizer,
        plan=plan_pb2.ShardingPlan(shards=shards),
    )


def shard(**changes: object) -> plan_pb2.Shard:
    values = {"table": "t0", "device": 0, "num_rows": 1000, "num_columns": 64} | changes
    return plan_pb2.Shard(**values)


@pytest.mark.parametrize(
    ("shards", "field"),
    [
        ([], "plan.shards"),
        ([shard(table="x" * 100_000), shard()], "plan.shards"),
        ([shard(num_columns=0)], "plan.shards[0].num_columns"),
        ([shard(num_columns=32)], "plan.shards.num_columns"),
        ([shard(num_columns=32), shard(num_columns=32)], "plan.shards.column_offset"),
        ([shard(device=2)], "plan.shards.device"),
        ([shard(row_offset=-1)], "plan.shards[0].row_offset"),
    ],
    ids=["none", "unknown table", "no columns", "gap", "overlap", "no such device", "negative"],
)
def test_a_plan_that_no_job_can_run_is_an_invalid_argument(
    server: RunningServer, shards: list[plan_pb2.Shard], field: str
) -> None:
    request = evaluate_request(*shards)
    error, status = refused(lambda: server.stub.EvaluateShardingPlan(request, timeout=60))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    listed = detail(status, error_details_pb2.BadRequest).field_violations
    assert field in [v.field for v in listed]
    good = evaluate_request(shard())
    assert server.stub.EvaluateShardingPlan(good, timeout=60).cost_ms > 0


def test_a_plan_that_overfills_a_device_is_a_failed_precondition(server: RunningServer) -> None:
    request = evaluate_request(shard())
    request.cluster.device_memory_bytes = 255_999
    error, _ = refused(lambda: server.stub.EvaluateShardingPlan(request, timeout=60))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "1 bytes are missing" in error.details()


def test_a_message_that_would_blow_up_in_memory_is_refused_undecoded(
    server: RunningServer,
) -> None:
    bomb = b"\x12\x00" * (31 << 20)
    error, _ = refused(lambda: server.send_bytes(f"/{SERVICE_NAME}/GetShardingPlan", bomb))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "more than 1200000 tables, shards and overrides" in error.details()
    assert server.plan(plan_request()).cost_ms > 0
