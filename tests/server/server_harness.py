"""Servers to test: in this process on a thread of their own, or as the real command."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

from shardwright.v1 import sharding_plan_service_pb2 as service_pb2
from shardwright.v1.sharding_plan_service_pb2_grpc import ShardingPlanServiceStub
from shardwright_server.model_store import ModelStore, load_models
from shardwright_server.server import Server
from shardwright_server.settings import read_settings

SERVICE_NAME = "shardwright.v1.ShardingPlanService"
COMMAND = Path(sys.executable).parent / "shardwright-server"
LOOPBACK = ("--host", "127.0.0.1", "--port", "0", "--metrics-port", "0")


class RunningServer:
    """A server that answers on loopback, and a client of it."""

    def __init__(self, port: int, metrics_port: int) -> None:
        self.port = port
        self.metrics_port = metrics_port
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.stub = ShardingPlanServiceStub(self.channel)

    def plan(
        self, request: service_pb2.GetShardingPlanRequest, timeout: float | None = 60
    ) -> service_pb2.GetShardingPlanResponse:
        return self.stub.GetShardingPlan(request, timeout=timeout)

    def send_bytes(self, method: str, data: bytes) -> bytes:
        answer: bytes = self.channel.unary_unary(method)(data, timeout=60)
        return answer

    def scrape(self) -> str:
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text: str = answer.read().decode()
        return text

    def metric(self, name: str, /, **labels: str) -> float:
        """One sample of a scrape; labels in any order, all of them."""
        from prometheus_client.parser import text_string_to_metric_families

        found = [
            sample.value
            for family in text_string_to_metric_families(self.scrape())
            for sample in family.samples
            if sample.name == name and sample.labels == labels
        ]
        assert len(found) == 1, f"{name}{labels}: {len(found)} samples"
        return found[0]


@contextlib.contextmanager
def serving(
    bundles: Path | None = None, *flags: str, models: ModelStore | None = None
) -> Iterator[RunningServer]:
    """A server in this process, with the models of a registry or those given."""
    settings = read_settings([*LOOPBACK, "--grace-seconds", "5", *flags])
    faults: tuple[str, ...] = ()
    if models is None:
        models, faults = load_models(str(bundles))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def call(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(timeout=60)

    async def make() -> Server:
        server = Server(settings, models, faults)
        await server.start()
        return server

    server = call(make())
    running = RunningServer(server.port, server.metrics_port)
    try:
        yield running
    finally:
        running.channel.close()
        call(server.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class ServerProcess:
    """The real command; its log is read as it grows."""

    def __init__(self, log: Path, *flags: str) -> None:
        self._log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [str(COMMAND), *LOOPBACK, *flags], stdout=file, stderr=subprocess.STDOUT
            )

    def events(self) -> list[dict[str, Any]]:
        lines = self._log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait_for(self, event: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def seen() -> bool:
            found[:] = [e for e in self.events() if e["event"] == event]
            return bool(found)

        eventually(seen, lambda: f"no event {event!r} in the log:\n{self._log.read_text()}")
        return found[0]

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        self.process.send_signal(signal_number)
        return self.process.wait(timeout=60)


@contextlib.contextmanager
def server_process(log: Path, *flags: str) -> Iterator[tuple[ServerProcess, RunningServer]]:
    """The real `shardwright-server`, ready to answer; killed at the end if it still runs."""
    process = ServerProcess(log, *flags)
    try:
        event = process.wait_for("serving")
        running = RunningServer(event["port"], event["metrics_port"])
        yield process, running
        running.channel.close()
    finally:
        process.process.kill()
        process.process.wait()


def eventually(
    condition: Callable[[], bool], message: Callable[[], str] = lambda: "it never happened"
) -> None:
    """Waits for a condition, for as long as a slow machine may need."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, message()
        time.sleep(0.02)
