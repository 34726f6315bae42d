"""Health: `grpc.health.v1.Health`, for a server whose services are healthy together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"]

Context = grpc.aio.ServicerContext[Any, Any]
Status = health_pb2.HealthCheckResponse


class HealthServicer(health_pb2_grpc.HealthServicer):
    """SERVING from the start, NOT_SERVING once the server drains.

    Unlike the reference implementation, a watch ends when the server drains: one that stays open
    would hold up the exit for the whole grace time.

    Args:
        services: Full names of the services; the empty name stands for the whole server.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = {"", *services}
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """Says NOT_SERVING from now on."""
        self._draining.set()

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """The status now; NOT_FOUND for a service that is not here."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "this server has no such service")
        return self._answer(request.service)

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> None:
        """The status now, and NOT_SERVING when the server drains; then the stream ends."""
        if not self._draining.is_set():
            await context.write(self._answer(request.service))
            await self._draining.wait()
        await context.write(self._answer(request.service))

    def _answer(self, service: str) -> health_pb2.HealthCheckResponse:
        if service not in self._services:
            return Status(status=Status.SERVICE_UNKNOWN)
        return Status(status=Status.NOT_SERVING if self._draining.is_set() else Status.SERVING)
