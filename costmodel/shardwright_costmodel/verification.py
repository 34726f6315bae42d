"""Whether a published bundle would serve: its files, its graphs, its predictions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shardwright.domain import REUSE_BINS
from shardwright_costmodel.bundle import Manifest
from shardwright_costmodel.errors import BundleError, CostModelError
from shardwright_costmodel.features import (
    ALL_REDUCE_COLUMNS,
    COMM_COLUMNS,
    SHARD_COLUMNS,
    FloatArray,
)
from shardwright_costmodel.registry import Registry, RegistryEntry
from shardwright_costmodel.runtime import OnnxCostModel

_NUM_ROWS = 256
_UNKNOWN_RANGE = (1.0, 1024.0)
"""Of a column whose range a manifest does not give."""


@dataclass(frozen=True)
class Verification:
    """What came of verifying one bundle.

    Attributes:
        entry: The bundle.
        fault: What is wrong with it; empty when it is sound.
    """

    entry: RegistryEntry
    fault: str = ""


def verify(registry: Registry, entry: RegistryEntry) -> Verification:
    """Verifies one bundle of a registry.

    Every file has the sha256 of the manifest, ONNX Runtime loads every graph with its ports, and
    predictions of inputs all over the training range are finite and not negative.
    """
    try:
        bundle = registry.load(entry.hardware, entry.version)
        check_predictions(OnnxCostModel.from_bundle(bundle), bundle.manifest, bundle.url)
    except CostModelError as error:
        return Verification(entry, str(error))
    return Verification(entry)


def check_predictions(model: OnnxCostModel, manifest: Manifest, place: str) -> None:
    """Requires finite predictions that are not negative, of random inputs in the training range.

    Raises:
        BundleError: Naming the quantity.
    """
    shards = _random_rows(manifest, "shard", SHARD_COLUMNS)
    devices = _random_rows(manifest, "comm", COMM_COLUMNS)
    jobs = _random_rows(manifest, "all_reduce", ALL_REDUCE_COLUMNS)
    encodings = model.encode(shards)
    # a device holds several shards: sums of encodings are what the head is asked for
    held = np.concatenate([encodings, np.cumsum(encodings[:32], axis=0)])
    for quantity, values in (
        ("encodings", encodings),
        ("compute_ms", model.compute_ms(held)),
        ("compute_floor_ms", model.compute_floor_ms(held)),
        ("forward_comm_ms", model.forward_comm_ms(devices)),
        ("forward_comm_floor_ms", model.forward_comm_floor_ms(devices)),
        ("backward_comm_ms", model.backward_comm_ms(devices)),
        ("backward_comm_floor_ms", model.backward_comm_floor_ms(devices)),
        ("all_reduce_ms", model.all_reduce_ms(jobs)),
    ):
        bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)).reshape(len(values), -1).all(1))
        if len(bad):
            raise BundleError(
                f"{place}: {quantity} of {len(bad)} of {len(values)} random inputs in the training "
                f"range are negative or not finite, such as {values[bad[0]]}"
            )


def _random_rows(manifest: Manifest, kind: str, columns: tuple[str, ...]) -> FloatArray:
    """`[256, columns] float32`, log-uniform in the training range, the same for every call."""
    draw = np.random.default_rng(0)
    rows = np.empty((_NUM_ROWS, len(columns)))
    for i, column in enumerate(columns):
        low, high = manifest.training_range.get(f"{kind}.{column}", _UNKNOWN_RANGE)
        logs = draw.uniform(np.log1p(max(0.0, low)), np.log1p(max(0.0, high)), _NUM_ROWS)
        rows[:, i] = np.clip(np.expm1(logs), low, high)
    if kind == "shard":
        rows[:, -REUSE_BINS:] = draw.dirichlet(np.ones(REUSE_BINS), _NUM_ROWS)
    return rows.astype(np.float32)
