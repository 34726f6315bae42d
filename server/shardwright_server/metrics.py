"""What Prometheus scrapes: RPCs under the standard gRPC names, searches, bundles."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import grpc
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from shardwright.domain import CostModelId, PlanResult
from shardwright_server.admission import Admission

RPC_SECONDS_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
SEARCH_SECONDS_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
GAP_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0)
COST_RATIO_BUCKETS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1.0, 1.05)

_RPC_LABELS = ("grpc_type", "grpc_service", "grpc_method")

_CODE_NAMES = {
    code: code.name.title().replace("_", "")
    for code in grpc.StatusCode
    if code not in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED)
} | {grpc.StatusCode.OK: "OK", grpc.StatusCode.CANCELLED: "Canceled"}
"""Status codes as Go spells them: that is the spelling of gRPC metrics everywhere."""


@dataclass(frozen=True)
class Rpc:
    """A kind of RPC, as metrics name it.

    Attributes:
        type: unary | client_stream | server_stream | bidi_stream.
        service: Full name of the service.
        method: Name of the method.
    """

    type: str
    service: str
    method: str

    @staticmethod
    def of(path: str, request_streaming: bool, response_streaming: bool) -> Rpc:
        """The RPC at `/package.Service/Method`."""
        _, service, method = path.split("/", 2)
        kinds = {
            (False, False): "unary",
            (True, False): "client_stream",
            (False, True): "server_stream",
            (True, True): "bidi_stream",
        }
        return Rpc(kinds[request_streaming, response_streaming], service, method)

    @property
    def labels(self) -> tuple[str, str, str]:
        """Values of the three labels."""
        return self.type, self.service, self.method


UNKNOWN_RPC = Rpc("unary", "unknown", "unknown")
"""Stands for every method this server does not have: a caller must not choose label values."""


class Metrics:
    """The metrics of one server, in a registry of their own.

    Args:
        rpcs: The RPCs this server has; they are shown from the start, at 0.
    """

    def __init__(self, rpcs: Iterable[Rpc] = ()) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self._started = Counter(
            "grpc_server_started", "RPCs started.", _RPC_LABELS, registry=registry
        )
        self._handled = Counter(
            "grpc_server_handled",
            "RPCs completed, by status code.",
            (*_RPC_LABELS, "grpc_code"),
            registry=registry,
        )
        self._handling = Histogram(
            "grpc_server_handling_seconds",
            "Seconds from the start of an RPC to its status.",
            _RPC_LABELS,
            buckets=RPC_SECONDS_BUCKETS,
            registry=registry,
        )
        self._search_seconds = Histogram(
            "shardwright_search_seconds",
            "Seconds that a search for a plan ran, without waiting for its turn.",
            ("hardware", "outcome"),
            buckets=SEARCH_SECONDS_BUCKETS,
            registry=registry,
        )
        self._cost_ratio = Histogram(
            "shardwright_plan_cost_ratio",
            "Predicted cost of a plan divided by that of the best baseline that fits.",
            ("hardware",),
            buckets=COST_RATIO_BUCKETS,
            registry=registry,
        )
        self._gap = Histogram(
            "shardwright_plan_gap",
            "Predicted cost of a plan above the lower bound of any plan, as a share of the bound.",
            ("hardware",),
            buckets=GAP_BUCKETS,
            registry=registry,
        )
        self._bundle_info = Gauge(
            "shardwright_bundle_info",
            "1 for each cost model that can answer.",
            ("name", "version", "hardware", "source"),
            registry=registry,
        )
        self._bundles_left_out = Gauge(
            "shardwright_bundles_left_out",
            "Bundles and promotions that could not be read.",
            registry=registry,
        )
        self._bundle_default = Gauge(
            "shardwright_bundle_default",
            "1 for the version of each profile that answers where none is named.",
            ("hardware", "version"),
            registry=registry,
        )
        self._refresh_failures = Counter(
            "shardwright_registry_refresh_failures",
            "Looks at the registry that failed, since the start.",
            registry=registry,
        )
        self._shown: dict[CostModelId, bool] = {}
        for rpc in (*rpcs, UNKNOWN_RPC):
            self._started.labels(*rpc.labels)
            self._handling.labels(*rpc.labels)
            for name in _CODE_NAMES.values():
                self._handled.labels(*rpc.labels, name)

    def rpc_started(self, rpc: Rpc) -> None:
        """Counts the start of an RPC."""
        self._started.labels(*rpc.labels).inc()

    def rpc_handled(self, rpc: Rpc, code: grpc.StatusCode, seconds: float) -> None:
        """Counts the end of an RPC."""
        self._handled.labels(*rpc.labels, _CODE_NAMES[code]).inc()
        self._handling.labels(*rpc.labels).observe(seconds)

    @contextlib.contextmanager
    def search(self, hardware: str) -> Iterator[SearchOutcome]:
        """Times a search; the caller names the outcome of one that found a plan."""
        outcome = SearchOutcome()
        started_s = time.monotonic()
        try:
            yield outcome
        finally:
            seconds = time.monotonic() - started_s
            self._search_seconds.labels(hardware, outcome.name).observe(seconds)

    def plan_found(self, result: PlanResult) -> None:
        """Compares a plan with the best baseline and the lower bound of the same problem."""
        if result.gap is not None:
            self._gap.labels(result.cost_model.hardware).observe(result.gap)
        costs_ms = [b.cost_ms for b in result.baselines if b.cost_ms is not None]
        if costs_ms and min(costs_ms) > 0:
            ratio = result.cost_ms / min(costs_ms)
            self._cost_ratio.labels(result.cost_model.hardware).observe(ratio)

    def show_bundles(self, models: Mapping[CostModelId, bool], num_left_out: int) -> None:
        """Shows which cost models can answer, and how much was left out.

        Args:
            models: Each to whether it is the default of its profile.
            num_left_out: Bundles and promotions that could not be read.
        """
        for model, is_default in models.items():
            self._bundle_info.labels(*_bundle_labels(model)).set(1)
            if is_default:
                self._bundle_default.labels(model.hardware, model.version).set(1)
        for model, was_default in self._shown.items():
            if model not in models:
                self._bundle_info.remove(*_bundle_labels(model))
            if was_default and not models.get(model):
                self._bundle_default.remove(model.hardware, model.version)
        self._shown = dict(models)
        self._bundles_left_out.set(num_left_out)

    def refresh_failed(self) -> None:
        """Counts a look at the registry that failed."""
        self._refresh_failures.inc()

    def show_admission(self, admission: Admission) -> None:
        """Shows how many searches run and wait, at the moment of each scrape."""
        running = Gauge(
            "shardwright_searches_running", "Searches on a planner thread.", registry=self.registry
        )
        queued = Gauge(
            "shardwright_searches_queued", "Searches that wait for one.", registry=self.registry
        )
        running.set_function(lambda: admission.running)
        queued.set_function(lambda: admission.queued)


def _bundle_labels(model: CostModelId) -> tuple[str, str, str, str]:
    return model.name, model.version, model.hardware, model.source.value


@dataclass
class SearchOutcome:
    """How a search ended: `no_plan`, or the `StoppedBy` of the plan it found, in lower case."""

    name: str = "no_plan"

    def found(self, result: PlanResult) -> None:
        """The search found a plan."""
        if result.search.stopped_by is not None:
            self.name = result.search.stopped_by.value
