"""From a planner thread to the event loop: messages that wait to be sent."""

from __future__ import annotations

import asyncio
from collections import deque

MAX_UNSENT = 16
"""Messages that wait for a slow reader; beyond that the oldest are dropped, since each plan is
better than all before it. Bounds memory."""


class Outbox:
    """Messages in their order, put on any thread, taken on the loop's.

    Args:
        loop: Where messages are taken.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._unsent: deque[bytes] = deque(maxlen=MAX_UNSENT)
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, message: bytes) -> None:
        """Puts a message in, on any thread; after the loop has ended, nowhere."""
        self._unsent.append(message)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changed.set)

    def close(self) -> None:
        """Says, on the loop's thread, that no message will follow."""
        self._closed = True
        self._changed.set()

    async def get(self) -> bytes | None:
        """The next message; None when all have been taken and none will follow."""
        while not self._unsent:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._unsent.popleft()
