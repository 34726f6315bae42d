"""Reading requests: what the contract demands, and what only this server knows, its limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from shardwright import wire
from shardwright.domain import Checks, EvaluateRequest, InvalidValueError, PlanRequest
from shardwright.v1 import sharding_plan_service_pb2 as service_pb2

T = TypeVar("T")

MAX_SHARDS = 1_000_000
"""Of a plan to be evaluated."""

MAX_FEATURE_NAMES = 1_000_000
"""Of all tables of a request together."""

MAX_BEAM_PIECES = 50_000_000
"""Of all states of one level of the beam search, 8 bytes each. The default search of 100,000 tables
has 6 million."""

ProblemMessage = service_pb2.GetShardingPlanRequest | service_pb2.EvaluateShardingPlanRequest


@dataclass(frozen=True)
class Limits:
    """The largest request this server answers.

    Attributes:
        max_tables: Tables of a request.
        max_devices: Devices of a request.
    """

    max_tables: int
    max_devices: int


def read_plan_request(message: service_pb2.GetShardingPlanRequest, limits: Limits) -> PlanRequest:
    """Reads a plan request.

    Raises:
        InvalidValueError: With every violation in the whole request; of one with too many
            parts, with that alone: the parts are not looked at.
    """
    _check_counts(message, limits).raise_if_any()
    checks = _check_cluster(message, limits)
    _check_beam(checks, message)
    return _read(wire.plan_request_from_proto, message, checks)


def read_evaluate_request(
    message: service_pb2.EvaluateShardingPlanRequest, limits: Limits
) -> EvaluateRequest:
    """Reads an evaluation request; raises as `read_plan_request` does."""
    checks = _check_counts(message, limits)
    _require_at_most(checks, "plan.shards", "shards", len(message.plan.shards), MAX_SHARDS)
    checks.raise_if_any()
    checks = _check_cluster(message, limits)
    return _read(wire.evaluate_request_from_proto, message, checks)


def _read(from_proto: Callable[..., T], message: ProblemMessage, checks: Checks) -> T:
    """Reads a request; the contract's violations and those in `checks` come together."""
    try:
        request: T = from_proto(message)
    except InvalidValueError as error:
        raise InvalidValueError([*error.violations, *checks.violations]) from None
    checks.raise_if_any()
    return request


def _check_counts(message: ProblemMessage, limits: Limits) -> Checks:
    checks = Checks()
    _require_at_most(checks, "tables", "tables", len(message.tables), limits.max_tables)
    if not checks.violations:
        features = sum(len(table.feature_names) for table in message.tables)
        _require_at_most(
            checks, "tables.feature_names", "feature names", features, MAX_FEATURE_NAMES
        )
    overrides = len(message.cluster.device_memory_overrides)
    _require_at_most(
        checks, "cluster.device_memory_overrides", "overrides", overrides, limits.max_devices
    )
    return checks


def _check_cluster(message: ProblemMessage, limits: Limits) -> Checks:
    checks = Checks()
    devices = message.cluster.num_devices
    _require_at_most(checks, "cluster.num_devices", "devices", devices, limits.max_devices)
    return checks


def _check_beam(checks: Checks, message: service_pb2.GetShardingPlanRequest) -> None:
    """Bounds the memory of one level of the beam search: so many children, of so many pieces."""
    try:
        options = wire.options_from_proto(message.options)
    except InvalidValueError:
        return  # told with all that the contract demands
    pieces = len(message.tables) + options.max_column_splits
    children = options.beam_width * min(2 * options.candidates, pieces)
    checks.require(
        children * pieces <= MAX_BEAM_PIECES,
        "options",
        f"a level of this search has {children} states of up to {pieces} pieces; this server takes "
        f"at most {MAX_BEAM_PIECES} pieces in all: lower beam_width or candidates",
    )


def _require_at_most(checks: Checks, field: str, noun: str, found: int, most: int) -> None:
    checks.require(found <= most, field, f"this server takes at most {most} {noun}, got {found}")
