"""One server: gRPC with health and reflection, and the Prometheus endpoint beside it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from wsgiref.simple_server import WSGIServer

import grpc
import structlog
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from prometheus_client import start_http_server

from shardwright_server import health
from shardwright_server.admission import Admission
from shardwright_server.errors import StartupError
from shardwright_server.interceptors import ObservingInterceptor, StatusInterceptor
from shardwright_server.metrics import Metrics, Rpc
from shardwright_server.model_store import ModelStore
from shardwright_server.servicer import SERVICE, ShardingPlanServicer, handlers
from shardwright_server.settings import Settings
from shardwright_server.validation import Limits

_LOG = structlog.get_logger(__name__)

SERVICES = (
    SERVICE,
    health.SERVICE,
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
)


class Server:
    """A server that can be started and drained once.

    Args:
        settings: How to serve; `bundles` is not read here.
        models: The cost models that answer.
        faults: Of bundles that were left out.

    Attributes:
        port: gRPC port, once started.
        metrics_port: Port of the Prometheus endpoint, once started.
    """

    def __init__(self, settings: Settings, models: ModelStore, faults: Iterable[str] = ()) -> None:
        self._settings = settings
        self._admission = Admission(
            settings.planner_threads, settings.max_queued, settings.max_search_seconds
        )
        self._metrics = Metrics(_rpcs())
        self._metrics.show_admission(self._admission)
        self._health = health.HealthServicer(s.full_name for s in SERVICES)
        self._grpc = grpc.aio.server(
            interceptors=[ObservingInterceptor(self._metrics), StatusInterceptor()],
            options=[
                ("grpc.max_receive_message_length", settings.max_message_mib << 20),
                ("grpc.max_send_message_length", -1),
                # a second server on the same port is a mistake, not a replica
                ("grpc.so_reuseport", 0),
            ],
        )
        limits = Limits(settings.max_tables, settings.max_devices)
        self._servicer = ShardingPlanServicer(models, self._admission, limits, self._metrics)
        self._grpc.add_generic_rpc_handlers((handlers(self._servicer),))
        self._show(models, tuple(faults))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        reflection.enable_server_reflection([s.full_name for s in SERVICES], self._grpc)
        self._http: tuple[WSGIServer, threading.Thread] | None = None
        self.port = 0
        self.metrics_port = 0

    async def start(self) -> None:
        """Listens, and says where in the event `serving`.

        Raises:
            StartupError: When a port cannot be had.
        """
        host = self._settings.host
        self.port = self._bind_grpc(host, self._settings.port)
        self.metrics_port = self._start_metrics(host, self._settings.metrics_port)
        await self._grpc.start()
        _LOG.info("serving", host=host, port=self.port, metrics_port=self.metrics_port)

    def serve(self, models: ModelStore, faults: tuple[str, ...]) -> None:
        """Has other models answer from now on; RPCs in flight keep theirs."""
        before = {d.cost_model: d.is_default for d in self._servicer.models.describe()}
        after = {d.cost_model: d.is_default for d in models.describe()}
        self._servicer.models = models
        self._show(models, faults)
        if after != before:
            _LOG.info(
                "cost models changed",
                loaded=[f"{m.hardware} {m.version}" for m in after if m not in before],
                gone=[f"{m.hardware} {m.version}" for m in before if m not in after],
                defaults=[f"{m.hardware} {m.version}" for m, default in after.items() if default],
            )

    def refresh_failed(self) -> None:
        """Counts a look at the registry that failed."""
        self._metrics.refresh_failed()

    def _show(self, models: ModelStore, faults: tuple[str, ...]) -> None:
        self._metrics.show_bundles(
            {d.cost_model: d.is_default for d in models.describe()}, len(faults)
        )

    async def stop(self) -> bool:
        """Says NOT_SERVING, takes no new RPC, and lets those in flight finish in the grace time.

        Returns:
            Whether no search is left running.
        """
        self._health.drain()
        _LOG.info("draining", grace_seconds=self._settings.grace_seconds)
        await self._grpc.stop(self._settings.grace_seconds)
        self._admission.close()
        if self._http is not None:
            http, thread = self._http
            http.shutdown()
            thread.join()
            http.server_close()
        drained = self._admission.running == 0
        _LOG.info("stopped", drained=drained)
        return drained

    def _bind_grpc(self, host: str, port: int) -> int:
        try:
            return self._grpc.add_insecure_port(f"{_bracketed(host)}:{port}")
        except RuntimeError as error:
            raise StartupError(
                f"cannot listen on {host}:{port} for gRPC: the port is in use, or the address is "
                "not this machine's; choose another --port or --host"
            ) from error

    def _start_metrics(self, host: str, port: int) -> int:
        try:
            self._http = start_http_server(port, host, self._metrics.registry)
        except OSError as error:
            raise StartupError(
                f"cannot listen on {host}:{port} for metrics: {error.strerror or error}; choose "
                "another --metrics-port or --host"
            ) from error
        return self._http[0].server_port


def _rpcs() -> list[Rpc]:
    return [
        Rpc.of(
            f"/{service.full_name}/{method.name}", method.client_streaming, method.server_streaming
        )
        for service in SERVICES
        for method in service.methods
    ]


def _bracketed(host: str) -> str:
    """An IPv6 address needs brackets before a port."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
