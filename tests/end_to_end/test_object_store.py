"""From measurements to answers with only an object store in between: S3, over its protocol."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from end_to_end_processes import run, serving
from s3 import S3, use

from shardwright_costmodel.registry import Registry

HARDWARE = "nvidia-h100-sxm5-80gb"


@pytest.mark.end_to_end
def test_worker_trainer_registry_and_server_share_only_a_bucket(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, s3.environment)
    bucket = s3.make_bucket("shardwright")
    data, bundles = f"{bucket}/data", f"{bucket}/bundles"
    device = ("--device", f"roofline:{HARDWARE}", "--out", data)
    run("shardwright-worker", "compute", *device, "--samples", "80", "--part-size", "40")
    run("shardwright-worker", "comm", *device, "--samples", "40")

    quick = ("--epochs", "1", "--max-minutes", "0.02", "--json")
    trained = run("shardwright-train", "--data", data, "--out", bundles, "--version", "a", *quick)
    manifest = json.loads(trained.stdout)["manifest"]
    assert manifest["num_compute_measurements"] == 80
    assert manifest["fingerprint"] and manifest["sampling"]["seed"] == ["0"]
    monkeypatch.setenv("SHARDWRIGHT_BUNDLES", bundles)
    run("shardwright-registry", "publish", _downloaded(bundles, tmp_path), "--no-promote")

    listed = json.loads(run("shardwright-registry", "list", "--json").stdout)
    assert [(row["version"], row["is_promoted"]) for row in listed] == [("a", True), ("b", False)]
    assert run("shardwright-registry", "verify").stdout.count("sound") == 2

    monkeypatch.setenv("SHARDWRIGHT_REFRESH_SECONDS", "0.2")
    with serving(bundles, tmp_path / "log") as address:
        assert _default(address) == "a"
        run("shardwright-registry", "promote", HARDWARE, "b", "--why", "to see it served")
        deadline_s = time.monotonic() + 60
        while _default(address) != "b":
            assert time.monotonic() < deadline_s, (tmp_path / "log").read_text()
        run("shardwright-registry", "rollback", HARDWARE)
        while _default(address) != "a":
            assert time.monotonic() < deadline_s, (tmp_path / "log").read_text()


def _downloaded(bundles: str, folder: Path) -> Path:
    """Version a as a directory, and called b."""
    bundle = Registry(bundles).load(HARDWARE, "a")
    renamed = bundle.manifest.model_copy(update={"version": "b"})
    for name, content in bundle.graphs.items():
        (folder / name).write_bytes(content)
    (folder / "manifest.json").write_text(renamed.model_dump_json())
    return folder


def _default(address: str) -> str:
    """The version that a server answers by."""
    listed = json.loads(run("shardwright", "models", "--server", address, "--json").stdout)
    (version,) = [m["cost_model"]["version"] for m in listed["cost_models"] if m["is_default"]]
    return str(version)
