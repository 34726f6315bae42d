"""Makes the helpers of this folder importable; a registry of bundles and a server on it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from server_bundles import publish_bundle
from server_harness import RunningServer, serving


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of `test-gpu` and one of `other-gpu`."""
    root = tmp_path_factory.mktemp("bundles")
    publish_bundle(root, "test-gpu", "v1", day=1)
    publish_bundle(root, "test-gpu", "v2", day=2)
    publish_bundle(root, "other-gpu", "v1", day=3)
    return root


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[RunningServer]:
    with serving(bundles) as running:
        yield running
