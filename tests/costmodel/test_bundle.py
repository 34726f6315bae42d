"""Bundles are whole and unchanged, or an error says which file is wrong and how."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from shardwright.domain import CostModelSource
from shardwright_costmodel.bundle import (
    GRAPH_NAMES,
    Bundle,
    read_bundle,
    sha256,
    write_bundle,
)
from shardwright_costmodel.errors import BundleError


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    """The bundle on disk."""
    write_bundle(str(tmp_path / "bundle"), bundle)
    return tmp_path / "bundle"


def edit_manifest(folder: Path, **fields: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_bundle_reads_as_it_was_written(bundle: Bundle, folder: Path) -> None:
    read = read_bundle(str(folder))
    assert read.manifest == bundle.manifest
    assert read.graphs == bundle.graphs
    assert read.manifest.source is CostModelSource.MODELLED
    assert read.manifest.files == {name: sha256(bundle.graphs[name]) for name in GRAPH_NAMES}
    assert sorted(os.listdir(folder)) == sorted([*GRAPH_NAMES, "manifest.json"])


def test_a_bundle_goes_through_an_object_store_without_rename(bundle: Bundle) -> None:
    write_bundle("memory://store/hw/1", bundle)
    assert read_bundle("memory://store/hw/1").graphs == bundle.graphs
    with pytest.raises(BundleError, match="already holds a bundle"):
        write_bundle("memory://store/hw/1", bundle)


def test_a_missing_manifest_is_named(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(BundleError, match=r"bundle/manifest\.json: does not exist"):
        read_bundle(str(folder))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('{"name": "x', "is not JSON"),
        ("[]", "must be a JSON object, got list"),
        ("{}", "is of format version None; this software reads '2'"),
        ('{"format_version": "1"}', "train a bundle of this format from the same measurements"),
        ('{"format_version": "2", "name": "../x"}', "name: String should match pattern"),
    ],
)
def test_a_broken_manifest_is_named(folder: Path, content: str, fault: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(BundleError) as raised:
        read_bundle(str(folder))
    assert f"{folder}/manifest.json: " in str(raised.value)
    assert fault in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"source": "guessed"}, "source: Input should be 'measured' or 'modelled'"),
        ({"created_at": "2026-01-01T00:00:00"}, "created_at: Input should have timezone info"),
        ({"shard_columns": ["num_rows"]}, "use a bundle that was trained with this version"),
        ({"comm_columns": []}, "comm_columns are []"),
        ({"files": {}}, "files: has no entry for compute_encoder.onnx"),
        ({"files": {"../../secret": "0"}}, "String should match pattern"),
        ({"encoding_size": 0}, "encoding_size: Input should be greater than 0"),
    ],
)
def test_a_wrong_field_of_the_manifest_is_named(
    folder: Path, fields: dict[str, Any], fault: str
) -> None:
    edit_manifest(folder, **fields)
    with pytest.raises(BundleError) as raised:
        read_bundle(str(folder))
    assert f"{folder}/manifest.json: " in str(raised.value)
    assert fault in str(raised.value)


@pytest.mark.parametrize("name", GRAPH_NAMES)
def test_a_missing_graph_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"bundle/{name}: does not exist"):
        read_bundle(str(folder))


@pytest.mark.parametrize("damage", ["one bit", "cut off", "empty"])
def test_a_damaged_graph_is_named(folder: Path, damage: str) -> None:
    path = folder / "forward_comm.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"one bit": content, "cut off": content[:100], "empty": b""}[damage])
    with pytest.raises(BundleError, match=r"bundle/forward_comm\.onnx: is damaged: its sha256 is"):
        read_bundle(str(folder))


def test_an_existing_bundle_is_never_overwritten(bundle: Bundle, folder: Path) -> None:
    before = (folder / "manifest.json").stat().st_mtime_ns
    with pytest.raises(BundleError, match="never overwritten; choose another version"):
        write_bundle(str(folder), bundle)
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    assert os.listdir(folder.parent) == ["bundle"]


def test_a_url_of_an_unknown_kind_is_an_error(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="nonsense"):
        write_bundle("nonsense://bucket/bundle", bundle)
