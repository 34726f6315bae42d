"""Workers on a real S3 protocol server, which can be cut off."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from shardwright_benchmark_worker.status import read_status
from shardwright_costmodel.dataset import Kind, list_parts

from .conftest import RunWorker
from .fleet_processes import MODELLED, ON_CPU, events, eventually, indices, worker_process

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class Cable:
    """Forwards connections to a port, unless it is unplugged."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.port = 0
        self.plug()

    def plug(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def unplug(self) -> None:
        assert self._listener is not None
        # shutdown wakes the thread that accepts, which close alone does not
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open += [client, server]
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=_pump, args=ends, daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        yield server.get_host_and_port()[1]
    finally:
        server.stop()


@pytest.fixture
def cable(server: int) -> Iterator[Cable]:
    cable = Cable(server)
    yield cable
    cable.unplug()


@pytest.fixture
def bucket(server: int, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server}"}.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex}"
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(name)
    return f"s3://{name}/dataset"


def through(cable: Cable) -> dict[str, str]:
    return {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{cable.port}"}


def forget_listings() -> None:
    # list_parts has file systems of its own, with time limits
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_fleet_shares_nothing_but_the_store(worker: RunWorker, bucket: str) -> None:
    command = ("compute", *MODELLED, "--out", bucket, "--samples", "25", "--part-size", "5")
    for index in ("1", "0"):
        done = worker(*command, "--worker-index", index, "--num-workers", "2")
        assert done.returncode == 0, done.stderr
    forget_listings()
    assert indices(bucket) == list(range(25))
    objects = fsspec.filesystem("s3").find(bucket)
    assert len(objects) == 7 and not [name for name in objects if "tmp" in name]
    (fleet,) = read_status(bucket, stale_after_s=60)
    assert (fleet.samples_done, fleet.samples_expected, fleet.num_parts) == (25, 25, 5)
    assert [w.state for w in fleet.workers] == ["done", "done"]
    assert fleet.last_part_age_s is not None and fleet.last_part_age_s < 120
    again = worker(*command)
    assert [e["parts"] for e in events(again.stderr) if "already there" in e["event"]] == [5]


def test_a_store_that_comes_back_costs_no_part(cable: Cable, bucket: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = ("compute", *ON_CPU, "--out", bucket, "--samples", "120", "--part-size", "30")
    with worker_process(*command, log=log, **through(cable)) as process:
        eventually(lambda: forget_listings() or list_parts(bucket, Kind.COMPUTE), log)
        cable.unplug()
        eventually(lambda: "the store cannot be reached, trying again" in log.read_text(), log)
        assert process.poll() is None
        cable.plug()
        assert process.wait(timeout=90) == 0, log.read_text()
    forget_listings()
    assert indices(bucket) == list(range(120))
    written = [e for e in events(log) if e["event"] == "part written"]
    assert [e["samples"] for e in written] == [30] * 4, "no part is measured twice"
    assert any(e["level"] == "warning" and e["pause_s"] > 0 for e in events(log) if "pause_s" in e)


def test_a_store_that_stays_away_ends_the_worker(
    worker: RunWorker, cable: Cable, bucket: str
) -> None:
    gone = through(cable)
    cable.unplug()
    done = worker(
        *("compute", *MODELLED, "--out", bucket, "--samples", "5", "--store-retry-s", "2"), **gone
    )
    cable.plug()
    assert done.returncode == 1, "starting again may help"
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "the store could not be reached for 2 s (--store-retry-s)" in line
    assert "Traceback" not in done.stderr


def test_a_bucket_that_is_not_there_is_a_mistake_told_before_measuring(
    worker: RunWorker, bucket: str
) -> None:
    command = ("compute", *ON_CPU, "--samples", "1000", "--out", f"{bucket[:-9]}-not-there/dataset")
    done = worker(*command, **{k: os.environ[k] for k in (*CREDENTIALS, "AWS_ENDPOINT_URL")})
    assert done.returncode == 2
    assert "error: cannot read or write" in done.stderr and "Traceback" not in done.stderr
