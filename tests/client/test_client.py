"""The client against a real gRPC server: what goes out, what comes back."""

import json
import threading
from dataclasses import replace
from typing import Any

import grpc
import pytest
from canned_server import CannedServer, answer, any_plan, description, plan_result, small_problem

from shardwright import wire
from shardwright.domain import SearchOptions, StoppedBy
from shardwright_client import (
    InfeasibleError,
    InvalidRequestError,
    ProtocolError,
    RequestCancelledError,
    ServerUnavailableError,
    ShardingPlanClient,
)
from shardwright_client.channel import MAX_MESSAGE_BYTES, channel_options


def test_a_plan_comes_back_as_the_server_made_it(
    server: CannedServer, client: ShardingPlanClient
) -> None:
    problem = small_problem()
    result = client.get_sharding_plan(problem, request_id="job 7")
    assert result == plan_result(problem, "job 7")


def test_everything_asked_for_reaches_the_server(
    server: CannedServer, client: ShardingPlanClient
) -> None:
    problem = small_problem()
    options = SearchOptions(beam_width=5, time_budget_s=2.5, seed=9)
    client.get_sharding_plan(
        problem, options=options, request_id="a", cost_model_version="2026.10.2"
    )
    asked = wire.plan_request_from_proto(server.requests[0])
    assert asked.problem == problem
    assert asked.options == options
    assert asked.cost_model_version == "2026.10.2"
    assert asked.request_id == "a"


def test_a_plan_is_evaluated(server: CannedServer, client: ShardingPlanClient) -> None:
    problem = small_problem()
    plan = any_plan(problem)
    result = client.evaluate_sharding_plan(problem, plan, request_id="b", cost_model_version="v")
    assert result.cost_ms == 9.0
    assert result.fingerprint == plan.fingerprint
    assert result.request_id == "b"
    assert wire.evaluate_request_from_proto(server.requests[0]).plan == plan
    assert server.requests[0].cost_model.version == "v"


def test_cost_models_are_listed(server: CannedServer, client: ShardingPlanClient) -> None:
    assert client.list_cost_models("test-gpu") == (description(),)
    assert server.requests[0].hardware == "test-gpu"


def test_an_unavailable_server_is_asked_again(
    server: CannedServer, client: ShardingPlanClient
) -> None:
    def unavailable_twice(request: Any, context: grpc.ServicerContext) -> Any:
        if len(server.requests) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
        return answer(request, context)

    server.handler = unavailable_twice
    assert client.list_cost_models() == (description(),)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND]
)
def test_other_failures_are_not_asked_again(
    server: CannedServer, client: ShardingPlanClient, code: grpc.StatusCode
) -> None:
    server.fail(code, "no")
    with pytest.raises(Exception, match="no"):
        client.list_cost_models()
    assert len(server.requests) == 1


def test_the_timeout_of_a_call_wins_over_the_clients(server: CannedServer) -> None:
    left: list[float] = []

    def note_time(request: Any, context: grpc.ServicerContext) -> Any:
        left.append(context.time_remaining())
        return answer(request, context)

    server.handler = note_time
    with ShardingPlanClient(server.target, timeout_s=1000) as client:
        client.list_cost_models()
        client.list_cost_models(timeout_s=50)
    # gRPC rounds long deadlines up a little
    assert 900 < left[0] < 1100
    assert 40 < left[1] < 60


def test_a_large_problem_passes_both_ways(server: CannedServer, client: ShardingPlanClient) -> None:
    small = small_problem(num_tables=20_000)
    tables = tuple(replace(table, name=f"{table.name:_<300}") for table in small.tables)
    result = client.get_sharding_plan(replace(small, tables=tables))
    # gRPC refuses messages above 4 MiB unless told otherwise
    assert server.requests[0].ByteSize() > 5 * 2**20
    assert wire.plan_result_to_proto(result).ByteSize() > 5 * 2**20
    assert len(result.plan.by_table) == 20_000


def test_a_closed_client_says_so(server: CannedServer) -> None:
    with ShardingPlanClient(server.target) as client:
        client.list_cost_models()
    with pytest.raises(RequestCancelledError, match=r"closed.*open a new one"):
        client.list_cost_models()


def test_closing_ends_a_call_that_waits(server: CannedServer) -> None:
    arrived, leave = threading.Event(), threading.Event()

    def wait(request: Any, context: grpc.ServicerContext) -> Any:
        arrived.set()
        leave.wait(30)
        return answer(request, context)

    server.handler = wait
    client = ShardingPlanClient(server.target)
    raised: list[BaseException] = []

    def call() -> None:
        try:
            client.list_cost_models()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert arrived.wait(30)
    client.close()
    thread.join(30)
    leave.set()
    assert isinstance(raised[0], RequestCancelledError)


