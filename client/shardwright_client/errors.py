"""Errors of the client.

ShardwrightClientError
├── InvalidRequestError        the request breaks a rule of the contract; carries every violation
├── InfeasibleError            no plan fits into the devices' memory
├── CostModelNotFoundError     no cost model for the hardware profile or version
├── ServerError                the request may be fine, the answer did not come
│   ├── ServerUnavailableError     nobody answers at the address
│   ├── ServerBusyError            too many searches at once; says when to come back
│   ├── PlanningTimeoutError       the time ran out before there was a plan
│   ├── AccessDeniedError          the server wants other credentials
│   ├── RequestCancelledError      the call was cancelled, or the client is closed
│   ├── ServerInternalError        the server failed
│   └── ProtocolError              the peer does not speak shardwright.v1
├── PlanMismatchError          a plan does not fit the module or the job it is for
├── FileError                  a request or plan file cannot be read (command line)
└── MissingDependencyError     an optional package is not installed

Values that break a rule before any call (a `domain.ShardingProblem` with a negative size) raise
`shardwright.domain.InvalidValueError`.
"""

from __future__ import annotations

from collections.abc import Iterable

from shardwright.domain import Violation

__all__ = [
    "AccessDeniedError",
    "CostModelNotFoundError",
    "FileError",
    "InfeasibleError",
    "InvalidRequestError",
    "MissingDependencyError",
    "PlanMismatchError",
    "PlanningTimeoutError",
    "ProtocolError",
    "RequestCancelledError",
    "ServerBusyError",
    "ServerError",
    "ServerInternalError",
    "ServerUnavailableError",
    "ShardwrightClientError",
]


class ShardwrightClientError(Exception):
    """Base of all errors raised by `shardwright_client`."""


class InvalidRequestError(ShardwrightClientError):
    """The request breaks a rule of the contract.

    Attributes:
        violations: Every violation by field path; empty when the server's details cannot be
            decoded (package googleapis-common-protos missing); the message names them all then.
    """

    def __init__(self, message: str, violations: Iterable[Violation] = ()) -> None:
        self.violations = tuple(violations)
        super().__init__(message)


class InfeasibleError(ShardwrightClientError):
    """No plan fits into the devices' memory; the message says how many bytes are missing."""


class CostModelNotFoundError(ShardwrightClientError):
    """No cost model for the hardware profile or version; the message lists those there are."""


class ServerError(ShardwrightClientError):
    """The request may be fine, but the answer did not come."""


class ServerUnavailableError(ServerError):
    """Nobody answers at the address, after retries."""


class ServerBusyError(ServerError):
    """The server runs as many searches as it can.

    Attributes:
        retry_after_s: Seconds after which to try again; None when the server did not say.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class PlanningTimeoutError(ServerError):
    """The time ran out before there was a plan that fits."""


class AccessDeniedError(ServerError):
    """The server wants other credentials."""


class RequestCancelledError(ServerError):
    """The call was cancelled, or the client is closed."""


class ServerInternalError(ServerError):
    """The server failed; its log says more."""


class ProtocolError(ServerError):
    """The peer does not speak shardwright.v1, or a version of it that this client cannot read."""


class PlanMismatchError(ShardwrightClientError):
    """A plan does not fit the module or the job it is for.

    Attributes:
        problems: Everything that does not fit, one sentence each.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


class FileError(ShardwrightClientError):
    """A file cannot be read or does not hold what it should; the message names file and place."""


class MissingDependencyError(ShardwrightClientError, ImportError):
    """An optional package is not installed; the message says how to install it."""
