"""What serves where no version is named: promoted, rolled back, never worse unasked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from shardwright.domain import CostModelSource
from shardwright_costmodel.bundle import Accuracy, Bundle, Manifest
from shardwright_costmodel.comparison import objections
from shardwright_costmodel.errors import BundleError, BundleNotFoundError, NotPromotedError
from shardwright_costmodel.publishing import promote, publish, roll_back
from shardwright_costmodel.registry import Registry

Reversion = Callable[..., Bundle]
HARDWARE = "test-machine"
DAY = timedelta(days=1)


def accuracy(quantity: str, mape_percent: float, kendall_tau: float = 0.99) -> Accuracy:
    return Accuracy(
        quantity=quantity,
        mape_percent=mape_percent,
        kendall_tau=kendall_tau,
        num_measurements=1000,
    )


def judged(mape_percent: float, tau: float = 0.99, suffix: str = "") -> tuple[Accuracy, ...]:
    quantities = ("compute", "forward_comm", "backward_comm", "all_reduce")
    return tuple(accuracy(quantity + suffix, mape_percent, tau) for quantity in quantities)


@pytest.fixture
def good(bundle: Bundle, reversion: Reversion) -> Bundle:
    """Version 1: MODELLED, 2 % off in everything."""
    return reversion(bundle, accuracy=judged(2.0))


@pytest.fixture
def worse(bundle: Bundle, reversion: Reversion) -> Bundle:
    """Version 2: newer, and 2.21 % off."""
    created_at = bundle.manifest.created_at + DAY
    return reversion(bundle, version="2", created_at=created_at, accuracy=judged(2.21))


def reasons(registry: Registry) -> list[tuple[str, str, str]]:
    promotions = registry.promotions(HARDWARE)
    assert promotions is not None
    return [(entry.version, entry.action.value, entry.why) for entry in promotions.history]


def manifest(bundle: Bundle, **fields: Any) -> Manifest:
    return bundle.manifest.model_copy(update={"version": "new", **fields})


# --- the default ---


def test_the_first_bundle_is_promoted(registry: Registry, good: Bundle) -> None:
    published = publish(registry, good)
    assert published.is_default and not published.refusal
    assert registry.load(HARDWARE).manifest.version == "1"
    ((version, action, why),) = reasons(registry)
    assert (version, action) == ("1", "promote")
    assert why.startswith("MODELLED; held-out MAPE: compute 2.00 %, forward_comm 2.00 %")


def test_a_better_bundle_takes_over_and_the_history_says_by_what_numbers(
    registry: Registry, good: Bundle, reversion: Reversion
) -> None:
    publish(registry, good)
    published = publish(registry, reversion(good, version="2", accuracy=judged(1.5)))
    assert published.is_default
    assert registry.default_version(HARDWARE) == "2"
    assert "compute 1.50 % (was 2.00 %)" in reasons(registry)[1][2]


def test_a_worse_bundle_is_published_and_does_not_serve(
    registry: Registry, good: Bundle, worse: Bundle
) -> None:
    publish(registry, good)
    published = publish(registry, worse)
    assert not published.is_default
    assert published.refusal.startswith(
        "test-machine 2 is not promoted over 1: compute MAPE 2.21 % against 2.00 %, more than the "
        "2.20 % allowed; forward_comm MAPE"
    )
    assert published.refusal.endswith("--force promotes it all the same")
    assert [entry.version for entry in registry.list()] == ["1", "2"]
    assert registry.default_version(HARDWARE) == "1"
    with pytest.raises(NotPromotedError, match=r"2\.21 % against 2\.00 %"):
        promote(registry, HARDWARE, "2")


def test_a_worse_bundle_serves_when_forced_and_the_history_keeps_the_objections(
    registry: Registry, good: Bundle, worse: Bundle
) -> None:
    publish(registry, good)
    assert publish(registry, worse, force=True).is_default
    assert registry.default_version(HARDWARE) == "2"
    assert "(forced: compute MAPE 2.21 % against 2.00 %" in reasons(registry)[-1][2]


def test_where_nothing_was_promoted_the_newest_goes_on_serving_until_another_passes(
    registry: Registry, good: Bundle, worse: Bundle
) -> None:
    registry.publish(good)
    assert not publish(registry, worse).is_default
    assert registry.default_version(HARDWARE) == "1"
    assert reasons(registry) == [("1", "promote", "the newest when promotions began")]


def test_a_bundle_that_is_not_to_be_promoted_changes_nothing(
    registry: Registry, good: Bundle, reversion: Reversion
) -> None:
    assert publish(registry, good, promote_it=False).is_default, "there is no other"
    assert registry.promotions(HARDWARE) is None
    better = reversion(
        good,
        version="2",
        accuracy=judged(1.0),
        created_at=good.manifest.created_at + DAY,
    )
    published = publish(registry, better, promote_it=False)
    assert published.default_version == registry.default_version(HARDWARE) == "1"
    assert not published.refusal


def test_profiles_are_promoted_apart(
    registry: Registry, good: Bundle, worse: Bundle, reversion: Reversion
) -> None:
    publish(registry, good)
    assert publish(registry, reversion(worse, hardware="another")).is_default
    assert registry.default_version(HARDWARE) == "1"


# --- rolling back ---


def test_rolling_back_goes_one_promotion_further_each_time(
    registry: Registry, good: Bundle, reversion: Reversion
) -> None:
    for version in ("1", "2", "3"):
        publish(registry, reversion(good, version=version))
    assert roll_back(registry, HARDWARE, why="plans got slower") == "2"
    assert registry.default_version(HARDWARE) == "2"
    assert roll_back(registry, HARDWARE) == "1"
    promote(registry, HARDWARE, "3", why="it was the network")
    assert roll_back(registry, HARDWARE) == "1"
    assert reasons(registry)[3:] == [
        ("2", "roll_back", "plans got slower"),
        ("1", "roll_back", "rolled back from 2"),
        ("3", "promote", "it was the network"),
        ("1", "roll_back", "rolled back from 3"),
    ]
    with pytest.raises(BundleNotFoundError, match=r"before \(only 1 was\): .*nothing to roll back"):
        roll_back(registry, HARDWARE)


def test_without_a_promotion_there_is_nothing_to_roll_back_to(
    registry: Registry, good: Bundle
) -> None:
    with pytest.raises(BundleNotFoundError, match="no cost model for hardware 'test-machine'"):
        roll_back(registry, HARDWARE)
    registry.publish(good)
    with pytest.raises(BundleNotFoundError, match="nothing is promoted"):
        roll_back(registry, HARDWARE)


def test_a_version_that_is_gone_or_damaged_is_not_rolled_back_to(
    registry: Registry, good: Bundle, reversion: Reversion
) -> None:
    publish(registry, good)
    publish(registry, reversion(good, version="2"))
    graph = Path(registry.root_url) / HARDWARE / "1" / "compute_head.onnx"
    graph.write_bytes(b"")
    with pytest.raises(BundleError, match=r"compute_head\.onnx: is damaged"):
        roll_back(registry, HARDWARE)
    assert registry.default_version(HARDWARE) == "2"
    with pytest.raises(BundleError, match=r"compute_head\.onnx: is damaged"):
        promote(registry, HARDWARE, "1", force=True)


# --- the rule ---


def test_an_error_may_grow_by_a_tenth_or_by_a_fifth_of_a_point(bundle: Bundle) -> None:
    for was, limit in ((0.5, 0.7), (10.0, 11.0)):
        old = manifest(bundle, version="old", accuracy=judged(was))
        assert objections(manifest(bundle, accuracy=judged(limit)), old) == ()
        assert len(objections(manifest(bundle, accuracy=judged(limit + 0.01)), old)) == 4


@pytest.mark.parametrize("quantity", ["compute", "forward_comm", "backward_comm", "all_reduce"])
def test_every_quantity_counts(bundle: Bundle, quantity: str) -> None:
    old = manifest(bundle, version="old", accuracy=judged(1.0))
    others = tuple(a for a in judged(1.0) if a.quantity != quantity)
    (objection,) = objections(manifest(bundle, accuracy=(*others, accuracy(quantity, 3.0))), old)
    assert objection.startswith(f"{quantity} MAPE 3.00 % against 1.00 %")
    (objection,) = objections(manifest(bundle, accuracy=others), old)
    assert objection == f"its {quantity} was never judged, that of old was"
    nan = accuracy(quantity, float("nan"))
    assert objections(manifest(bundle, accuracy=(*others, nan)), old)


def test_a_worse_order_counts(bundle: Bundle) -> None:
    old = manifest(bundle, version="old", accuracy=judged(1.0, 0.99))
    assert objections(manifest(bundle, accuracy=judged(1.0, 0.981)), old) == ()
    assert (
        "tau 0.9700 against 0.9900"
        in objections(manifest(bundle, accuracy=judged(1.0, 0.97)), old)[0]
    )


def test_the_order_of_a_few_values_does_not_count(bundle: Bundle) -> None:
    few = tuple(a.model_copy(update={"num_measurements": 20}) for a in judged(1.0, 0.8))
    old = manifest(bundle, version="old", accuracy=judged(1.0, 0.99))
    assert objections(manifest(bundle, accuracy=few), old) == ()


def test_unseen_data_is_compared_where_both_were_judged_on_it(bundle: Bundle) -> None:
    old = manifest(bundle, version="old", accuracy=judged(1.0) + judged(1.0, suffix="_unseen"))
    assert objections(manifest(bundle, accuracy=judged(1.0)), old) == ()
    new = manifest(bundle, accuracy=judged(1.0) + judged(2.0, suffix="_unseen"))
    assert objections(new, old)[0].startswith("compute_unseen MAPE 2.00 %")


def test_a_bundle_of_narrower_data_is_not_comparable(bundle: Bundle) -> None:
    ranges = bundle.manifest.training_range
    old = manifest(bundle, version="old")
    assert objections(manifest(bundle), old) == ()
    narrow = ranges | {"comm.world_size": (2.0, 3.0)}
    (objection,) = objections(manifest(bundle, training_range=narrow), old)
    assert objection.startswith("trained on comm.world_size of 2 to 3, old on 2 to ")
    assert objections(old, manifest(bundle, training_range=narrow)) == ()


def test_modelled_costs_never_replace_measured_ones_but_measured_ones_modelled(
    bundle: Bundle,
) -> None:
    modelled = manifest(bundle, accuracy=judged(0.1))
    measured = manifest(
        bundle, version="old", source=CostModelSource.MEASURED, accuracy=judged(30.0)
    )
    assert objections(modelled, measured) == ("it is MODELLED, old is MEASURED",)
    assert objections(measured, modelled) == ()


def test_a_bundle_that_predicts_nonsense_is_not_published(
    registry: Registry, good: Bundle, reversion: Reversion
) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(good.graphs["all_reduce.onnx"])
    for weights in model.graph.initializer:
        values = numpy_helper.to_array(weights)
        if values.dtype.kind == "f":
            weights.CopyFrom(numpy_helper.from_array(values * float("nan"), weights.name))
    spoilt = Bundle(good.manifest, {**good.graphs, "all_reduce.onnx": model.SerializeToString()})
    with pytest.raises(BundleError, match="all_reduce_ms of .* random inputs .* not finite"):
        publish(registry, spoilt)
    assert registry.list() == ()


# --- promoted.json ---


BROKEN = {
    "not JSON": ("{", "is not JSON"),
    "half of it": ('{"format_version": "1", "promoted": "1"', "is not JSON"),
    "no object": ("[]", "Input should be a valid dictionary"),
    "no history": ('{"promoted": "1", "history": []}', "its history leads to []"),
    "another path": ('{"promoted": "../x", "history": []}', "promoted: String should match"),
    "of the future": ('{"format_version": "9", "promoted": "1", "history": []}', "format_version"),
}


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_promoted_json_is_an_error_that_names_it(
    registry: Registry, good: Bundle, content: str
) -> None:
    publish(registry, good)
    path = Path(registry.root_url) / HARDWARE / "promoted.json"
    text, fault = BROKEN[content]
    path.write_text(text)
    for refused in (
        lambda: registry.default_version(HARDWARE),
        lambda: registry.load(HARDWARE),
        lambda: promote(registry, HARDWARE, "1"),
        lambda: roll_back(registry, HARDWARE),
        lambda: publish(registry, good),
    ):
        with pytest.raises(BundleError) as raised:
            refused()
        assert str(raised.value).startswith(f"{path}: ") and fault in str(raised.value)
    assert path.read_text() == text
    assert registry.load(HARDWARE, "1").manifest.version == "1", "by name it can still be had"
    promote(registry, HARDWARE, "1", force=True)
    assert registry.default_version(HARDWARE) == "1"


def test_a_promoted_version_that_is_gone_is_an_error_that_lists_the_others(
    registry: Registry, good: Bundle, reversion: Reversion
) -> None:
    publish(registry, good)
    publish(registry, reversion(good, version="2"))
    (Path(registry.root_url) / HARDWARE / "2").rename(Path(registry.root_url) / "away")
    with pytest.raises(BundleError, match=r"promoted is '2', which is not there; there are: 1\."):
        registry.load(HARDWARE)
    promote(registry, HARDWARE, "1", force=True)
    assert registry.load(HARDWARE).manifest.version == "1"
    assert len(reasons(registry)) == 3, "the history goes on"


PROMOTE_OFTEN = """
import sys
from shardwright_costmodel.history import Action
from shardwright_costmodel.registry import Registry
for i in range(25):
    Registry(sys.argv[1]).record_promotion("test-machine", sys.argv[2], Action.PROMOTE, str(i))
"""


def test_processes_that_promote_at_once_lose_no_entry(registry: Registry, good: Bundle) -> None:
    publish(registry, good)
    processes = [
        subprocess.Popen([sys.executable, "-c", PROMOTE_OFTEN, registry.root_url, version])
        for version in ("a", "b", "c")
    ]
    path = Path(registry.root_url) / HARDWARE / "promoted.json"
    while any(process.poll() is None for process in processes):
        json.loads(path.read_text())  # whole at any moment
    assert [process.returncode for process in processes] == [0, 0, 0]
    written = reasons(registry)[1:]
    assert len(written) == 75
    for version in ("a", "b", "c"):
        mine = [why for v, _, why in written if v == version]
        assert mine == [str(i) for i in range(25)]


def test_promoted_json_is_no_version(registry: Registry, good: Bundle) -> None:
    with pytest.raises(BundleError, match="is the place of another file"):
        registry.publish(Bundle(manifest(good, version="promoted.json"), good.graphs))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A registry that does not exist yet."""
    return Registry(str(tmp_path / "registry"))
