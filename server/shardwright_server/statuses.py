"""From errors to gRPC statuses; the one table of them.

A status travels in the trailing metadata of HTTP/2. gRPC takes 8 KiB of metadata by default, so
messages and details are cut to a budget: as much as fits, and how much was left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from urllib.parse import quote

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from shardwright.domain import InsufficientMemoryError, InvalidValueError, Violation
from shardwright_costmodel.errors import BundleNotFoundError
from shardwright_server.errors import NoPlanInTimeError, OverloadedError, UndecodableRequestError

MAX_MESSAGE_BYTES = 1200
"""Of a status message, as it travels: percent-encoded, and once more inside the details."""

MAX_DETAILS_BYTES = 3200
"""Of serialised details; base64 on the wire makes a third more of them."""

MAX_DESCRIPTION_BYTES = 400
"""Of one violation."""

INTERNAL_MESSAGE = "internal error; the server's log has the cause"
"""All that a caller learns of an error that is not in the table."""

_SHOWN_IN_MESSAGE = 3


def status_of(error: BaseException) -> grpc.Status:
    """The gRPC status of an error, code, message and trailing metadata, for `abort`.

    An error without an entry in the table is INTERNAL with a fixed text: its own text may hold
    what no caller should see.
    """
    for kind in type(error).__mro__:
        if kind in _TABLE:
            code, make_details = _TABLE[kind]
            message, details = make_details(error)
            return _status(code, message, details)
    return _status(code_pb2.INTERNAL, INTERNAL_MESSAGE, ())


def is_expected(error: BaseException) -> bool:
    """Whether the table has an entry, so that a caller can do something about the error."""
    return any(kind in _TABLE for kind in type(error).__mro__)


Details = tuple[str, tuple[Message, ...]]
"""A status message and what goes with it."""


def _invalid(error: InvalidValueError) -> Details:
    violations = error.violations
    first = "; ".join(_cut(str(v), MAX_DESCRIPTION_BYTES) for v in violations[:_SHOWN_IN_MESSAGE])
    rest = len(violations) - _SHOWN_IN_MESSAGE
    noun = "violation" if len(violations) == 1 else "violations"
    tail = f"; and {rest} more" if rest > 0 else ""
    room = MAX_MESSAGE_BYTES - 80
    message = f"{len(violations)} {noun}: {_cut(first, room)}{tail}"
    return message, (_bad_request(violations),)


def _bad_request(violations: tuple[Violation, ...]) -> error_details_pb2.BadRequest:
    """As many violations as fit; the last entry then counts the others."""
    details = error_details_pb2.BadRequest()
    for i, violation in enumerate(violations):
        details.field_violations.add(
            field=_cut(violation.field, MAX_DESCRIPTION_BYTES),
            description=_cut(violation.description, MAX_DESCRIPTION_BYTES),
        )
        if details.ByteSize() > MAX_DETAILS_BYTES - 100:
            del details.field_violations[-1]
            details.field_violations.add(description=f"and {len(violations) - i} more violations")
            break
    return details


def _undecodable(error: UndecodableRequestError) -> Details:
    return str(error), (_bad_request((Violation("", str(error)),)),)


def _insufficient_memory(error: InsufficientMemoryError) -> Details:
    details = error_details_pb2.PreconditionFailure()
    details.violations.add(
        type="DEVICE_MEMORY",
        subject="cluster.device_memory_bytes",
        description=_cut(str(error), MAX_MESSAGE_BYTES),
    )
    return str(error), (details,)


def _not_found(error: BundleNotFoundError) -> Details:
    details = error_details_pb2.ResourceInfo(
        resource_type="shardwright.v1.CostModel",
        description=_cut(str(error), MAX_MESSAGE_BYTES),
    )
    return str(error), (details,)


def _overloaded(error: OverloadedError) -> Details:
    details = error_details_pb2.RetryInfo()
    details.retry_delay.FromNanoseconds(round(error.retry_after_s * 1e9))
    return str(error), (details,)


def _no_plan_in_time(error: NoPlanInTimeError) -> Details:
    return str(error), ()


_TABLE: dict[type[BaseException], tuple[int, Callable[..., Details]]] = {
    InvalidValueError: (code_pb2.INVALID_ARGUMENT, _invalid),  # IllegalPlanError too
    UndecodableRequestError: (code_pb2.INVALID_ARGUMENT, _undecodable),
    InsufficientMemoryError: (code_pb2.FAILED_PRECONDITION, _insufficient_memory),
    BundleNotFoundError: (code_pb2.NOT_FOUND, _not_found),
    OverloadedError: (code_pb2.RESOURCE_EXHAUSTED, _overloaded),
    NoPlanInTimeError: (code_pb2.DEADLINE_EXCEEDED, _no_plan_in_time),
}


def _status(code: int, message: str, details: Iterable[Message]) -> grpc.Status:
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    status = status_pb2.Status(code=code, message=_cut(message, MAX_MESSAGE_BYTES), details=packed)
    return rpc_status.to_status(status)


def _cut(text: str, max_bytes: int) -> str:
    """Shortens a text to what takes at most `max_bytes` in a `grpc-message` header.

    There, everything that is not printable ASCII takes three characters a byte.
    """
    if len(text) <= max_bytes and len(_percent_encoded(text)) <= max_bytes:
        return text
    low, high = 0, min(len(text), max_bytes)
    while low < high:
        middle = (low + high + 1) // 2
        fits = len(_percent_encoded(text[:middle])) <= max_bytes - len("...")
        low, high = (middle, high) if fits else (low, middle - 1)
    return text[:low] + "..."


def _percent_encoded(text: str) -> str:
    return quote(text, safe=_PRINTABLE)


_PRINTABLE = "".join(chr(c) for c in range(0x20, 0x7F) if chr(c) != "%")
