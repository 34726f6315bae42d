"""What all messages share: enums, durations, and violations gathered while decoding."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Generic, TypeVar

from google.protobuf.duration_pb2 import Duration

from shardwright.domain import (
    Algorithm,
    Checks,
    CostModelSource,
    InvalidValueError,
    Optimizer,
    PoolingMode,
    ShardingType,
    StoppedBy,
    Violation,
    WeightDtype,
)
from shardwright.v1 import plan_pb2, problem_pb2

T = TypeVar("T")
E = TypeVar("E", bound=Enum)


class EnumCodec(Generic[E]):
    """Maps a domain enum to a protobuf enum whose values are `<PREFIX>_<member name>`."""

    def __init__(self, domain: type[E], wrapper: Any, prefix: str) -> None:
        self._to_number: dict[E, int] = {m: wrapper.Value(f"{prefix}_{m.name}") for m in domain}
        self._from_number = {number: member for member, number in self._to_number.items()}
        self._names = ", ".join(f"{prefix}_{m.name}" for m in domain)

    def encode(self, member: E) -> int:
        """The number of a member."""
        return self._to_number[member]

    def decode(self, number: int, field: str, unspecified: E | None = None) -> E:
        """The member of a number; `unspecified` is what 0 means, None makes 0 a violation."""
        if number == 0 and unspecified is not None:
            return unspecified
        try:
            return self._from_number[number]
        except KeyError:
            got = "nothing" if number == 0 else str(number)
            raise InvalidValueError(
                [Violation(field, f"must be one of {self._names}, got {got}")]
            ) from None


DTYPES = EnumCodec(WeightDtype, problem_pb2.WeightDtype, "WEIGHT_DTYPE")
POOLING_MODES = EnumCodec(PoolingMode, problem_pb2.PoolingMode, "POOLING_MODE")
OPTIMIZERS = EnumCodec(Optimizer, problem_pb2.Optimizer, "OPTIMIZER")
ALGORITHMS = EnumCodec(Algorithm, problem_pb2.Algorithm, "ALGORITHM")
SHARDING_TYPES = EnumCodec(ShardingType, problem_pb2.ShardingType, "SHARDING_TYPE")
SOURCES = EnumCodec(CostModelSource, plan_pb2.CostModelSource, "COST_MODEL_SOURCE")
STOPPED_BY = EnumCodec(StoppedBy, plan_pb2.StoppedBy, "STOPPED_BY")


class Reader:
    """Builds domain values and gathers the violations of those that fail."""

    def __init__(self) -> None:
        self.checks = Checks()

    def build(self, prefix: str, make: Callable[[], T]) -> T | None:
        """What `make` makes; None when it fails, its violations then stand under `prefix`."""
        try:
            return make()
        except InvalidValueError as error:
            if prefix:
                self.checks.extend(error.violations, prefix)
            else:
                self.checks.violations.extend(error.violations)
            return None


def duration_of(seconds: float) -> Duration:
    """A duration, to the nanosecond."""
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def seconds_of(duration: Duration) -> float:
    """Seconds of a duration."""
    return duration.seconds + duration.nanos / 1e9
