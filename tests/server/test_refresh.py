"""A running server follows its registry: new bundles, promotions, damage, an unreadable store."""

import json
import shutil
import signal
import threading
from pathlib import Path

import grpc
import pytest
from server_bundles import make_bundle, plan_request, publish_bundle
from server_harness import RunningServer, ServerProcess, eventually, server_process

from shardwright.v1 import sharding_plan_service_pb2 as service_pb2
from shardwright_costmodel.errors import BundleError
from shardwright_costmodel.publishing import promote, roll_back
from shardwright_costmodel.registry import Registry
from shardwright_server.model_store import ModelLoader, load_models

LOOK = ("--refresh-seconds", "0.1")


def served_version(server: RunningServer) -> str:
    version: str = server.plan(plan_request()).cost_model.version
    return version


def versions(server: RunningServer) -> list[tuple[str, bool]]:
    listed = server.stub.ListCostModels(service_pb2.ListCostModelsRequest(), timeout=60)
    return [(m.cost_model.version, m.is_default) for m in listed.cost_models]


def serves(server: RunningServer, version: str) -> None:
    eventually(lambda: served_version(server) == version, lambda: f"{versions(server)}")


def test_the_promoted_version_is_the_default(tmp_path: Path) -> None:
    publish_bundle(tmp_path, "gpu", "v1", day=1)
    publish_bundle(tmp_path, "gpu", "v2", day=2)
    assert load_models(str(tmp_path))[0].resolve("gpu").id.version == "v2"
    promote(Registry(str(tmp_path)), "gpu", "v1", force=True)
    store, faults = load_models(str(tmp_path))
    assert store.resolve("gpu").id.version == "v1"
    assert [d.is_default for d in store.describe()] == [False, True]
    assert faults == ()


def test_a_server_follows_promotions_without_a_restart(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "bundles"))
    publish_bundle(tmp_path / "bundles", "test-gpu", "v1", day=1)
    with server_process(tmp_path / "log", "--bundles", registry.root_url, *LOOK) as (process, at):
        assert served_version(at) == "v1"
        promote(registry, "test-gpu", "v1")
        registry.publish(make_bundle("test-gpu", "v2", day=2))
        eventually(lambda: versions(at) == [("v2", False), ("v1", True)])
        assert served_version(at) == "v1", "newer, but not promoted"
        promote(registry, "test-gpu", "v2")
        serves(at, "v2")
        eventually(
            lambda: at.metric("shardwright_bundle_default", hardware="test-gpu", version="v2") == 1
        )
        assert 'shardwright_bundle_default{hardware="test-gpu",version="v1"}' not in at.scrape()
        roll_back(registry, "test-gpu")
        serves(at, "v1")
        (loaded,) = [e for e in process.events() if e.get("loaded")]
        assert loaded["event"] == "cost models changed" and loaded["loaded"] == ["test-gpu v2"]
        shutil.rmtree(tmp_path / "bundles" / "test-gpu" / "v2")
        eventually(lambda: versions(at) == [("v1", True)])
        assert 'version="v2"' not in at.scrape()


def test_sighup_has_it_look_at_once(tmp_path: Path) -> None:
    publish_bundle(tmp_path / "bundles", "test-gpu", "v1", day=1)
    flags = ("--bundles", str(tmp_path / "bundles"), "--refresh-seconds", "0")
    with server_process(tmp_path / "log", *flags) as (process, server):
        publish_bundle(tmp_path / "bundles", "test-gpu", "v2", day=2)
        assert served_version(server) == "v1"
        process.process.send_signal(signal.SIGHUP)
        serves(server, "v2")
        assert process.stop() == 0


def replace_text(path: Path, text: str) -> None:
    """All at once: a server that looks meanwhile never sees half of it."""
    new = path.parent.parent.parent / "new"
    new.write_text(text)
    new.replace(path)


def test_a_broken_promoted_json_changes_nothing_for_a_running_server(tmp_path: Path) -> None:
    root = tmp_path / "bundles"
    for version, day in (("v1", 1), ("v2", 2)):
        publish_bundle(root, "test-gpu", version, day)
    promote(Registry(str(root)), "test-gpu", "v1", force=True)
    promoted = root / "test-gpu" / "promoted.json"
    with server_process(tmp_path / "log", "--bundles", str(root), *LOOK) as (process, server):
        assert served_version(server) == "v1"
        sound = promoted.read_text()
        replace_text(promoted, "{")
        event = process.wait_for("promotion left out")
        assert event["fault"].startswith(f"{promoted}: is not JSON")
        eventually(lambda: server.metric("shardwright_bundles_left_out") == 1)
        assert served_version(server) == "v1"
        replace_text(promoted, sound.replace('"v1"', '"v9"'))
        told = "promoted is 'v9', which is not there or damaged"
        eventually(lambda: any(told in e.get("fault", "") for e in process.events()))
        assert served_version(server) == "v1"
        replace_text(promoted, sound)
        eventually(lambda: server.metric("shardwright_bundles_left_out") == 0)
        faults = [e for e in process.events() if e["event"] == "promotion left out"]
        assert len(faults) == 2, "each is logged once"


