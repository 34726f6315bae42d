"""The client of a Shardwright server."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, TypeVar

import grpc

from shardwright import wire
from shardwright.domain import (
    CostModelDescription,
    DomainError,
    EvaluateRequest,
    EvaluationResult,
    PlanRequest,
    PlanResult,
    SearchOptions,
    ShardingPlan,
    ShardingProblem,
    check_plan,
)
from shardwright.v1 import sharding_plan_service_pb2 as service_pb2
from shardwright.v1 import sharding_plan_service_pb2_grpc as service_grpc
from shardwright_client.channel import open_channel
from shardwright_client.errors import (
    InvalidRequestError,
    ProtocolError,
    RequestCancelledError,
)
from shardwright_client.statuses import translate

DEFAULT_TIMEOUT_S = 300.0

Q = TypeVar("Q")
A = TypeVar("A")
T = TypeVar("T")


class ShardingPlanClient:
    """Asks a Shardwright server for sharding plans and their costs.

    Safe to share between threads. Calls that find no server are retried for a few seconds.

        with ShardingPlanClient("localhost:50051") as client:
            result = client.get_sharding_plan(problem)

    Args:
        target: `host:port`, or any gRPC name; a name with several addresses is balanced over them.
        timeout_s: Seconds that a call may take, retries included, unless the call says otherwise.
        credentials: TLS credentials (`grpc.ssl_channel_credentials(...)`); None: plain text.

    Raises:
        ValueError: When target or timeout make no sense.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.target = target
        self.timeout_s = _checked_timeout(timeout_s)
        self._channel = open_channel(target, credentials)
        self._stub = service_grpc.ShardingPlanServiceStub(self._channel)

    def get_sharding_plan(
        self,
        problem: ShardingProblem,
        *,
        options: SearchOptions | None = None,
        request_id: str = "",
        cost_model_version: str = "",
        timeout_s: float | None = None,
    ) -> PlanResult:
        """Searches for the plan with the lowest predicted cost.

        Args:
            problem: What to shard.
            options: How to search; None: the defaults.
            request_id: Free text for the server's log, echoed in the result.
            cost_model_version: Bundle version; empty: the hardware profile's default.
            timeout_s: Seconds that this call may take; None: the client's.

        Raises:
            ShardwrightClientError: One of its children, see `shardwright_client.errors`.
        """
        request = PlanRequest(problem, options or SearchOptions(), cost_model_version, request_id)
        message = _encoded(wire.plan_request_to_proto, request)
        answer = self._call(self._stub.GetShardingPlan, message, timeout_s)
        result = self._decoded(wire.plan_result_from_proto, answer)
        self._check_answer(result, problem)
        return result

    def stream_sharding_plan(
        self,
        problem: ShardingProblem,
        *,
        options: SearchOptions | None = None,
        request_id: str = "",
        cost_model_version: str = "",
        timeout_s: float | None = None,
    ) -> Iterator[PlanResult]:
        """As `get_sharding_plan`, but gives each better plan as soon as it is found.

        The last result is the one that `get_sharding_plan` would return; it alone says what stopped
        the search (`search.stopped_by`). Leaving the loop early, or closing the iterator, ends the
        search on the server. To a reader who lags far behind, some improvements are not sent.

            for result in client.stream_sharding_plan(problem):
                print(result.cost_ms, result.gap)

        Args:
            problem: As in `get_sharding_plan`, and so are all the others.
            options: How to search; None: the defaults.
            request_id: Free text for the server's log, echoed in the results.
            cost_model_version: Bundle version; empty: the hardware profile's default.
            timeout_s: Seconds that the whole stream may take; None: the client's.

        Raises:
            ShardwrightClientError: One of its children, while iterating too.
        """
        request = PlanRequest(problem, options or SearchOptions(), cost_model_version, request_id)
        message = _encoded(wire.plan_request_to_proto, request)
        seconds = self._seconds(timeout_s)
        call = self._started(lambda: self._stub.StreamShardingPlan(message, timeout=seconds))
        return self._results(call, problem, seconds)

    def _results(
        self,
        call: Any,  # grpc's stubs have no public name for an iterator that can be cancelled
        problem: ShardingProblem,
        seconds: float,
    ) -> Iterator[PlanResult]:
        try:
            for answer in call:
                result = self._decoded(wire.plan_result_from_proto, answer)
                self._check_answer(result, problem)
                yield result
        except grpc.RpcError as error:
            raise translate(error, self.target, seconds) from error
        finally:
            call.cancel()

    def evaluate_sharding_plan(
        self,
        problem: ShardingProblem,
        plan: ShardingPlan,
        *,
        request_id: str = "",
        cost_model_version: str = "",
        timeout_s: float | None = None,
    ) -> EvaluationResult:
        """Predicts what a plan costs, whoever made it.

        Args:
            problem: The problem that the plan is for.
            plan: The plan.
            request_id: As in `get_sharding_plan`.
            cost_model_version: As in `get_sharding_plan`.
            timeout_s: As in `get_sharding_plan`.

        Raises:
            ShardwrightClientError: One of its children, see `shardwright_client.errors`.
        """
        request = EvaluateRequest(problem, plan, cost_model_version, request_id)
        message = _encoded(wire.evaluate_request_to_proto, request)
        answer = self._call(self._stub.EvaluateShardingPlan, message, timeout_s)
        return self._decoded(wire.evaluation_result_from_proto, answer)

    def list_cost_models(
        self, hardware: str = "", *, timeout_s: float | None = None
    ) -> tuple[CostModelDescription, ...]:
        """The cost models that can answer, by hardware, newest first.

        Args:
            hardware: Only this hardware profile; empty: all.
            timeout_s: As in `get_sharding_plan`.

        Raises:
            ShardwrightClientError: One of its children, see `shardwright_client.errors`.
        """
        message = _encoded(lambda name: service_pb2.ListCostModelsRequest(hardware=name), hardware)
        answer = self._call(self._stub.ListCostModels, message, timeout_s)
        return tuple(
            self._decoded(wire.description_from_proto, model) for model in answer.cost_models
        )

    def close(self) -> None:
        """Closes the connection; calls still under way are cancelled."""
        self._channel.close()

    def __enter__(self) -> ShardingPlanClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _call(
        self, method: grpc.UnaryUnaryMultiCallable[Q, A], message: Q, timeout_s: float | None
    ) -> A:
        seconds = self._seconds(timeout_s)
        try:
            return self._started(lambda: method(message, timeout=seconds))
        except grpc.RpcError as error:
            raise translate(error, self.target, seconds) from error

    def _seconds(self, timeout_s: float | None) -> float:
        return self.timeout_s if timeout_s is None else _checked_timeout(timeout_s)

    def _started(self, start: Callable[[], A]) -> A:
        try:
            return start()
        except ValueError as error:
            # what grpc raises on a closed channel
            raise RequestCancelledError(
                f"the client of {self.target} is closed; open a new one"
            ) from error

    def _check_answer(self, result: PlanResult, problem: ShardingProblem) -> None:
        """Holds a plan against the problem: an illegal one would train wrongly without a word."""
        try:
            check_plan(result.plan, problem)
        except DomainError as error:
            raise ProtocolError(
                f"{self.target} sent a plan that does not fit the request: {error}; "
                f"report this as an error of the server"
            ) from error

    def _decoded(self, decode: Callable[[A], T], message: A) -> T:
        try:
            return decode(message)
        except (ValueError, OverflowError) as error:
            raise ProtocolError(
                f"{self.target} sent an answer that this client cannot read: {error}; "
                f"update the older of the two"
            ) from error


def _encoded(encode: Callable[[T], A], value: T) -> A:
    try:
        return encode(value)
    except (ValueError, TypeError) as error:
        raise InvalidRequestError(
            f"the request cannot be sent: {error}; texts must be Unicode and numbers must fit the "
            f"fields of shardwright.v1"
        ) from error


def _checked_timeout(timeout_s: float) -> float:
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise ValueError(f"timeout_s must be a number of seconds above 0, got {timeout_s!r}")
    return timeout_s
