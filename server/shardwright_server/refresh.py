"""Looks at the registry again while the server runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from shardwright_server.errors import StartupError
from shardwright_server.model_store import ModelLoader, ModelStore

_LOG = structlog.get_logger(__name__)

Serve = Callable[[ModelStore, tuple[str, ...]], None]
"""Takes the models that are to answer from now on, and the faults of what was left out."""


class Refresher:
    """Loads what was published, and serves what was promoted, without a restart.

    New models are loaded before old ones are let go; a search keeps the model it began with. When
    the registry cannot be read, the models there are go on answering.

    Args:
        loader: What the first models were loaded by.
        seconds: Between two looks at the registry; 0: only when told.

    Attributes:
        is_loading: Whether a look is under way, on another thread.
    """

    def __init__(self, loader: ModelLoader, seconds: float) -> None:
        self._loader = loader
        self._seconds = seconds
        self._told = asyncio.Event()
        self.is_loading = False

    def look_now(self) -> None:
        """Has it look at the registry at once."""
        self._told.set()

    async def run(self, serve: Serve, failed: Callable[[], None]) -> None:
        """Looks again and again, until cancelled.

        Args:
            serve: Called after each look.
            failed: Called instead when the registry could not be read.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), self._seconds or None)
            self._told.clear()
            self.is_loading = True
            try:
                serve(*await asyncio.to_thread(self._loader.load))
            except StartupError as error:
                _LOG.error("registry not read", fault=str(error))
                failed()
            except Exception:
                # whatever it is, the next look may go well
                _LOG.exception("registry not read")
                failed()
            finally:
                self.is_loading = False
