"""Whatever fails while publishing leaves no half bundle, and publishing works again."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stores import FlakyStore, enlarge, small_disk

from shardwright_costmodel.bundle import GRAPH_NAMES, Bundle, write_bundle
from shardwright_costmodel.errors import BundleError
from shardwright_costmodel.history import Action
from shardwright_costmodel.publishing import promote, publish
from shardwright_costmodel.registry import Registry
from shardwright_costmodel.verification import verify

Reversion = Callable[..., Bundle]
MIB = 2**20


@pytest.fixture
def flaky() -> Iterator[Registry]:
    """A registry in a store that can be made to fail."""
    FlakyStore.store.clear()
    FlakyStore.pseudo_dirs[:] = [""]
    FlakyStore.writes_left, FlakyStore.is_down = float("inf"), False
    yield Registry("flaky://bucket/models")
    FlakyStore.writes_left, FlakyStore.is_down = float("inf"), False


def assert_sound(registry: Registry, *versions: str) -> None:
    entries = registry.list()
    assert [entry.version for entry in entries] == list(versions)
    assert [verify(registry, entry).fault for entry in entries] == [""] * len(versions)


def test_a_full_disk_leaves_nothing(bundle: Bundle, tmp_path: Path) -> None:
    needed = sum(map(len, bundle.graphs.values()))
    with small_disk(tmp_path / "disk", needed // 2) as disk:
        registry = Registry(str(disk))
        with pytest.raises(BundleError, match="No space left on device"):
            publish(registry, bundle)
        assert_sound(registry)
        assert list((disk / "test-machine").iterdir()) == []
        enlarge(disk, 4 * needed)
        assert publish(registry, bundle).is_default
        assert_sound(registry, "1")


def test_a_full_disk_leaves_the_old_promotion(
    bundle: Bundle, reversion: Reversion, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 4 * MIB) as disk:
        registry = Registry(str(disk))
        publish(registry, bundle)
        publish(registry, reversion(bundle, version="2"), promote_it=False)
        filler = disk / "filler"
        with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        with pytest.raises(BundleError, match=r"promoted\.json: .*No space left on device"):
            promote(registry, "test-machine", "2")
        assert registry.default_version("test-machine") == "1"
        assert not list((disk / "test-machine").glob(".*"))
        filler.unlink()
        promote(registry, "test-machine", "2")
        assert registry.default_version("test-machine") == "2"


KILLED_ON_DISK = """
import os, sys, time
from shardwright_costmodel import bundle as b
write, written = b.write_to_disk, []
def slow(path, content):
    if len(written) == 2:
        write(path, content[:100])
        print("third file", flush=True)
        time.sleep(60)
    written.append(path)
    write(path, content)
b.write_to_disk = slow
b.write_bundle(sys.argv[2], b.read_bundle(sys.argv[1]))
"""


def test_a_process_killed_while_publishing_leaves_no_half_bundle(
    bundle: Bundle, tmp_path: Path
) -> None:
    source, registry = tmp_path / "source", Registry(str(tmp_path / "registry"))
    write_bundle(str(source), bundle)
    target = f"{registry.root_url}/test-machine/1"
    command = [sys.executable, "-c", KILLED_ON_DISK, str(source), target]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "third file\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "registry" / "test-machine").iterdir()
    assert left.name.startswith("."), "hidden, and never read"
    assert_sound(registry)
    assert publish(registry, bundle).is_default
    assert_sound(registry, "1")


KILLED_WHILE_PROMOTING = """
import os, sys, time
from shardwright_costmodel.history import Action
from shardwright_costmodel.registry import Registry
def never(source, target):
    print("about to replace", flush=True)
    time.sleep(60)
os.replace = never
Registry(sys.argv[1]).record_promotion("test-machine", "2", Action.PROMOTE, "never")
"""


def test_a_process_killed_while_promoting_leaves_the_old_promotion(
    published: Registry, bundle: Bundle, reversion: Reversion
) -> None:
    promote(published, "test-machine", "1")
    publish(published, reversion(bundle, version="2"), promote_it=False)
    command = [sys.executable, "-c", KILLED_WHILE_PROMOTING, published.root_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "about to replace\n"
        process.send_signal(signal.SIGKILL)
    assert published.default_version("test-machine") == "1"
    promote(published, "test-machine", "2")  # nobody holds the lock any more
    assert published.default_version("test-machine") == "2"


@pytest.mark.parametrize("is_down", [False, True], ids=["can be tidied up", "is gone for good"])
@pytest.mark.parametrize("writes", range(len(GRAPH_NAMES) + 1))
def test_a_store_that_fails_on_any_file_leaves_no_half_bundle(
    flaky: Registry, bundle: Bundle, writes: int, is_down: bool
) -> None:
    FlakyStore.writes_left, FlakyStore.is_down = writes, is_down
    with pytest.raises(BundleError, match="test-machine/1: the store went away"):
        publish(flaky, bundle)
    assert len(FlakyStore.store) == (writes if is_down else 0)
    assert_sound(flaky)
    FlakyStore.writes_left, FlakyStore.is_down = float("inf"), False
    assert publish(flaky, bundle).is_default
    assert_sound(flaky, "1")


def test_a_store_that_fails_on_the_promotion_leaves_the_old_one(
    flaky: Registry, bundle: Bundle, reversion: Reversion
) -> None:
    publish(flaky, bundle)
    FlakyStore.writes_left = len(GRAPH_NAMES) + 1
    with pytest.raises(BundleError, match=r"promoted\.json: the store went away"):
        publish(flaky, reversion(bundle, version="2"))
    assert_sound(flaky, "1", "2")
    assert flaky.default_version("test-machine") == "1"
    FlakyStore.writes_left = 1
    promote(flaky, "test-machine", "2")
    promotions = flaky.promotions("test-machine")
    assert promotions is not None
    assert [entry.version for entry in promotions.history] == ["1", "2"]
    assert {entry.action for entry in promotions.history} == {Action.PROMOTE}
