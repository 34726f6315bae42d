"""Registries in S3, over its real protocol: what works, and what is said when it does not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from s3 import S3, SECRET, use

from shardwright_costmodel import storage
from shardwright_costmodel.bundle import GRAPH_NAMES, Bundle
from shardwright_costmodel.errors import BundleError, DatasetError
from shardwright_costmodel.history import Action
from shardwright_costmodel.publishing import promote, publish, roll_back
from shardwright_costmodel.registry import Registry
from shardwright_costmodel.training.data import load
from shardwright_costmodel.verification import verify

Reversion = Callable[..., Bundle]
COMMAND = str(Path(sys.executable).parent / "shardwright-registry")
HARDWARE = "test-machine"


@pytest.fixture
def bucket(s3: S3, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A bucket of the test's own; this process has credentials for it."""
    use(monkeypatch, s3.environment)
    return s3.make_bucket(f"bucket-{abs(hash(request.node.name))}")


def test_a_registry_in_s3_does_what_one_on_a_disk_does(
    bucket: str, bundle: Bundle, reversion: Reversion
) -> None:
    registry = Registry(f"{bucket}/models")
    assert registry.list() == ()
    assert publish(registry, bundle).entry.url == f"{bucket}/models/{HARDWARE}/1"
    publish(registry, reversion(bundle, version="2"))
    assert registry.default_version(HARDWARE) == "2"
    assert roll_back(registry, HARDWARE) == "1"
    entries = registry.list()
    assert [entry.version for entry in entries] == ["1", "2"]
    assert [verify(registry, entry).fault for entry in entries] == ["", ""]
    assert registry.load(HARDWARE).graphs == bundle.graphs
    with pytest.raises(BundleError, match="already holds a bundle"):
        registry.publish(bundle)


def test_a_changed_object_is_found(bucket: str, s3: S3, bundle: Bundle) -> None:
    registry = Registry(bucket)
    publish(registry, bundle)
    client = boto3.client("s3", endpoint_url=s3.endpoint)
    name = bucket.removeprefix("s3://")
    client.put_object(Bucket=name, Key=f"{HARDWARE}/1/all_reduce.onnx", Body=b"junk")
    (entry,) = registry.list()
    assert "all_reduce.onnx: is damaged" in verify(registry, entry).fault
    with pytest.raises(BundleError, match=r"all_reduce\.onnx: is damaged"):
        registry.load(HARDWARE)


def test_objects_without_a_manifest_are_no_bundle(bucket: str, s3: S3, bundle: Bundle) -> None:
    client = boto3.client("s3", endpoint_url=s3.endpoint)
    name = bucket.removeprefix("s3://")
    for graph in GRAPH_NAMES[:3]:
        client.put_object(Bucket=name, Key=f"{HARDWARE}/1/{graph}", Body=b"half")
    registry = Registry(bucket)
    assert registry.list() == ()
    publish(registry, bundle)
    assert registry.load(HARDWARE).graphs == bundle.graphs


def test_promotions_at_once_lose_no_entry(bucket: str, bundle: Bundle) -> None:
    registry = Registry(bucket)
    publish(registry, bundle)

    def promote_often(version: str) -> None:
        for i in range(4):
            Registry(bucket).record_promotion(HARDWARE, version, Action.PROMOTE, str(i))

    threads = [threading.Thread(target=promote_often, args=(v,)) for v in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    promotions = registry.promotions(HARDWARE)
    assert promotions is not None
    written = [(entry.version, entry.why) for entry in promotions.history[1:]]
    assert sorted(written) == [(v, str(i)) for v in ("a", "b", "c") for i in range(4)]


# --- what is said when it does not work ---


def test_a_missing_bucket_is_named_and_not_made(
    s3: S3, monkeypatch: pytest.MonkeyPatch, bundle: Bundle
) -> None:
    use(monkeypatch, s3.environment)
    registry = Registry("s3://no-such-bucket/models")
    for refused in (registry.list, lambda: publish(registry, bundle)):
        with pytest.raises(BundleError, match="there is no bucket 'no-such-bucket'"):
            refused()
    with pytest.raises(DatasetError, match="there is no bucket 'no-such-bucket'"):
        load("s3://no-such-bucket/data")
    client = boto3.client("s3", endpoint_url=s3.endpoint)
    assert "no-such-bucket" not in [b["Name"] for b in client.list_buckets()["Buckets"]]


def test_missing_credentials_are_one_line_that_says_what_to_set(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, {"AWS_ENDPOINT_URL": s3.endpoint, "AWS_EC2_METADATA_DISABLED": "true"})
    with pytest.raises(BundleError) as raised:
        Registry("s3://bucket/models").list()
    assert str(raised.value) == (
        "s3://bucket/models: Unable to locate credentials; set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or a role of the machine"
    )
    with pytest.raises(DatasetError, match="Unable to locate credentials; set AWS_ACCESS_KEY_ID"):
        load("s3://bucket/data")


@pytest.mark.parametrize("command", ["list", "verify", "promote"])
def test_an_endpoint_that_is_down_is_one_line_without_secrets(s3: S3, command: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
    arguments = [command, *(["hw", "1"] if command == "promote" else [])]
    done = subprocess.run(
        [COMMAND, *arguments, "--bundles", "s3://bucket/models"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | s3.environment | {"AWS_ENDPOINT_URL": endpoint},
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: s3://bucket/models: Could not connect to the endpoint URL")
    assert SECRET not in line


@pytest.fixture
def silent_endpoint() -> Iterator[str]:
    """Takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_an_endpoint_that_never_answers_ends_in_an_error(
    s3: S3, silent_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, s3.environment | {"AWS_ENDPOINT_URL": silent_endpoint})
    monkeypatch.setattr(storage, "READ_TIMEOUT_S", 0.2)
    started_s = time.monotonic()
    with pytest.raises(BundleError, match="s3://bucket/models: Read timeout on endpoint URL"):
        Registry("s3://bucket/models").list()
    assert time.monotonic() - started_s < 30, "not the library's own minutes"


def test_the_time_limits_end_in_a_minute() -> None:
    tries = 5  # s3fs.core.S3FileSystem.retries
    import s3fs

    assert s3fs.S3FileSystem.retries == tries
    assert tries * storage.READ_TIMEOUT_S <= 60


def test_a_wrong_key_is_refused_without_showing_it(
    s3: S3, bucket: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Denied(PermissionError):
        pass

    import s3fs

    async def denied(*_: object, **__: object) -> None:
        raise Denied("Access Denied")

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", denied)
    with pytest.raises(BundleError, match="Access Denied") as raised:
        Registry(f"{bucket}/models").load(HARDWARE)
    assert SECRET not in str(raised.value)


def test_json_of_a_registry_in_s3(bucket: str, s3: S3, bundle: Bundle) -> None:
    publish(Registry(f"{bucket}/models"), bundle)
    done = subprocess.run(
        [COMMAND, "list", "--bundles", f"{bucket}/models", "--json"],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
        env=os.environ | s3.environment,
    )
    (row,) = json.loads(done.stdout)
    assert row["url"] == f"{bucket}/models/{HARDWARE}/1" and row["is_promoted"]


def test_a_promotion_in_s3_that_was_made_elsewhere_shows(
    bucket: str, bundle: Bundle, reversion: Reversion
) -> None:
    reader, writer = Registry(bucket), Registry(bucket)
    publish(writer, bundle)
    assert reader.default_version(HARDWARE) == "1"
    writer.publish(reversion(bundle, version="2"))
    promote(writer, HARDWARE, "2")
    assert reader.default_version(HARDWARE) == "2"
