"""Makes the helpers of this folder importable; a server with canned answers."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from canned_server import CannedServer

from shardwright_client import ShardingPlanClient


@pytest.fixture
def server() -> Iterator[CannedServer]:
    with CannedServer() as running:
        yield running


@pytest.fixture
def client(server: CannedServer) -> Iterator[ShardingPlanClient]:
    with ShardingPlanClient(server.target, timeout_s=20) as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_server_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHARDWRIGHT_SERVER", raising=False)