def test_one_client_serves_many_threads(server: CannedServer, client: ShardingPlanClient) -> None:
    problem = small_problem()
    results: list[Any] = []
    threads = [
        threading.Thread(
            target=lambda i=i: results.append(
                client.get_sharding_plan(problem, request_id=str(i)).request_id
            )
        )
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [str(i) for i in range(8)]


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
def test_a_timeout_must_make_sense(server: CannedServer, timeout_s: float) -> None:
    with pytest.raises(ValueError, match="timeout_s must be a number of seconds above 0"):
        ShardingPlanClient(server.target, timeout_s=timeout_s)
    with (
        ShardingPlanClient(server.target) as client,
        pytest.raises(ValueError, match="timeout_s must be"),
    ):
        client.list_cost_models(timeout_s=timeout_s)


def test_a_target_must_be_given() -> None:
    with pytest.raises(ValueError, match="host:port"):
        ShardingPlanClient("")


def test_a_plan_that_does_not_fit_the_request_is_not_handed_on(
    server: CannedServer, client: ShardingPlanClient
) -> None:
    problem = small_problem()

    def other_plan(request: Any, context: grpc.ServicerContext) -> Any:
        result = answer(request, context)
        result.plan.shards[0].column_offset = 4
        return result

    server.handler = other_plan
    with pytest.raises(ProtocolError, match="does not fit the request.*table_0"):
        client.get_sharding_plan(problem)


def test_an_answer_of_a_newer_server_that_cannot_be_read_is_named(
    server: CannedServer, client: ShardingPlanClient
) -> None:
    def newer(request: Any, context: grpc.ServicerContext) -> Any:
        result = answer(request, context)
        result.cost_model.source = 77
        return result

    server.handler = newer
    with pytest.raises(ProtocolError, match=r"source.*77.*update the older"):
        client.get_sharding_plan(small_problem())


def test_text_that_is_not_unicode_is_the_callers_mistake(client: ShardingPlanClient) -> None:
    problem = small_problem()
    with pytest.raises(InvalidRequestError, match="cannot be sent"):
        client.get_sharding_plan(problem, request_id="\ud800")


def test_tls_is_spoken_with_credentials(server: CannedServer) -> None:
    # the server speaks plain text, so a TLS client must fail to connect instead of going plain
    credentials = grpc.ssl_channel_credentials()
    with (
        ShardingPlanClient(server.target, credentials=credentials, timeout_s=30) as client,
        pytest.raises(ServerUnavailableError, match="TLS"),
    ):
        client.list_cost_models()
    assert not server.requests


def test_channel_options_balance_retry_and_carry_large_plans() -> None:
    options = dict(channel_options())
    config = json.loads(str(options["grpc.service_config"]))
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    assert config["methodConfig"][0]["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert options["grpc.max_receive_message_length"] == MAX_MESSAGE_BYTES == 64 * 2**20
    # a server of gRPC's defaults closes connections that ping more often than every 5 minutes
    assert int(options["grpc.keepalive_time_ms"]) > 300_000


def test_improving_plans_come_as_they_are_found_and_the_answer_last(
    server: CannedServer, client: ShardingPlanClient
) -> None:
    problem = small_problem()
    server.improvements = (12.0, 10.0)
    results = list(client.stream_sharding_plan(problem, request_id="s", cost_model_version="v"))
    assert [result.cost_ms for result in results] == [12.0, 10.0, 9.0]
    assert [result.search.stopped_by for result in results] == [None, None, StoppedBy.COMPLETED]
    assert results[-1] == plan_result(problem, "s")
    assert server.requests[0].cost_model.version == "v"


def test_an_improvement_is_there_before_the_search_has_ended(
    server: CannedServer, client: ShardingPlanClient
) -> None:
    server.improvements, server.pause = (12.0,), threading.Event()
    stream = client.stream_sharding_plan(small_problem())
    assert next(stream).cost_ms == 12.0
    assert not server.ended.is_set()
    server.pause.set()
    assert next(stream).cost_ms == 9.0
    with pytest.raises(StopIteration):
        next(stream)


def test_leaving_a_stream_early_cancels_it(
    server: CannedServer, client: ShardingPlanClient
) -> None:
    cancelled = threading.Event()

    def handler(request: Any, context: grpc.ServicerContext) -> Any:
        context.add_callback(cancelled.set)
        return answer(request, context)

    server.handler = handler
    server.improvements, server.pause = (12.0,), threading.Event()
    for _ in client.stream_sharding_plan(small_problem()):
        break
    assert cancelled.wait(timeout=60), "the server was never told"
    server.pause.set()
    assert not server.ended.is_set()


def test_a_stream_that_fails_half_way_raises_what_a_call_would(
    server: CannedServer, client: ShardingPlanClient
) -> None:
    server.fail(grpc.StatusCode.FAILED_PRECONDITION, "7 bytes are missing")
    with pytest.raises(InfeasibleError, match="7 bytes are missing"):
        list(client.stream_sharding_plan(small_problem()))


def test_an_illegal_plan_in_a_stream_is_refused(
    server: CannedServer, client: ShardingPlanClient
) -> None:
    def handler(request: Any, context: grpc.ServicerContext) -> Any:
        illegal = answer(request, context)
        del illegal.plan.shards[0]
        return illegal

    server.handler = handler
    with pytest.raises(ProtocolError, match="does not fit the request"):
        next(client.stream_sharding_plan(small_problem()))


def test_a_stream_of_a_closed_client_says_so(server: CannedServer) -> None:
    closed = ShardingPlanClient(server.target)
    closed.close()
    with pytest.raises(RequestCancelledError, match="is closed"):
        closed.stream_sharding_plan(small_problem())
