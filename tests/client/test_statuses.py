"""Every gRPC status becomes one error that says what to change."""

import contextlib
import socket
import sys
import threading
from concurrent import futures
from typing import Any

import grpc
import pytest
from canned_server import CannedServer, small_problem
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from shardwright.domain import Violation
from shardwright_client import (
    AccessDeniedError,
    CostModelNotFoundError,
    InfeasibleError,
    InvalidRequestError,
    PlanningTimeoutError,
    ProtocolError,
    RequestCancelledError,
    ServerBusyError,
    ServerInternalError,
    ServerUnavailableError,
    ShardingPlanClient,
    ShardwrightClientError,
)

Code = grpc.StatusCode

BAD_REQUEST = error_details_pb2.BadRequest(
    field_violations=[
        error_details_pb2.BadRequest.FieldViolation(
            field="tables[3].embedding_dim", description="must be a multiple of 4, got 6"
        ),
        error_details_pb2.BadRequest.FieldViolation(
            field="optimizer", description="must be one of OPTIMIZER_SGD, ..., got nothing"
        ),
    ]
)
RETRY_INFO = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2, nanos=500_000_000))


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        (Code.INVALID_ARGUMENT, InvalidRequestError, "because"),
        (Code.OUT_OF_RANGE, InvalidRequestError, "because"),
        (Code.FAILED_PRECONDITION, InfeasibleError, "because"),
        (Code.NOT_FOUND, CostModelNotFoundError, "because"),
        (Code.RESOURCE_EXHAUSTED, ServerBusyError, "because; try again"),
        (Code.DEADLINE_EXCEEDED, PlanningTimeoutError, "because; allow more time"),
        (Code.UNAVAILABLE, ServerUnavailableError, "check that one runs there"),
        (Code.UNAUTHENTICATED, AccessDeniedError, "credentials"),
        (Code.PERMISSION_DENIED, AccessDeniedError, "credentials"),
        (Code.CANCELLED, RequestCancelledError, "cancelled"),
        (Code.UNIMPLEMENTED, ProtocolError, "does not offer this call"),
        (Code.INTERNAL, ServerInternalError, "its log says more"),
        (Code.UNKNOWN, ServerInternalError, "its log says more"),
        (Code.DATA_LOSS, ServerInternalError, "its log says more"),
        (Code.ABORTED, ServerInternalError, "its log says more"),
        (Code.ALREADY_EXISTS, ServerInternalError, "its log says more"),
    ],
)
def test_status_becomes_error(
    server: CannedServer,
    client: ShardingPlanClient,
    code: grpc.StatusCode,
    kind: type[ShardwrightClientError],
    says: str,
) -> None:
    server.fail(code, "because")
    with pytest.raises(kind, match=says) as caught:
        client.get_sharding_plan(small_problem())
    assert type(caught.value) is kind
    assert "because" in str(caught.value)
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_every_status_of_grpc_is_covered() -> None:
    tested = {p[0] for p in test_status_becomes_error.pytestmark[0].args[1]}  # type: ignore[attr-defined]
    assert tested == set(grpc.StatusCode) - {Code.OK}


def test_violations_come_with_their_field_paths(
    server: CannedServer, client: ShardingPlanClient
) -> None:
    server.fail(Code.INVALID_ARGUMENT, "2 violations: ...", [BAD_REQUEST])
    with pytest.raises(InvalidRequestError) as caught:
        client.get_sharding_plan(small_problem())
    assert caught.value.violations == (
        Violation("tables[3].embedding_dim", "must be a multiple of 4, got 6"),
        Violation("optimizer", "must be one of OPTIMIZER_SGD, ..., got nothing"),
    )


def test_details_alone_make_a_message(server: CannedServer, client: ShardingPlanClient) -> None:
    server.fail(Code.INVALID_ARGUMENT, "", [BAD_REQUEST])
    with pytest.raises(
        InvalidRequestError, match=r"tables\[3\]\.embedding_dim: must be a multiple"
    ):
        client.get_sharding_plan(small_problem())


def test_a_busy_server_says_when_to_come_back(
    server: CannedServer, client: ShardingPlanClient
) -> None:
    server.fail(Code.RESOURCE_EXHAUSTED, "4 searches are running", [BAD_REQUEST, RETRY_INFO])
    with pytest.raises(ServerBusyError, match=r"4 searches.*try again in 2\.5 s") as caught:
        client.get_sharding_plan(small_problem())
    assert caught.value.retry_after_s == 2.5


