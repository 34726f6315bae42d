"""Admission: how many searches run at once, how many may wait, and who is turned away."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from shardwright_server.errors import OverloadedError

T = TypeVar("T")

MIN_RETRY_S = 1.0
MAX_RETRY_S = 60.0
_SMOOTHING = 0.2
"""Weight of the newest search in the running mean of search times."""


@dataclass(frozen=True)
class Turn:
    """What a search is told when its turn has come.

    Attributes:
        stop_at_s: The `time.monotonic()` moment to stop at.
        cancelled: Whether nobody waits for the search any more.
    """

    stop_at_s: float
    cancelled: Callable[[], bool]


class Admission:
    """Runs searches on planner threads, off the event loop, behind a bounded queue.

    Searches wait in the order of their arrival. A search cannot be interrupted, only asked to end:
    its thread stays taken until it returns, even when nobody waits for it any more.

    Args:
        threads: Searches that run at once.
        max_queued: Searches that may wait beyond those.
        max_search_s: Seconds after which a search is to stop, whatever its own deadline.
    """

    def __init__(self, threads: int, max_queued: int, max_search_s: float) -> None:
        self._threads = threads
        self._max_queued = max_queued
        self._max_search_s = max_search_s
        self._free = asyncio.Semaphore(threads)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="planner")
        self._mean_search_s = MIN_RETRY_S
        self.running = 0
        self.queued = 0

    async def run(self, search: Callable[[Turn], T], deadline_s: float | None) -> T:
        """Runs a search when its turn comes.

        Args:
            search: Called on a planner thread.
            deadline_s: Moment the caller needs the answer by; None when it can wait.

        Raises:
            OverloadedError: When the queue is full; nothing was started.
            asyncio.CancelledError: When the caller gave up; a place in the queue is free again,
                and a search that runs is told.
        """
        await self._enter()
        started_s = time.monotonic()
        stop_at_s = started_s + self._max_search_s
        if deadline_s is not None:
            stop_at_s = min(stop_at_s, deadline_s)
        loop = asyncio.get_running_loop()
        abandoned = threading.Event()
        future = self._executor.submit(search, Turn(stop_at_s, abandoned.is_set))
        # not when the caller stops waiting, but when the thread is free again
        future.add_done_callback(lambda done: _in_loop(loop, lambda: self._leave(done, started_s)))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            abandoned.set()
            raise

    async def _enter(self) -> None:
        if self._free.locked() and self.queued >= self._max_queued:
            wait_s = retry_after_s(self.queued, self._threads, self._mean_search_s)
            raise OverloadedError(self.running, self.queued, wait_s)
        self.queued += 1
        try:
            await self._free.acquire()
        finally:
            self.queued -= 1
        self.running += 1

    def _leave(self, done: Future[T], started_s: float) -> None:
        self.running -= 1
        if not done.cancelled():
            elapsed_s = time.monotonic() - started_s
            self._mean_search_s += _SMOOTHING * (elapsed_s - self._mean_search_s)
        self._free.release()

    def close(self) -> None:
        """Lets go of the threads; a search that still runs is not waited for."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def retry_after_s(queued: int, threads: int, mean_search_s: float) -> float:
    """When a place should be free: those ahead, at the recent pace, within reason."""
    return min(MAX_RETRY_S, max(MIN_RETRY_S, (queued + 1) / threads * mean_search_s))


def _in_loop(loop: asyncio.AbstractEventLoop, action: Callable[[], None]) -> None:
    """Runs an action on the loop; after the loop has ended there is nothing left to tell."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(action)
