"""Errors of the domain types.

DomainError (ValueError)
├── InvalidValueError    a value breaks an invariant; carries every violation at once
│   └── IllegalPlanError a plan that a TorchRec job would crash on or train wrongly with
└── InsufficientMemoryError  tables or shards do not fit into device memory
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Violation:
    """One broken rule.

    Attributes:
        field: Path of the field, such as `tables[3].embedding_dim`.
        description: What is wrong, with the value, and what to change.
    """

    field: str
    description: str

    def under(self, prefix: str) -> Violation:
        """The same violation seen from an enclosing message, `prefix.field`."""
        return replace(self, field=f"{prefix}.{self.field}" if self.field else prefix)

    def __str__(self) -> str:
        return f"{self.field}: {self.description}" if self.field else self.description


class DomainError(ValueError):
    """Base of all errors raised by `shardwright.domain`."""


class InvalidValueError(DomainError):
    """One or more values break an invariant.

    Attributes:
        violations: Every violation found, in field order; never empty.
    """

    def __init__(self, violations: Iterable[Violation]) -> None:
        self.violations = tuple(violations)
        assert self.violations, "an InvalidValueError needs a violation"
        super().__init__("; ".join(map(str, self.violations)))


class IllegalPlanError(InvalidValueError):
    """A plan that does not cover its tables exactly, or that TorchRec cannot run."""


class InsufficientMemoryError(DomainError):
    """Tables or shards do not fit into device memory.

    Attributes:
        missing_bytes: Bytes that do not fit, at least; 0 when only the placement failed.
    """

    def __init__(self, message: str, *, missing_bytes: int = 0) -> None:
        self.missing_bytes = missing_bytes
        super().__init__(message)


class Checks:
    """Collects violations, so that one answer can name them all."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def require(self, condition: bool, field: str, description: str) -> bool:
        """Records a violation of `field` unless `condition` holds; returns `condition`."""
        if not condition:
            self.violations.append(Violation(field, description))
        return condition

    def require_int(self, value: object, field: str, low: int, high: int, hint: str = "") -> bool:
        """Requires an int (not a bool) in `[low, high]`."""
        if type(value) is int and low <= value <= high:
            return True  # no message is made for the many that are right
        is_int = isinstance(value, int) and not isinstance(value, bool)
        return self.require(
            is_int and low <= value <= high,  # type: ignore[operator]
            field,
            f"must be a whole number from {low} to {high}, got {value!r:.80}{hint}",
        )

    def require_positive(self, value: object, field: str, high: float, hint: str = "") -> bool:
        """Requires a finite number in `(0, high]`."""
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= high:
            return True
        return self.require(
            False, field, f"must be a number above 0 and at most {high:g}, got {value!r:.80}{hint}"
        )

    def extend(self, violations: Iterable[Violation], prefix: str) -> None:
        """Takes over the violations of a nested value."""
        self.violations.extend(violation.under(prefix) for violation in violations)

    def raise_if_any(self, error: type[InvalidValueError] = InvalidValueError) -> None:
        """Raises `error` with all violations, if there are any."""
        if self.violations:
            raise error(self.violations)
