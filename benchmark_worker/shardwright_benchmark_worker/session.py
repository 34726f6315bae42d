"""One run of a worker: measures the parts that are missing, writes them, and tells who watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar

from shardwright_benchmark_worker.progress import logger, progress
from shardwright_benchmark_worker.recorder import (
    Measure,
    Recording,
    Row,
    measure_part,
    write_rows,
)
from shardwright_benchmark_worker.store import persistently
from shardwright_costmodel.dataset import remove_orphans

Sample = TypeVar("Sample")


class Watcher(Protocol):
    """Hears of every row and part."""

    def measured(self, recording: Recording, row: Row, seconds: float) -> None:
        """A sample was measured, in this time."""

    def written(self, recording: Recording, indices: range, url: str) -> None:
        """A part is in the dataset."""


class Session:
    """What the recordings of one command share.

    Args:
        overwrite: Whether to measure parts that are already there.
        store_retry_s: How long a store that is away is tried again.
        watchers: Who hears of rows and parts.

    Attributes:
        drawing_s: Seconds spent on drawing samples, through `timed`.
    """

    def __init__(
        self, *, overwrite: bool, store_retry_s: float, watchers: Sequence[Watcher] = ()
    ) -> None:
        self.drawing_s = 0.0
        self._overwrite = overwrite
        self._store_retry_s = store_retry_s
        self._watchers = watchers

    def timed(self, draw: Callable[[int], Sample]) -> Callable[[int], Sample]:
        """`draw`, with its time added to `drawing_s`."""

        def run(index: int) -> Sample:
            began_s = time.perf_counter()
            sample = draw(index)
            self.drawing_s += time.perf_counter() - began_s
            return sample

        return run

    def missing(self, recording: Recording) -> list[range]:
        """Indices of the parts to measure: those that are not there, or all.

        Raises:
            StoreError: When the store stays away.
        """
        persistently(
            partial(remove_orphans, recording.out_url, recording.kind), self._store_retry_s
        )
        parts = recording.parts()
        if self._overwrite:
            return parts
        todo = persistently(recording.missing_parts, self._store_retry_s)
        if there := len(set(parts) - set(todo)):
            logger.info(
                "parts are already there; --overwrite measures them again",
                extra={"kind": recording.kind.value, "parts": there},
            )
        return todo

    def record(
        self,
        recording: Recording,
        measure: Measure,
        summary: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """Measures and writes what is missing; `summary` as of `record_parts`."""
        self.record_parts(recording, self.missing(recording), measure, summary=summary)

    def record_parts(
        self,
        recording: Recording,
        todo: Sequence[range],
        measure: Measure,
        on_written: Callable[[], None] = lambda: None,
        summary: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """Measures and writes parts.

        Args:
            recording: Where they belong.
            todo: Their indices.
            measure: Called once for each.
            on_written: Called after each; until then, other processes of a job have to wait.
            summary: Called when a part is measured: how it went, for the part's metadata.

        Raises:
            StoreError: When the store stays away, or is full.
        """
        with progress(recording.kind.value, sum(map(len, todo))) as advance:

            def on_row(row: Row, seconds: float) -> None:
                advance()
                for watcher in self._watchers:
                    watcher.measured(recording, row, seconds)

            for i, indices in enumerate(todo, start=1):
                rows = measure_part(indices, measure, on_row)
                write = partial(write_rows, recording, indices, rows, summary())
                url = persistently(write, self._store_retry_s)
                on_written()
                for watcher in self._watchers:
                    watcher.written(recording, indices, url)
                logger.info(
                    "part written",
                    extra={"part": i, "of": len(todo), "samples": len(indices), "url": url},
                )
