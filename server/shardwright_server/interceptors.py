"""What happens around every RPC, also of health and reflection, also of methods unknown here."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError

from shardwright_server.errors import UndecodableRequestError
from shardwright_server.metrics import UNKNOWN_RPC, Metrics, Rpc
from shardwright_server.statuses import is_expected, status_of

_LOG = structlog.get_logger(__name__)

QUIET_SERVICES = ("grpc.health.v1.Health",)
"""Probes come every few seconds: their successes are logged at debug level."""

Handler = Any  # grpc.RpcMethodHandler, which has no public constructor that knows its kind
Context = grpc.aio.ServicerContext[Any, Any]
Proceed = Callable[[], Awaitable[Any]]
Around = Callable[[Context, Proceed], Awaitable[Any]]
Behavior = Callable[[Any, Context], Any]
Decode = Callable[[bytes], Any]
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]


class ObservingInterceptor(grpc.aio.ServerInterceptor):
    """Counts, times and logs every RPC; goes first, so that it sees what the others make of it."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        """Wraps the handler of an RPC; a method this server does not have gets one."""
        path = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None:
            handler, rpc = grpc.stream_stream_rpc_method_handler(_unimplemented), UNKNOWN_RPC
        else:
            rpc = Rpc.of(path, handler.request_streaming, handler.response_streaming)

        async def observe(context: Context, proceed: Proceed) -> Any:
            structlog.contextvars.clear_contextvars()
            self._metrics.rpc_started(rpc)
            started_s = time.monotonic()
            code = grpc.StatusCode.UNKNOWN
            try:
                response = await proceed()
                code = context.code() or grpc.StatusCode.OK
                return response
            except grpc.aio.AbortError:
                code = context.code()
                raise
            except asyncio.CancelledError:
                late = context.time_remaining() == 0
                code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
                raise
            finally:
                seconds = time.monotonic() - started_s
                self._metrics.rpc_handled(rpc, code, seconds)
                _log_rpc(path, rpc, code, seconds)

        return _around(handler, observe)


def _log_rpc(path: str, rpc: Rpc, code: grpc.StatusCode, seconds: float) -> None:
    quiet = rpc.service in QUIET_SERVICES and code is grpc.StatusCode.OK
    log = _LOG.debug if quiet else _LOG.info
    log("rpc", method=path[:200], code=code.name, seconds=round(seconds, 6))


async def _unimplemented(_requests: Any, context: Context) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this server has no such method")


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Turns errors, also those of decoding a request, into statuses; no other text leaves."""

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        """Wraps the handler of an RPC."""
        handler = await continuation(handler_call_details)
        return None if handler is None else _around(handler, _translate)


async def _translate(context: Context, proceed: Proceed) -> Any:
    try:
        return await proceed()
    except grpc.aio.AbortError:
        raise
    except Exception as error:
        if not is_expected(error):
            _LOG.exception("internal error")
        status = status_of(error)
        await context.abort(status.code, status.details, status.trailing_metadata)


def _around(handler: Handler, around: Around) -> Handler:
    """A handler that runs `around(context, proceed)`, where `proceed()` is the original one.

    A single request is decoded inside `proceed`, so that `around` sees it fail; requests of a
    stream are decoded as they come, which happens inside `proceed` anyway.
    """
    streaming = handler.request_streaming, handler.response_streaming
    wrap = _around_stream if handler.response_streaming else _around_single
    decode = _decoder(handler.request_deserializer)
    behavior = wrap(_behavior(handler), around, None if handler.request_streaming else decode)
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[streaming]
    return make(
        behavior, decode if handler.request_streaming else None, handler.response_serializer
    )


def _behavior(handler: Handler) -> Behavior:
    behaviors = (
        handler.unary_unary,
        handler.unary_stream,
        handler.stream_unary,
        handler.stream_stream,
    )
    found: Behavior = next(behavior for behavior in behaviors if behavior is not None)
    return found


def _around_single(behavior: Behavior, around: Around, decode: Decode | None) -> Behavior:
    async def single(request: Any, context: Context) -> Any:
        async def proceed() -> Any:
            return await behavior(decode(request) if decode else request, context)

        return await around(context, proceed)

    return single


def _around_stream(behavior: Behavior, around: Around, decode: Decode | None) -> Behavior:
    async def stream(request: Any, context: Context) -> None:
        async def proceed() -> None:
            responses = behavior(decode(request) if decode else request, context)
            if not inspect.isasyncgen(responses):
                await responses
                return
            async for response in responses:
                await context.write(response)

        await around(context, proceed)

    return stream


def _decoder(deserialize: Decode | None) -> Decode:
    """Decodes with `deserialize`, or not at all, and raises the error that the table knows."""

    def decode(data: bytes) -> Any:
        if deserialize is None:
            return data
        try:
            return deserialize(data)
        except DecodeError as error:
            raise UndecodableRequestError("the request cannot be decoded") from error

    return decode