def test_a_busy_server_may_not_say(server: CannedServer, client: ShardingPlanClient) -> None:
    server.fail(Code.RESOURCE_EXHAUSTED, "busy")
    with pytest.raises(ServerBusyError, match="try again later") as caught:
        client.get_sharding_plan(small_problem())
    assert caught.value.retry_after_s is None


def test_without_googleapis_the_message_is_enough(
    server: CannedServer, client: ShardingPlanClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.fail(Code.INVALID_ARGUMENT, "tables[3].embedding_dim: must be ...", [BAD_REQUEST])
    monkeypatch.setitem(sys.modules, "google.rpc", None)
    with pytest.raises(InvalidRequestError, match=r"tables\[3\]") as caught:
        client.get_sharding_plan(small_problem())
    assert caught.value.violations == ()


@pytest.mark.parametrize("damage", [b"\xff\xff\xff", b"", b"\x1a\x02\x0a\x01"])
def test_damaged_details_do_not_hide_the_status(
    server: CannedServer, client: ShardingPlanClient, damage: bytes
) -> None:
    def handler(request: Any, context: grpc.ServicerContext) -> Any:
        context.set_trailing_metadata([("grpc-status-details-bin", damage)])
        context.abort(Code.INVALID_ARGUMENT, "names must be unique")

    server.handler = handler
    with pytest.raises(InvalidRequestError, match="names must be unique"):
        client.get_sharding_plan(small_problem())


def test_our_own_deadline_names_the_time_given(
    server: CannedServer, client: ShardingPlanClient
) -> None:
    server.handler = lambda request, context: _wait_until_gone(context)
    with pytest.raises(PlanningTimeoutError, match=r"within 0\.2 s; allow more time"):
        client.get_sharding_plan(small_problem(), timeout_s=0.2)


def _wait_until_gone(context: grpc.ServicerContext) -> None:
    gone = threading.Event()
    context.add_callback(gone.set)
    gone.wait(30)


def test_nobody_listening(unused_port: int) -> None:
    target = f"127.0.0.1:{unused_port}"
    with (
        ShardingPlanClient(target, timeout_s=30) as client,
        pytest.raises(ServerUnavailableError, match=f"no Shardwright server answers at {target}"),
    ):
        client.list_cost_models()


def test_a_name_that_does_not_resolve() -> None:
    with (
        ShardingPlanClient("no-such-host.invalid:50051", timeout_s=30) as client,
        pytest.raises(ServerUnavailableError, match="no-such-host"),
    ):
        client.list_cost_models()


def test_bytes_that_are_no_answer(server: CannedServer) -> None:
    garbage = grpc.method_handlers_generic_handler(
        "shardwright.v1.ShardingPlanService",
        {"GetShardingPlan": grpc.unary_unary_rpc_method_handler(lambda _, __: b"\xff" * 20)},
    )
    with (
        _serving(garbage) as target,
        ShardingPlanClient(target, timeout_s=20) as client,
        pytest.raises(ProtocolError, match=r"not of shardwright\.v1"),
    ):
        client.get_sharding_plan(small_problem())


def test_an_empty_answer_is_no_plan() -> None:
    empty = grpc.method_handlers_generic_handler(
        "shardwright.v1.ShardingPlanService",
        {"GetShardingPlan": grpc.unary_unary_rpc_method_handler(lambda _, __: b"")},
    )
    with (
        _serving(empty) as target,
        ShardingPlanClient(target, timeout_s=20) as client,
        pytest.raises(ProtocolError, match="cannot read"),
    ):
        client.get_sharding_plan(small_problem())


def test_a_server_of_another_service() -> None:
    other = grpc.method_handlers_generic_handler("other.Service", {})
    with (
        _serving(other) as target,
        ShardingPlanClient(target, timeout_s=20) as client,
        pytest.raises(ProtocolError, match="not older than this client"),
    ):
        client.list_cost_models()


def test_a_request_above_the_limit_says_so() -> None:
    problem = small_problem()
    with (
        _small_server() as target,
        ShardingPlanClient(target, timeout_s=20) as client,
        pytest.raises(InvalidRequestError, match=r"too large.*fewer tables"),
    ):
        client.get_sharding_plan(problem)


def _serving(handler: grpc.GenericRpcHandler, *options: tuple[str, int]) -> Any:
    @contextlib.contextmanager
    def running() -> Any:
        server = grpc.server(futures.ThreadPoolExecutor(1), options=options)
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()

    return running()


def _small_server() -> Any:
    handler = grpc.method_handlers_generic_handler(
        "shardwright.v1.ShardingPlanService",
        {"GetShardingPlan": grpc.unary_unary_rpc_method_handler(lambda _, __: b"")},
    )
    return _serving(handler, ("grpc.max_receive_message_length", 100))


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
