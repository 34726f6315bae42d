"""One run of a worker: measures the parts that are missing, writes them, and tells who watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from shardwright_benchmark_worker.stopping import Stopped
from shardwright_benchmark_worker.store import persistently
from shardwright_costmodel.dataset import remove_orphans

Sample = TypeVar("Sample")
Summary = Callable[[], Mapping[str, str]]
"""How measuring the last part went, for its metadata."""


class Watcher(Protocol):
    """Hears how a recording goes on."""

    def started(self, recording: Recording, todo: Sequence[range]) -> None:
        """These parts are to be measured."""

    def measured(self, recording: Recording, row: Row, seconds: float) -> None:
        """A sample was measured, in this time."""

    def written(self, recording: Recording, indices: range, measuring: Mapping[str, str]) -> None:
        """A part is in the dataset."""

    def ended(self, recording: Recording, error: BaseException | None) -> None:
        """All parts are written, or an error or a signal (`Stopped`) ended the work."""


class Session:
    """What the recordings of one command share.

    Args:
        overwrite: Whether to measure parts that are already there.
        store_retry_s: How long a store that is away is tried again.
        watchers: Who hears how it goes on.

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
        orphans = partial(remove_orphans, recording.out_url, recording.kind)
        persistently(orphans, self._store_retry_s)
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

    def record(self, recording: Recording, measure: Measure, summary: Summary = dict) -> None:
        """Measures and writes what is missing."""
        self.record_parts(recording, self.missing(recording), measure, summary)

    def record_parts(
        self,
        recording: Recording,
        todo: Sequence[range],
        measure: Measure,
        summary: Summary = dict,
        on_written: Callable[[], None] = lambda: None,
    ) -> None:
        """Measures and writes parts.

        Args:
            recording: Where they belong.
            todo: Their indices.
            measure: Called once for each.
            summary: Called after the last row of each.
            on_written: Called after each; until then, other processes of a job have to wait.

        Raises:
            StoreError: When the store stays away, or is full.
        """
        with (
            self._watched(recording, todo),
            progress(recording.kind.value, sum(map(len, todo))) as advance,
        ):
            began_s, drawing_before_s = time.perf_counter(), self.drawing_s
            measuring_s = 0.0

            def on_row(row: Row, seconds: float) -> None:
                nonlocal measuring_s
                measuring_s += seconds
                advance()
                for watcher in self._watchers:
                    watcher.measured(recording, row, seconds)

            for i, indices in enumerate(todo, start=1):
                rows = measure_part(indices, measure, on_row)
                measuring = summary()
                write = partial(write_rows, recording, indices, rows, measuring)
                url = persistently(write, self._store_retry_s)
                on_written()
                for watcher in self._watchers:
                    watcher.written(recording, indices, measuring)
                logger.info(
                    "part written",
                    extra={"part": i, "of": len(todo), "samples": len(indices), "url": url},
                )
            drawing_s = self.drawing_s - drawing_before_s
            # what is left of the running time went into writing parts and telling watchers
            seconds = {
                "running_seconds": time.perf_counter() - began_s,
                "measuring_seconds": measuring_s - drawing_s,
                "drawing_seconds": drawing_s,
            }
            logger.info(
                "recorded",
                extra={
                    "kind": recording.kind.value,
                    "samples": sum(map(len, todo)),
                    **{name: round(value, 3) for name, value in seconds.items()},
                },
            )

    @contextmanager
    def _watched(self, recording: Recording, todo: Sequence[range]) -> Iterator[None]:
        """Tells the watchers of the start and, whatever happens, of the end."""
        start = partial(self._start, recording, todo)
        # the first word to the store: bad names and rights show before hours of measuring
        persistently(start, self._store_retry_s)
        outcome: BaseException | None = None
        try:
            yield
        except (Exception, Stopped) as error:
            outcome = error
            raise
        finally:
            for watcher in self._watchers:
                watcher.ended(recording, outcome)

    def _start(self, recording: Recording, todo: Sequence[range]) -> None:
        for watcher in self._watchers:
            watcher.started(recording, todo)
