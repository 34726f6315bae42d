"""A store that may be away for a while: what passes is tried again, what does not is told."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TypeVar

import tenacity

from shardwright_benchmark_worker.errors import StoreError
from shardwright_benchmark_worker.progress import logger

T = TypeVar("T")

_LASTING = (
    FileNotFoundError,
    PermissionError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_CONNECTION_ERRORS = frozenset(
    {"EndpointConnectionError", "HTTPClientError", "ClientConnectionError", "ServiceRequestError"}
)
"""Of botocore, aiohttp and azure: libraries that need not be installed, and no OSErrors."""


def persistently(work: Callable[[], T], retry_s: float) -> T:
    """Calls `work`, and again while the store cannot be reached, for `retry_s` seconds.

    The pauses grow from 1 s to 30 s, on top of what the store's own client tries.

    Raises:
        StoreError: When the store is still away then, or is full.
    """
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_passing),
        stop=tenacity.stop_after_delay(retry_s),
        wait=tenacity.wait_exponential_jitter(initial=1, max=30),
        before_sleep=_tell,
        reraise=True,
    )
    try:
        return attempts(work)
    except Exception as error:
        if is_passing(error):
            raise StoreError(
                f"the store could not be reached for {retry_s:g} s (--store-retry-s): {error!r}; "
                "what is written stays, start again when it is back"
            ) from error
        if isinstance(error, OSError) and error.errno in _FULL:
            raise StoreError(
                f"the store is full: {error}; the part in work is lost, make room and start again"
            ) from error
        raise


def is_passing(error: BaseException) -> bool:
    """Whether trying again may help: connections, time limits, overload, not names and rights."""
    if isinstance(error, OSError):
        return not isinstance(error, _LASTING) and error.errno not in _FULL
    return bool({kind.__name__ for kind in type(error).__mro__} & _CONNECTION_ERRORS)


def _tell(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    pause_s = state.next_action.sleep if state.next_action else 0.0
    logger.warning(
        "the store cannot be reached, trying again",
        extra={"error": repr(error), "attempt": state.attempt_number, "pause_s": round(pause_s, 1)},
    )
