"""From gRPC status to client error: the one place where foreign errors are translated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc

from shardwright.domain import Violation
from shardwright_client.errors import (
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
    ShardwrightClientError,
)

_DETAILS_KEY = "grpc-status-details-bin"
# what gRPC itself says when the deadline passes on our side, without a word from the server
_LOCAL_DEADLINE = "Deadline Exceeded"


def translate(error: grpc.RpcError, target: str, timeout_s: float) -> ShardwrightClientError:
    """Makes a client error of a failed call.

    Args:
        error: What the call raised.
        target: The address that was called, for the message.
        timeout_s: The time that the call was given, for the message.
    """
    code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    text = (error.details() if isinstance(error, grpc.Call) else str(error)) or ""
    if "larger than max" in text:
        return _oversized(text, target)
    if "deserializing response" in text:
        return ProtocolError(
            f"{target} sent an answer that is not of shardwright.v1 ({text}); check that the "
            f"address is a Shardwright server of this version"
        )
    make = _MAKERS.get(code)
    if make is None:
        return ServerInternalError(
            f"the server at {target} failed ({code.name}): {text or 'it says no more'}; "
            f"its log says more"
        )
    return make(error, text, target, timeout_s)


def _oversized(text: str, target: str) -> InvalidRequestError:
    # old versions of gRPC do not say which side refuses which message
    return InvalidRequestError(
        f"the request, or the answer to it, is too large for {target} or this client: {text}; "
        f"send fewer tables in one request (merge tables of equal shape)"
    )


def _invalid(error: grpc.RpcError, text: str, target: str, timeout_s: float) -> InvalidRequestError:
    violations = [
        Violation(v.field, v.description)
        for detail in _details(error, "BadRequest")
        for v in detail.field_violations
    ]
    return InvalidRequestError(text or "; ".join(map(str, violations)), violations)


def _infeasible(error: grpc.RpcError, text: str, target: str, timeout_s: float) -> InfeasibleError:
    return InfeasibleError(text)


def _not_found(
    error: grpc.RpcError, text: str, target: str, timeout_s: float
) -> CostModelNotFoundError:
    return CostModelNotFoundError(text)


def _busy(error: grpc.RpcError, text: str, target: str, timeout_s: float) -> ServerBusyError:
    delays = [
        detail.retry_delay.seconds + detail.retry_delay.nanos / 1e9
        for detail in _details(error, "RetryInfo")
    ]
    when = f"try again in {delays[0]:g} s" if delays else "try again later"
    return ServerBusyError(
        f"the server at {target} is busy: {text}; {when}, or ask another replica",
        retry_after_s=delays[0] if delays else None,
    )


def _timeout(
    error: grpc.RpcError, text: str, target: str, timeout_s: float
) -> ShardwrightClientError:
    reason = f": {text}" if text and text != _LOCAL_DEADLINE else ""
    return PlanningTimeoutError(
        f"no plan from {target} within {timeout_s:g} s{reason}; allow more time, or set "
        f"options.time_budget well below it to get the best plan found by then"
    )


def _unavailable(
    error: grpc.RpcError, text: str, target: str, timeout_s: float
) -> ServerUnavailableError:
    return ServerUnavailableError(
        f"no Shardwright server answers at {target} ({text}); check that one runs there and that "
        f"the address and TLS settings are right"
    )


def _denied(error: grpc.RpcError, text: str, target: str, timeout_s: float) -> AccessDeniedError:
    return AccessDeniedError(
        f"the server at {target} refuses access: {text or 'it says no more'}; pass the credentials "
        f"that it asks for"
    )


def _cancelled(
    error: grpc.RpcError, text: str, target: str, timeout_s: float
) -> RequestCancelledError:
    return RequestCancelledError(f"the call to {target} was cancelled: {text}")


def _unimplemented(error: grpc.RpcError, text: str, target: str, timeout_s: float) -> ProtocolError:
    return ProtocolError(
        f"{target} does not offer this call ({text}); check that the address is a Shardwright "
        f"server and not older than this client"
    )


_Maker = Callable[[grpc.RpcError, str, str, float], ShardwrightClientError]

_MAKERS: dict[grpc.StatusCode, _Maker] = {
    grpc.StatusCode.INVALID_ARGUMENT: _invalid,
    grpc.StatusCode.OUT_OF_RANGE: _invalid,
    grpc.StatusCode.FAILED_PRECONDITION: _infeasible,
    grpc.StatusCode.NOT_FOUND: _not_found,
    grpc.StatusCode.RESOURCE_EXHAUSTED: _busy,
    grpc.StatusCode.DEADLINE_EXCEEDED: _timeout,
    grpc.StatusCode.UNAVAILABLE: _unavailable,
    grpc.StatusCode.UNAUTHENTICATED: _denied,
    grpc.StatusCode.PERMISSION_DENIED: _denied,
    grpc.StatusCode.CANCELLED: _cancelled,
    grpc.StatusCode.UNIMPLEMENTED: _unimplemented,
}


def _details(error: grpc.RpcError, kind: str) -> Iterator[Any]:
    """The google.rpc details of one kind; none when googleapis-common-protos is not installed."""
    try:
        from google.protobuf.message import DecodeError
        from google.rpc import error_details_pb2, status_pb2
    except ImportError:
        return
    message_class = getattr(error_details_pb2, kind)
    metadata: Iterable[tuple[str, bytes]] = getattr(error, "trailing_metadata", tuple)() or ()
    for key, value in metadata:
        if key != _DETAILS_KEY:
            continue
        try:
            for packed in status_pb2.Status.FromString(value).details:
                detail = message_class()
                if packed.Unpack(detail):
                    yield detail
        except DecodeError:
            # details are an extra: a damaged one must not hide the status itself
            continue
