"""The store of cost models: defaults, damaged bundles, use by several threads at once."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from server_bundles import make_bundle, plan_request, publish_bundle
from server_harness import serving

from shardwright_costmodel.errors import BundleNotFoundError
from shardwright_costmodel.features import COMM_COLUMNS, SHARD_COLUMNS
from shardwright_costmodel.registry import Registry
from shardwright_costmodel.runtime import OnnxCostModel
from shardwright_server.errors import StartupError
from shardwright_server.model_store import ModelStore, load_models


def test_the_newest_version_is_the_default_whatever_its_name() -> None:
    models = [
        OnnxCostModel(make_bundle("gpu", "zz", day=1)),
        OnnxCostModel(make_bundle("gpu", "aa", day=3)),
        OnnxCostModel(make_bundle("gpu", "mm", day=2)),
    ]
    store = ModelStore(models)
    assert store.resolve("gpu").id.version == "aa"
    assert store.resolve("gpu", "zz").id.version == "zz"
    assert [d.cost_model.version for d in store.describe()] == ["aa", "mm", "zz"]
    assert [d.is_default for d in store.describe()] == [True, False, False]


def test_the_default_is_that_of_the_registry(tmp_path: Path) -> None:
    for version, day in (("v1", 5), ("v2", 4), ("v3", 5)):
        publish_bundle(tmp_path, "gpu", version, day)
    store, _ = load_models(str(tmp_path))
    assert store.resolve("gpu").id.version == Registry(str(tmp_path)).default_version("gpu")


def test_what_is_not_there_is_answered_with_what_there_is() -> None:
    store = ModelStore([OnnxCostModel(make_bundle("gpu", "v1"))])
    with pytest.raises(BundleNotFoundError, match="hardware 'cpu'; there are: gpu"):
        store.resolve("cpu")
    with pytest.raises(BundleNotFoundError, match="version 'v2' .*'gpu'; there are: v1"):
        store.resolve("gpu", "v2")


DAMAGE = {
    "graph of other bytes": lambda b: (b / "compute_head.onnx").write_bytes(b"junk"),
    "graph missing": lambda b: (b / "forward_comm.onnx").unlink(),
    "manifest not JSON": lambda b: (b / "manifest.json").write_text("{"),
    "format of the future": lambda b: (b / "manifest.json").write_text(
        json.dumps(json.loads((b / "manifest.json").read_text()) | {"format_version": "99"})
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_bundle_is_left_out_by_name_and_the_others_serve(
    tmp_path: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    publish_bundle(tmp_path, "good-gpu", "v1")
    bad = publish_bundle(tmp_path, "bad-gpu", "v1")
    DAMAGE[damage](bad)
    store, faults = load_models(str(tmp_path))
    assert [d.cost_model.hardware for d in store.describe()] == ["good-gpu"]
    (fault,) = faults
    assert fault.startswith(str(bad)), "names the file"
    assert fault in "".join(capfd.readouterr())
    with serving(tmp_path) as server:
        assert server.plan(plan_request(hardware="good-gpu")).cost_ms > 0
        assert server.metric("shardwright_bundles_left_out") == 1


def test_a_damaged_newest_version_leaves_the_older_one_as_default(tmp_path: Path) -> None:
    publish_bundle(tmp_path, "gpu", "v1", day=1)
    newest = publish_bundle(tmp_path, "gpu", "v2", day=2)
    (newest / "compute_encoder.onnx").write_bytes(b"")
    store, _ = load_models(str(tmp_path))
    assert store.resolve("gpu").id.version == "v1"


def test_without_any_readable_bundle_there_is_no_server(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="no readable bundle under .*found none"):
        load_models(str(tmp_path))
    bad = publish_bundle(tmp_path, "bad-gpu", "v1")
    (bad / "compute_head.onnx").write_bytes(b"junk")
    with pytest.raises(StartupError, match="found 1 damaged .*compute_head.onnx"):
        load_models(str(tmp_path))


def test_an_unknown_kind_of_url_is_told_in_words() -> None:
    with pytest.raises(StartupError, match="cannot list the bundles: floppy://a"):
        load_models("floppy://a")


def test_threads_that_share_a_model_get_the_numbers_of_one_thread() -> None:
    shipped = Registry()
    model = OnnxCostModel.from_bundle(shipped.load(shipped.list()[0].hardware))
    draw = np.random.default_rng(0)
    batches = [
        (
            draw.random((rows, len(SHARD_COLUMNS)), dtype=np.float32),
            draw.random((rows, len(COMM_COLUMNS)), dtype=np.float32),
        )
        for rows in draw.integers(1, 300, size=200)
    ]

    def ask(batch: tuple[np.ndarray, np.ndarray]) -> list[bytes]:
        shards, comm = batch
        encodings = model.encode(shards)
        return [
            encodings.tobytes(),
            model.compute_ms(encodings).tobytes(),
            model.forward_comm_ms(comm).tobytes(),
            model.backward_comm_ms(comm).tobytes(),
        ]

    alone = [ask(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, batches))
    assert together == alone
