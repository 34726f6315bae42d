"""`shardwright-registry` as people run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from shardwright_costmodel.bundle import Accuracy, Bundle
from shardwright_costmodel.publishing import publish
from shardwright_costmodel.registry import Registry

Reversion = Callable[..., Bundle]
COMMAND = str(Path(sys.executable).parent / "shardwright-registry")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | {"COLUMNS": "100"} | environment,
    )


def answer(*arguments: str) -> Any:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def root(bundle: Bundle, reversion: Reversion, tmp_path: Path) -> str:
    """Version 1 is promoted; 2 is newer and worse; 3 is newer still and as good."""
    registry = Registry(str(tmp_path / "models"))
    day, accuracy = timedelta(days=1), bundle.manifest.accuracy
    publish(registry, bundle)
    worse = tuple(a.model_copy(update={"mape_percent": a.mape_percent + 5}) for a in accuracy)
    created_at = bundle.manifest.created_at
    publish(registry, reversion(bundle, version="2", created_at=created_at + day, accuracy=worse))
    registry.publish(reversion(bundle, version="3", created_at=created_at + 2 * day))
    return registry.root_url


def test_list_marks_the_version_that_serves(root: str) -> None:
    done = run("list", "--bundles", root)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].strip() == "test-machine"
    (starred,) = [line for line in lines[1:-1] if line.startswith("*")]
    assert starred.split()[:3] == ["*", "1", "MODELLED"]
    assert {line.split()[0] for line in lines[2:-1] if line[0] == " "} == {"2", "3"}
    rows = answer("list", "test-machine", "--bundles", root)
    assert [(r["version"], r["is_default"], r["is_promoted"]) for r in rows] == [
        ("1", True, True),
        ("2", False, False),
        ("3", False, False),
    ]
    assert rows[0]["num_compute_measurements"] == 1500
    assert {a["quantity"] for a in rows[0]["accuracy"]} >= {"compute", "forward_comm"}
    assert answer("list", "--bundles", root) == rows


def test_a_bundle_that_cannot_be_read_is_listed_with_its_fault(root: str) -> None:
    (Path(root) / "test-machine" / "3" / "manifest.json").write_text("{")
    rows = answer("list", "--bundles", root)
    assert "3/manifest.json: is not JSON" in rows[2]["fault"]
    assert "3/manifest.json: is not JSON" in run("list", "--bundles", root).stdout


def test_show_says_what_a_bundle_is_and_how_it_came_to_serve(root: str) -> None:
    shown = run("show", "test-machine", "--bundles", root).stdout
    for text in ("version 1", "MODELLED", "1,500 operators", "compute", "Kendall tau", "promoted"):
        assert text in shown
    payload = answer("show", "test-machine", "2", "--bundles", root)
    assert payload["manifest"]["version"] == "2"
    assert payload["promotions"]["promoted"] == "1"


def test_verify_tells_sound_bundles_from_damaged_ones(root: str) -> None:
    assert [v["sound"] for v in answer("verify", "--bundles", root)] == [True] * 3
    graph = Path(root) / "test-machine" / "2" / "all_reduce.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    done = run("verify", "--bundles", root)
    assert done.returncode == 1
    assert "damaged  test-machine 2" in done.stdout and "all_reduce.onnx: is damaged" in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines() if line[0] != " "] == [
        "sound",
        "damaged",
        "sound",
    ]
    assert run("verify", "test-machine", "1", "--bundles", root).returncode == 0
    assert run("verify", "test-machine", "2", "--bundles", root).returncode == 1
    damaged = json.loads(run("verify", "test-machine", "--bundles", root, "--json").stdout)
    assert [v["sound"] for v in damaged] == [True, False, True]


def test_verify_sees_a_graph_that_cannot_be_run(root: str) -> None:
    from shardwright_costmodel.bundle import sha256

    folder = Path(root) / "test-machine" / "2"
    (folder / "compute_head.onnx").write_bytes(b"junk")
    payload = json.loads((folder / "manifest.json").read_text())
    payload["files"]["compute_head.onnx"] = sha256(b"junk")
    (folder / "manifest.json").write_text(json.dumps(payload))
    done = run("verify", "--bundles", root)
    assert done.returncode == 1
    assert "compute_head.onnx: ONNX Runtime cannot load it" in done.stdout


def test_promote_and_rollback_change_what_serves(root: str) -> None:
    done = run("promote", "test-machine", "3", "--bundles", root, "--why", "trained on more hosts")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("3 serves test-machine now")
    assert Registry(root).default_version("test-machine") == "3"
    assert "trained on more hosts" in run("show", "test-machine", "--bundles", root).stdout
    back = answer("rollback", "test-machine", "--bundles", root)
    assert back == {"hardware": "test-machine", "promoted": "1", "why": "rolled back from 3"}
    assert Registry(root).default_version("test-machine") == "1"


def test_a_worse_version_is_refused_with_status_3_and_its_numbers(root: str) -> None:
    done = run("promote", "test-machine", "2", "--bundles", root)
    assert (done.returncode, done.stdout) == (3, "")
    (line,) = done.stderr.splitlines()
    assert "test-machine 2 is not promoted over 1: compute MAPE" in line and "--force" in line
    assert Registry(root).default_version("test-machine") == "1"
    assert run("promote", "test-machine", "2", "--bundles", root, "--force").returncode == 0
    assert Registry(root).default_version("test-machine") == "2"


def test_publish_copies_a_bundle_from_one_registry_to_another(root: str, tmp_path: Path) -> None:
    source, target = f"{root}/test-machine/1/", str(tmp_path / "target")
    done = run("publish", source, SHARDWRIGHT_BUNDLES=target)
    assert done.returncode == 0, done.stderr
    assert f"published 1 at {target}/test-machine/1" in done.stdout
    again = run("publish", source, "--bundles", target)
    assert again.returncode == 2 and "already holds a bundle" in again.stderr
    worse = run("publish", f"{root}/test-machine/2", "--bundles", target, "--json")
    assert worse.returncode == 3
    payload = json.loads(worse.stdout)
    assert (payload["version"], payload["default_version"]) == ("2", "1")
    assert "compute MAPE" in payload["refusal"]
    kept = run("publish", f"{root}/test-machine/3", "--bundles", target, "--no-promote")
    assert kept.returncode == 0 and "not promoted: 1 goes on serving" in kept.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list", "h100"), "no cost model for hardware 'h100'; there are: test-machine"),
        (("show", "test-machine", "9"), "no version '9' of 'test-machine'; there are: 1, 2, 3"),
        (("verify", "test-machine", "9"), "no version '9'"),
        (("promote", "test-machine", "9"), "no version '9'"),
        (("rollback", "test-machine"), "nothing to roll back to"),
        (("publish", "/nowhere"), "/nowhere/manifest.json: does not exist"),
    ],
)
def test_a_mistake_is_one_line_with_status_2(
    root: str, arguments: tuple[str, ...], message: str
) -> None:
    done = run(*arguments, "--bundles", root)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and message in line


def test_an_unknown_driver_and_a_password_in_a_url_are_one_line_without_it() -> None:
    done = run("list", "--bundles", "floppy://me:hunter2@drive/models")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "floppy://***@drive/models" in line and "hunter2" not in line


def test_accuracy_of_the_json_is_that_of_the_manifest(root: str) -> None:
    (row, *_) = answer("list", "--bundles", root)
    manifest = Registry(root).load("test-machine", "1").manifest
    assert tuple(Accuracy(**a) for a in row["accuracy"]) == manifest.accuracy


def test_the_command_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['pyarrow'] = None\n"
        "sys.argv = ['shardwright-registry', 'verify']\n"
        "from shardwright_costmodel.registry_cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "sound" in done.stdout
