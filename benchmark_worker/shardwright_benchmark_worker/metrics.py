"""What Prometheus scrapes from a worker: how much it measured, how fast, and what went wrong."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from shardwright_benchmark_worker.errors import OptionError
from shardwright_benchmark_worker.recorder import Recording, Row
from shardwright_benchmark_worker.stopping import Stopped

MEASUREMENT_SECONDS_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class WorkerMetrics:
    """The metrics of one worker, in a registry of their own: a watcher of a session.

    The share of time spent measuring is `rate(shardwright_worker_measurement_seconds_sum[10m])`.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._seconds = Histogram(
            "shardwright_worker_measurement_seconds",
            "Seconds from one measurement's end to the next one's within a part: drawing, "
            "preparing and all repetitions. The count is that of measurements.",
            ("kind",),
            buckets=MEASUREMENT_SECONDS_BUCKETS,
            registry=registry,
        )
        self._failures = Counter(
            "shardwright_worker_failures",
            "Samples that did not fit into memory, and errors that ended a recording.",
            ("kind", "reason"),
            registry=registry,
        )
        self._drifted = Counter(
            "shardwright_worker_drifted_measurements",
            "Measurements flagged because the device was throttled or shared; counted by part.",
            ("kind",),
            registry=registry,
        )
        self._parts = Counter(
            "shardwright_worker_parts_written", "Parts written.", ("kind",), registry=registry
        )
        self._todo = Gauge(
            "shardwright_worker_samples_todo",
            "Samples of this worker's share that are not yet measured.",
            ("kind",),
            registry=registry,
        )
        self._running = Gauge(
            "shardwright_worker_running_seconds",
            "Seconds since the worker began.",
            registry=registry,
        )
        self._info = Gauge(
            "shardwright_worker_hardware_info",
            "1, with what measures.",
            ("hardware", "source", "device", "worker_index", "num_workers"),
            registry=registry,
        )
        began_s = time.monotonic()
        self._running.set_function(lambda: time.monotonic() - began_s)

    def serve(self, port: int) -> int:
        """Answers scrapes on a thread from now on; returns the port.

        Raises:
            OptionError: When the port cannot be had.
        """
        try:
            server, _ = start_http_server(port, registry=self.registry)
        except (OSError, OverflowError) as error:
            raise OptionError(f"--metrics-port {port} cannot be opened: {error}") from error
        return int(server.server_port)

    def started(self, recording: Recording, todo: Sequence[range]) -> None:
        """See `Watcher`; shows every series from the start, at 0."""
        kind = recording.kind.value
        self._todo.labels(kind).set(sum(map(len, todo)))
        self._info.labels(
            recording.hardware,
            recording.source,
            recording.fingerprint.get("device", "unknown"),
            str(recording.share.worker_index),
            str(recording.share.num_workers),
        ).set(1)
        self._seconds.labels(kind)
        self._drifted.labels(kind)
        self._parts.labels(kind)
        self._failures.labels(kind, "infeasible")

    def measured(self, recording: Recording, row: Row, seconds: float) -> None:
        """See `Watcher`."""
        kind = recording.kind.value
        self._seconds.labels(kind).observe(seconds)
        self._todo.labels(kind).dec()
        if row.get("feasible") is False:
            self._failures.labels(kind, "infeasible").inc()

    def written(self, recording: Recording, indices: range, measuring: Mapping[str, str]) -> None:
        """See `Watcher`."""
        kind = recording.kind.value
        self._parts.labels(kind).inc()
        self._drifted.labels(kind).inc(int(measuring.get("drifted", 0)))

    def ended(self, recording: Recording, error: BaseException | None) -> None:
        """See `Watcher`."""
        if error is not None and not isinstance(error, Stopped):
            self._failures.labels(recording.kind.value, type(error).__name__).inc()
