"""The table from errors to statuses, and the budget of what travels as metadata."""

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from shardwright.domain import (
    IllegalPlanError,
    InsufficientMemoryError,
    InvalidValueError,
    Violation,
)
from shardwright_costmodel.errors import BundleError, BundleNotFoundError
from shardwright_server.errors import NoPlanInTimeError, OverloadedError, UndecodableRequestError
from shardwright_server.statuses import INTERNAL_MESSAGE, is_expected, status_of

METADATA_LIMIT = 8192
"""gRPC's default limit on all metadata of an answer."""


def details_of(status: grpc.Status) -> status_pb2.Status:
    ((key, value),) = status.trailing_metadata
    assert key == "grpc-status-details-bin"
    return status_pb2.Status.FromString(value)


def bytes_on_the_wire(status: grpc.Status) -> int:
    """Base64 of the details, the message percent-encoded, 32 bytes for each of 4 headers."""
    ((key, value),) = status.trailing_metadata
    message = "".join(
        chr(b) if 0x20 <= b < 0x7F and b != 0x25 else f"%{b:02X}" for b in status.details.encode()
    )
    return len(key) + -(-len(value) // 3) * 4 + len("grpc-message") + len(message) + 4 * 32


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidValueError([Violation("a", "b")]), grpc.StatusCode.INVALID_ARGUMENT),
        (IllegalPlanError([Violation("a", "b")]), grpc.StatusCode.INVALID_ARGUMENT),
        (UndecodableRequestError("x"), grpc.StatusCode.INVALID_ARGUMENT),
        (InsufficientMemoryError("x"), grpc.StatusCode.FAILED_PRECONDITION),
        (BundleNotFoundError("x"), grpc.StatusCode.NOT_FOUND),
        (OverloadedError(1, 2, 3.0), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (NoPlanInTimeError("x"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (BundleError("/secret/path"), grpc.StatusCode.INTERNAL),
        (ValueError("secret"), grpc.StatusCode.INTERNAL),
        (MemoryError("secret"), grpc.StatusCode.INTERNAL),
    ],
)
def test_each_error_has_one_status_that_agrees_with_its_details(
    error: Exception, code: grpc.StatusCode
) -> None:
    status = status_of(error)
    assert status.code is code
    details = details_of(status)
    assert (details.code, details.message) == (code.value[0], status.details)
    assert is_expected(error) == (code is not grpc.StatusCode.INTERNAL)


def test_the_text_of_an_unexpected_error_never_leaves() -> None:
    status = status_of(ValueError("secret"))
    assert status.details == INTERNAL_MESSAGE
    assert b"secret" not in status.trailing_metadata[0][1]


def test_an_overloaded_server_says_when_to_come_back() -> None:
    details = details_of(status_of(OverloadedError(2, 8, 2.5)))
    retry = error_details_pb2.RetryInfo()
    assert details.details[0].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 2500


@pytest.mark.parametrize("text", ["x", "\u8868", "%", "\n", "\U0001f600"])
@pytest.mark.parametrize("length", [0, 1, 1000, 10_000])
@pytest.mark.parametrize("count", [1, 2, 40, 500])
def test_whatever_the_violations_the_answer_fits(text: str, length: int, count: int) -> None:
    status = status_of(InvalidValueError([Violation("f", text * length)] * count))
    assert bytes_on_the_wire(status) < METADATA_LIMIT
    bad = error_details_pb2.BadRequest()
    assert details_of(status).details[0].Unpack(bad)
    listed = bad.field_violations
    if len(listed) < count:
        assert listed[-1].description == f"and {count - len(listed) + 1} more violations"
    else:
        assert len(listed) == count


@pytest.mark.parametrize(
    "kind", [InsufficientMemoryError, BundleNotFoundError, UndecodableRequestError]
)
def test_whatever_the_text_the_answer_fits(kind: type[Exception]) -> None:
    assert bytes_on_the_wire(status_of(kind("\u8868" * 100_000))) < METADATA_LIMIT


def test_a_shortened_text_says_so() -> None:
    assert status_of(BundleNotFoundError("x" * 5000)).details.endswith("xxx...")
    assert status_of(BundleNotFoundError("x" * 500)).details == "x" * 500
