"""What each worker says of itself in the store, for `shardwright-worker status`.

One small JSON file a worker and recording, `<root>/fleet/<kind>/<sequence>/<work>/<worker>.json`,
written at the start, at the end, and between two samples whenever the last word is half a minute
old: never by another thread, which would disturb what is measured. A restarted worker replaces it.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import fsspec

from shardwright_benchmark_worker.progress import logger
from shardwright_benchmark_worker.recorder import Recording, Row
from shardwright_benchmark_worker.stopping import Stopped
from shardwright_costmodel.dataset import write_whole

FOLDER = "fleet"
PERIOD_S = 30.0
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Heartbeat:
    """The state of one worker in one recording.

    Attributes:
        kind: `compute`, `comm`, ...
        sequence: Of the parts, see `Recording.sequence`.
        hardware: Hardware profile.
        source: `measured` or `modelled`.
        start_index: First sample of the fleet.
        num_samples: How many, the whole fleet together.
        part_size: Most rows in a part.
        worker_index: Which worker, from 0.
        num_workers: Of how many.
        host: Where it runs.
        state: `running`, `done`, `failed` or `stopped` (by a signal).
        error: What ended it, when it failed.
        started_at: When this run began, ISO 8601, UTC.
        updated_at: When this was written.
        samples_todo: What was missing of this worker's share when this run began.
        samples_measured: In this run, written or not.
        samples_infeasible: Of those, what did not fit into memory.
        samples_drifted: Of those in written parts, how many are flagged.
        running_seconds: Since the start.
        measuring_seconds: Of those, inside of measuring.
        options: All that decides what is drawn and how it is measured.
        format_version: Of this file.
    """

    kind: str
    sequence: str
    hardware: str
    source: str
    start_index: int
    num_samples: int
    part_size: int
    worker_index: int
    num_workers: int
    host: str
    state: str
    started_at: str
    updated_at: str
    samples_todo: int
    samples_measured: int = 0
    samples_infeasible: int = 0
    samples_drifted: int = 0
    running_seconds: float = 0.0
    measuring_seconds: float = 0.0
    error: str = ""
    options: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @classmethod
    def parse(cls, text: bytes) -> Heartbeat:
        """Reads one back.

        Raises:
            ValueError: When it is not a heartbeat, or one of another version.
        """
        try:
            heartbeat = cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(str(error)) from error
        if heartbeat.format_version != FORMAT_VERSION:
            raise ValueError(f"format version {heartbeat.format_version}, not {FORMAT_VERSION}")
        return heartbeat

    @property
    def path(self) -> str:
        """Below the root of the dataset."""
        work = f"{self.start_index:09d}-{self.start_index + self.num_samples:09d}-{self.part_size}"
        worker = f"{self.worker_index:05d}-of-{self.num_workers:05d}"
        return f"{FOLDER}/{self.kind}/{self.sequence}/{work}/{worker}.json"


class HeartbeatWriter:
    """Writes the heartbeat of this worker: a watcher of a session, one recording at a time."""

    def __init__(self) -> None:
        self._heartbeat: Heartbeat | None = None
        self._began_s = 0.0
        self._written_s = 0.0

    def started(self, recording: Recording, todo: Sequence[range]) -> None:
        """See `Watcher`; raises what the store raises, so that nobody measures for nothing."""
        self._began_s = time.monotonic()
        self._heartbeat = _first(recording, todo)
        self._write(recording.out_url)

    def measured(self, recording: Recording, row: Row, seconds: float) -> None:
        """See `Watcher`."""
        now = self._now()
        self._heartbeat = replace(
            now,
            samples_measured=now.samples_measured + 1,
            samples_infeasible=now.samples_infeasible + (row.get("feasible") is False),
            measuring_seconds=now.measuring_seconds + seconds,
        )
        if time.monotonic() - self._written_s > PERIOD_S:
            self._try_to_write(recording.out_url)

    def written(self, recording: Recording, indices: range, measuring: Mapping[str, str]) -> None:
        """See `Watcher`."""
        now = self._now()
        drifted = now.samples_drifted + int(measuring.get("drifted", 0))
        self._heartbeat = replace(now, samples_drifted=drifted)

    def ended(self, recording: Recording, error: BaseException | None) -> None:
        """See `Watcher`."""
        if error is None:
            self._heartbeat = replace(self._now(), state="done")
        elif isinstance(error, Stopped):
            self._heartbeat = replace(self._now(), state="stopped", error=error.signal.name)
        else:
            self._heartbeat = replace(self._now(), state="failed", error=str(error))
        self._try_to_write(recording.out_url)

    def _now(self) -> Heartbeat:
        assert self._heartbeat is not None, "a session starts a recording before all else"
        return self._heartbeat

    def _try_to_write(self, out_url: str) -> None:
        """A heartbeat that cannot be written is no reason to stop measuring."""
        # whatever a store's client may raise
        try:
            self._write(out_url)
        except Exception as error:
            logger.warning("the heartbeat could not be written", extra={"error": repr(error)})

    def _write(self, out_url: str) -> None:
        self._written_s = time.monotonic()
        heartbeat = replace(
            self._now(),
            updated_at=_utc_now(),
            running_seconds=round(time.monotonic() - self._began_s, 3),
        )
        filesystem, root = fsspec.core.url_to_fs(out_url)
        content = json.dumps(asdict(heartbeat), indent=1).encode()
        write_whole(filesystem, f"{root}/{heartbeat.path}", content)


def _first(recording: Recording, todo: Sequence[range]) -> Heartbeat:
    now = _utc_now()
    shape: dict[str, Any] = {
        name: getattr(recording, name)
        for name in ("sequence", "hardware", "source", "start_index", "num_samples", "part_size")
    }
    return Heartbeat(
        **shape,
        kind=recording.kind.value,
        worker_index=recording.share.worker_index,
        num_workers=recording.share.num_workers,
        host=platform.node(),
        state="running",
        started_at=now,
        updated_at=now,
        samples_todo=sum(map(len, todo)),
        options=dict(recording.options),
    )


def _utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