@pytest.mark.parametrize("content", ["{", "names a missing version", "names a damaged one"])
def test_a_server_that_starts_on_a_broken_promotion_serves_the_newest(
    tmp_path: Path, content: str
) -> None:
    for version, day in (("v1", 1), ("v2", 2)):
        publish_bundle(tmp_path, "gpu", version, day)
    registry = Registry(str(tmp_path))
    promote(registry, "gpu", "v1", force=True)
    promoted = tmp_path / "gpu" / "promoted.json"
    if content == "{":
        promoted.write_text(content)
    elif "missing" in content:
        promoted.write_text(promoted.read_text().replace('"v1"', '"v9"'))
    else:
        (tmp_path / "gpu" / "v1" / "compute_head.onnx").write_bytes(b"junk")
    store, faults = load_models(str(tmp_path))
    assert store.resolve("gpu").id.version == "v2"
    assert any("promoted" in fault for fault in faults)
    if "damaged" not in content:
        with pytest.raises(BundleError):
            registry.load("gpu")


def test_an_unreadable_registry_leaves_the_models_as_they_are(tmp_path: Path) -> None:
    root = tmp_path / "bundles"
    publish_bundle(root, "test-gpu", "v1")
    with server_process(tmp_path / "log", "--bundles", str(root), *LOOK) as (process, server):
        root.rename(tmp_path / "away")
        process.wait_for("registry not read")
        assert served_version(server) == "v1"
        assert server.metric("shardwright_registry_refresh_failures_total") >= 1
        (tmp_path / "away").rename(root)
        publish_bundle(root, "test-gpu", "v2", day=2)
        serves(server, "v2")
        assert process.stop() == 0


def test_what_is_loaded_is_kept_and_what_was_damaged_is_read_again(tmp_path: Path) -> None:
    publish_bundle(tmp_path, "gpu", "v1", day=1)
    graph = publish_bundle(tmp_path, "gpu", "v2", day=2) / "compute_head.onnx"
    content = graph.read_bytes()
    graph.write_bytes(content[:10])  # as when someone is still copying it here
    loader = ModelLoader(str(tmp_path))
    before, faults = loader.load()
    assert len(faults) == 1 and before.resolve("gpu").id.version == "v1"
    graph.write_bytes(content)
    after, faults = loader.load()
    assert faults == () and after.resolve("gpu").id.version == "v2"
    assert after.resolve("gpu", "v1") is before.resolve("gpu", "v1")


def test_no_rpc_fails_while_promotions_come_and_go(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "bundles"))
    for version, day in (("v1", 1), ("v2", 2)):
        publish_bundle(tmp_path / "bundles", "test-gpu", version, day)
    flags = ("--bundles", registry.root_url, "--refresh-seconds", "0.01")
    seen: set[tuple[str, str]] = set()
    faults: list[grpc.RpcError] = []
    done = threading.Event()
    with server_process(tmp_path / "log", *flags) as (_, server):

        def ask() -> None:
            while not done.is_set():
                try:
                    answer = server.plan(plan_request())
                except grpc.RpcError as error:
                    faults.append(error)
                else:
                    seen.add((answer.cost_model.version, answer.plan.fingerprint))

        thread = threading.Thread(target=ask)
        thread.start()
        for version in ("v1", "v2", "v1"):
            promote(registry, "test-gpu", version, force=True)
            serves(server, version)
        done.set()
        thread.join()
    assert not faults
    assert len(seen) == 2, "one plan for each version"


def test_a_process_that_is_stopped_while_it_looks_ends(tmp_path: Path) -> None:
    publish_bundle(tmp_path / "bundles", "test-gpu", "v1")
    flags = ("--bundles", str(tmp_path / "bundles"), "--refresh-seconds", "0.001")
    process = ServerProcess(tmp_path / "log", *flags)
    process.wait_for("serving")
    assert process.stop() == 0
    assert json.loads((tmp_path / "log").read_text().splitlines()[-1])["event"] == "stopped"
