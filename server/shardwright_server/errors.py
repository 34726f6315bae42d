"""Errors of the planning server, beside those of `shardwright.domain` and of the cost models.

ServerError
├── NoPlanInTimeError       the deadline passed before any plan that fits was found
├── OverloadedError         too many searches at once
├── UndecodableRequestError the bytes of a request are no message of its type
└── StartupError            the server cannot start with these settings
"""

from __future__ import annotations


class ServerError(Exception):
    """Base of all errors raised by `shardwright_server`."""


class NoPlanInTimeError(ServerError):
    """The deadline passed before any plan that fits was found; whether there is one is unknown."""


class OverloadedError(ServerError):
    """Too many searches at once.

    Attributes:
        retry_after_s: When a place should be free.
    """

    def __init__(self, running: int, queued: int, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(
            f"{running} searches are running and {queued} are waiting, which is all this server "
            f"takes; come back in {retry_after_s:.0f} s"
        )


class UndecodableRequestError(ServerError):
    """The bytes of a request are no message of its type."""


class StartupError(ServerError):
    """The server cannot start with these settings; the message says what to change."""
