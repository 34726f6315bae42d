"""A registry lists, serves and publishes bundles; one bad bundle does not hide the others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from shardwright_costmodel.bundle import GRAPH_NAMES, Bundle
from shardwright_costmodel.errors import BundleError, BundleNotFoundError
from shardwright_costmodel.registry import Registry
from shardwright_costmodel.runtime import OnnxCostModel

Reversion = Callable[..., Bundle]
DAY = timedelta(days=1)


def test_published_bundles_are_listed_by_hardware_and_version(
    published: Registry, bundle: Bundle, reversion: Reversion
) -> None:
    published.publish(reversion(bundle, version="0"))
    entry = published.publish(reversion(bundle, hardware="another-machine", version="9"))
    assert entry.url == f"{published.root_url}/another-machine/9"
    assert [(e.hardware, e.version) for e in published.list()] == [
        ("another-machine", "9"),
        ("test-machine", "0"),
        ("test-machine", "1"),
    ]
    loaded = published.load("another-machine", "9")
    assert loaded.graphs == bundle.graphs
    assert loaded.url == entry.url


def test_a_registry_that_does_not_exist_yet_is_empty(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "none"))
    assert registry.list() == ()
    with pytest.raises(BundleNotFoundError, match=r"'h100'; there are: none"):
        registry.load("h100")


def test_the_default_is_the_newest(
    published: Registry, bundle: Bundle, reversion: Reversion
) -> None:
    created_at = bundle.manifest.created_at
    published.publish(reversion(bundle, version="zz-older", created_at=created_at - DAY))
    assert published.load("test-machine").manifest.version == "1"
    published.publish(reversion(bundle, version="0-newer", created_at=created_at + DAY))
    assert published.load("test-machine").manifest.version == "0-newer"
    published.publish(reversion(bundle, version="0-newer-b", created_at=created_at + DAY))
    assert published.default_version("test-machine") == "0-newer-b"


@pytest.mark.parametrize("hardware", ["h100", "../registry/test-machine", "", "*"])
def test_an_unknown_profile_lists_those_there_are(published: Registry, hardware: str) -> None:
    with pytest.raises(BundleNotFoundError, match=r"there are: test-machine$"):
        published.load(hardware)


@pytest.mark.parametrize("version", ["2", "../test-machine/1", "*", "."])
def test_an_unknown_version_lists_those_there_are(published: Registry, version: str) -> None:
    with pytest.raises(BundleNotFoundError, match=r"of 'test-machine'; there are: 1$"):
        published.load("test-machine", version)


def test_a_broken_bundle_does_not_hide_the_others(
    published: Registry, bundle: Bundle, reversion: Reversion, caplog: pytest.LogCaptureFixture
) -> None:
    newer = reversion(bundle, version="2", created_at=bundle.manifest.created_at + DAY)
    broken = Path(published.publish(newer).url)
    (broken / "manifest.json").write_text("{")
    assert [e.version for e in published.list()] == ["1", "2"]
    with pytest.raises(BundleError, match=r"2/manifest\.json: is not JSON"):
        published.load("test-machine", "2")
    with caplog.at_level(logging.WARNING):
        assert published.load("test-machine").manifest.version == "1"
    assert f"{broken}/manifest.json" in caplog.text


def test_a_damaged_default_is_an_error_not_an_older_answer(
    published: Registry, bundle: Bundle, reversion: Reversion
) -> None:
    newer = reversion(bundle, version="2", created_at=bundle.manifest.created_at + DAY)
    (Path(published.publish(newer).url) / GRAPH_NAMES[0]).write_bytes(b"")
    with pytest.raises(BundleError, match=r"2/compute_encoder\.onnx: is damaged"):
        published.load("test-machine")


def test_a_version_without_a_manifest_is_not_listed(published: Registry) -> None:
    half = Path(published.root_url) / "test-machine" / "2"
    half.mkdir()
    (half / GRAPH_NAMES[0]).write_bytes(b"x")
    hidden = Path(published.root_url) / "test-machine" / ".3.abc.tmp"
    hidden.mkdir()
    (hidden / "manifest.json").write_text("{}")
    assert [e.version for e in published.list()] == ["1"]


def test_a_bundle_in_the_wrong_place_is_refused(published: Registry) -> None:
    root = Path(published.root_url)
    (root / "test-machine").rename(root / "h100")
    with pytest.raises(BundleError, match=r"says it is test-machine 1, .* place of h100 1"):
        published.load("h100", "1")


def test_a_version_is_published_once(published: Registry, bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="test-machine/1: already holds a bundle"):
        published.publish(bundle)


def test_a_publication_of_another_process_shows_up(
    published: Registry, bundle: Bundle, reversion: Reversion
) -> None:
    reader = Registry(published.root_url)
    assert len(reader.list()) == 1
    published.publish(reversion(bundle, version="2"))
    assert len(reader.list()) == 2


def test_registries_live_in_object_stores_too(bundle: Bundle) -> None:
    registry = Registry("memory://bucket/models")
    registry.publish(bundle)
    assert [(e.hardware, e.version) for e in registry.list()] == [("test-machine", "1")]
    assert registry.load("test-machine").graphs == bundle.graphs


@pytest.mark.parametrize("hardware", ["nvidia-h100-sxm5-80gb", "nvidia-a100-sxm4-80gb"])
def test_the_package_ships_accurate_modelled_gpus_under_a_megabyte(hardware: str) -> None:
    (entry,) = [e for e in Registry().list() if e.hardware == hardware]
    bundle = Registry().load(hardware, entry.version)
    assert bundle.manifest.source.value == "modelled"
    assert sum(map(len, bundle.graphs.values())) < 2**20
    accuracy = {a.quantity: a for a in bundle.manifest.accuracy}
    for quantity, most_percent in (
        *(("compute", 0.4), ("forward_comm", 2.0), ("backward_comm", 2.0)),
        *(("compute_unseen", 0.4), ("forward_comm_unseen", 4.0), ("backward_comm_unseen", 4.0)),
    ):
        assert accuracy[quantity].mape_percent <= most_percent, quantity
        assert accuracy[quantity].kendall_tau >= 0.985, quantity
    OnnxCostModel.from_bundle(bundle)


def test_the_package_ships_a_measured_cpu() -> None:
    bundle = Registry().load("amd-epyc-milan-1core")
    assert bundle.manifest.source.value == "measured"
    assert bundle.manifest.fingerprint["backend"] == ("gloo",)
    accuracy = {a.quantity: a for a in bundle.manifest.accuracy}
    assert accuracy["compute"].kendall_tau > 0.9
    OnnxCostModel.from_bundle(bundle)
