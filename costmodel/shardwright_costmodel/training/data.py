"""From Parquet parts to arrays, with every check that a dataset must pass before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shardwright.domain import CostModelSource
from shardwright_costmodel.dataset import Kind, Part, PartMetadata, list_parts, read_dataset
from shardwright_costmodel.errors import DatasetError
from shardwright_costmodel.storage import translated
from shardwright_costmodel.training.measurements import (
    Measurements,
    all_reduce_measurements,
    comm_measurements,
    compute_measurements,
    unusable_operators,
)
from shardwright_costmodel.training.provenance import DistinctValues

MIN_COMPUTE_ROWS = 40
MIN_COMM_ROWS = 20
"""All-to-alls of two devices or more; each gives one value per device and direction."""
MIN_ALL_REDUCE_ROWS = 20
"""All-reduces of two devices or more."""


_COMMANDS = {Kind.COMPUTE: "compute", Kind.COMM: "comm", Kind.ALL_REDUCE: "comm"}
"""Of the benchmark worker, by what it measures and training needs."""


@dataclass(frozen=True)
class TrainingData:
    """A checked dataset.

    Attributes:
        hardware: Hardware profile of every part.
        source: Whether the numbers were measured or modelled.
        compute: Fused operators.
        comm: All-to-alls of two devices or more; forward times are transfers without waiting.
        all_reduce: All-reduces of two devices or more.
        software: Versions that measured, by package.
        reduce_scatter: Reduce-scatters of two devices or more, where there are any; no model is
            trained on them.
        left_out: Operators that are of no use to training, by reason: `infeasible`, or their
            placement where it is not the device's own memory.
        fingerprint: What measured: the distinct values of each fact over all parts.
        sampling: How the rows were drawn, likewise.
    """

    hardware: str
    source: CostModelSource
    compute: Measurements
    comm: Measurements
    all_reduce: Measurements
    software: dict[str, str]
    reduce_scatter: Measurements | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    fingerprint: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sampling: dict[str, tuple[str, ...]] = field(default_factory=dict)


def load(root_url: str) -> TrainingData:
    """Reads and checks a dataset.

    Raises:
        DatasetError: Naming the file, and the column and row where there is one.
    """
    _require_parts(root_url)
    provenance = _Provenance()
    left_out: Counter[str] = Counter()

    def usable_operators(part: Part) -> Measurements:
        left_out.update(unusable_operators(part))
        return compute_measurements(part)

    compute = _concatenate(root_url, Kind.COMPUTE, MIN_COMPUTE_ROWS, usable_operators, provenance)
    comm = _concatenate(root_url, Kind.COMM, MIN_COMM_ROWS, comm_measurements, provenance)
    all_reduce = _concatenate(
        root_url, Kind.ALL_REDUCE, MIN_ALL_REDUCE_ROWS, all_reduce_measurements, provenance
    )
    reduce_scatter = None
    if list_parts(root_url, Kind.REDUCE_SCATTER):
        reduce_scatter = _concatenate(
            root_url, Kind.REDUCE_SCATTER, 1, all_reduce_measurements, provenance
        )
    first = provenance.first
    assert first is not None, "parts were read"
    return TrainingData(
        hardware=first.hardware,
        source=CostModelSource(first.source),
        compute=compute,
        comm=comm,
        all_reduce=all_reduce,
        software=dict(first.software),
        reduce_scatter=reduce_scatter,
        left_out=dict(left_out),
        fingerprint=provenance.fingerprint.summary(),
        sampling=provenance.sampling.summary(),
    )


def load_like(root_url: str, other: TrainingData) -> TrainingData:
    """Reads and checks a dataset of the same hardware and source as another.

    Raises:
        DatasetError: As `load`, and when it is of another kind.
    """
    data = load(root_url)
    if (data.hardware, data.source) != (other.hardware, other.source):
        raise DatasetError(
            f"{root_url}: is of {data.hardware} ({data.source.value}), but the training data is of "
            f"{other.hardware} ({other.source.value})"
        )
    return data


def _require_parts(root_url: str) -> None:
    for kind in _COMMANDS:
        with translated(root_url, DatasetError):
            parts = list_parts(root_url, kind)
        if not parts:
            raise DatasetError(
                f"{root_url}/{kind.value}: holds no *.parquet part; measure some with "
                f"'shardwright-worker {_COMMANDS[kind]}', or write your own (costmodel/README.md)"
            )


class _Provenance:
    """Holds every part to the hardware and source of the first."""

    def __init__(self) -> None:
        self.first: PartMetadata | None = None
        self._url = ""
        self.fingerprint = DistinctValues()
        self.sampling = DistinctValues()

    def check(self, part: Part) -> None:
        sources = [source.value for source in CostModelSource]
        if part.metadata.source not in sources:
            raise DatasetError(
                f"{part.url}: source must be one of {sources}, got {part.metadata.source!r}"
            )
        if self.first is None:
            self.first, self._url = part.metadata, part.url
        for name in ("hardware", "source"):
            mine, theirs = getattr(part.metadata, name), getattr(self.first, name)
            if mine != theirs:
                raise DatasetError(
                    f"{part.url}: {name} is {mine!r}, but {self._url} has {theirs!r}; "
                    "train each from a dataset of its own"
                )
        self.fingerprint.add(part.metadata.fingerprint)
        self.sampling.add(part.metadata.sampling)


def _concatenate(
    root_url: str,
    kind: Kind,
    minimum: int,
    convert: Callable[[Part], Measurements],
    provenance: _Provenance,
) -> Measurements:
    pieces = []
    for part in read_dataset(root_url, kind):
        provenance.check(part)
        if part.table.num_rows:
            pieces.append(convert(part))
    total = sum(len(piece) for piece in pieces)
    if total < minimum:
        raise DatasetError(
            f"{root_url}/{kind.value}: has {total} usable rows, training needs at least {minimum}"
        )
    return Measurements(
        np.concatenate([piece.features for piece in pieces]),
        np.concatenate([piece.counts for piece in pieces]),
        np.concatenate([piece.times_ms for piece in pieces]),
    )


@dataclass(frozen=True)
class Split:
    """Groups for training, for early stopping, and held out for the accuracy in the manifest."""

    training: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.int64]


def split_by_combination(data: Measurements, seed: int) -> Split:
    """Draws 80 %, 10 % and 10 % of the distinct combinations.

    All measurements of one combination (the same tables with the same batch size and optimizer, or
    the same dims on the same job) fall on the same side, so that none is held out only in part.
    """
    # a sum of well-mixed 64-bit words does not depend on the order within a combination
    words = data.features.view(np.uint32).astype(np.uint64)
    with np.errstate(over="ignore"):
        weights = np.random.default_rng(0).integers(1, 2**63, words.shape[1], dtype=np.uint64)
        mixed = (words * (weights * np.uint64(2) + np.uint64(1))).sum(axis=1, dtype=np.uint64)
        mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(32)
        keys = np.add.reduceat(mixed, np.cumsum(data.counts) - data.counts)
    _, combination = np.unique(keys, return_inverse=True)
    num_combinations = int(combination.max()) + 1
    place = np.random.default_rng(seed).permutation(num_combinations)[combination]
    tenth = max(1, num_combinations // 10)
    return Split(
        training=np.flatnonzero(place >= 2 * tenth),
        validation=np.flatnonzero((place >= tenth) & (place < 2 * tenth)),
        held_out=np.flatnonzero(place < tenth),
    )
