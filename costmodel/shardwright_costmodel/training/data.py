"""From Parquet parts to arrays, with every check that a dataset must pass before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shardwright.domain import CostModelSource
from shardwright_costmodel.dataset import Kind, Part, PartMetadata, list_parts, read_pieces
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
from shardwright_costmodel.training.spool import Spool

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
        digests: Of what was read, by kind of part.
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
    digests: dict[str, str]
    reduce_scatter: Measurements | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    fingerprint: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sampling: dict[str, tuple[str, ...]] = field(default_factory=dict)


def load(
    root_url: str, on_progress: Callable[[float], None] = lambda progress: None
) -> TrainingData:
    """Reads and checks a dataset, and spools it to disk: memory does not grow with its size.

    Args:
        root_url: Root of the dataset, a directory or any fsspec URL.
        on_progress: Told of the share that is read, from 0 to 1.

    Raises:
        DatasetError: Naming the file, and the column and row where there is one; or that the disk
            is full.
    """
    reader = _Reader(root_url, on_progress)
    left_out: Counter[str] = Counter()

    def usable_operators(part: Part) -> Measurements:
        left_out.update(unusable_operators(part))
        return compute_measurements(part)

    compute = reader.read(Kind.COMPUTE, MIN_COMPUTE_ROWS, usable_operators)
    comm = reader.read(Kind.COMM, MIN_COMM_ROWS, comm_measurements)
    all_reduce = reader.read(Kind.ALL_REDUCE, MIN_ALL_REDUCE_ROWS, all_reduce_measurements)
    reduce_scatter = None
    if reader.has(Kind.REDUCE_SCATTER):
        reduce_scatter = reader.read(Kind.REDUCE_SCATTER, 1, all_reduce_measurements)
    first = reader.provenance.first
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
        digests=reader.digests,
        fingerprint=reader.provenance.fingerprint.summary(),
        sampling=reader.provenance.sampling.summary(),
    )


def load_like(
    root_url: str,
    other: TrainingData,
    on_progress: Callable[[float], None] = lambda progress: None,
) -> TrainingData:
    """Reads and checks a dataset of the same hardware and source as another.

    Raises:
        DatasetError: As `load`, and when it is of another kind.
    """
    data = load(root_url, on_progress)
    if (data.hardware, data.source) != (other.hardware, other.source):
        raise DatasetError(
            f"{root_url}: is of {data.hardware} ({data.source.value}), but the training data is of "
            f"{other.hardware} ({other.source.value})"
        )
    return data


class _Reader:
    """Reads the parts of a dataset, kind by kind.

    Args:
        root_url: Of the dataset.
        on_progress: Told of the share that is read.
    """

    def __init__(self, root_url: str, on_progress: Callable[[float], None]) -> None:
        self._root_url, self._on_progress = root_url, on_progress
        with translated(root_url, DatasetError):
            self._parts = {kind: list_parts(root_url, kind) for kind in Kind}
        self._num_read = 0
        self.provenance = _Provenance()
        self.digests: dict[str, str] = {}
        for kind, command in _COMMANDS.items():
            if not self.has(kind):
                raise DatasetError(
                    f"{root_url}/{kind.value}: holds no *.parquet part; measure some with "
                    f"'shardwright-worker {command}', or write your own (costmodel/README.md)"
                )

    def has(self, kind: Kind) -> bool:
        """Whether there are parts of a kind."""
        return bool(self._parts[kind])

    def read(
        self, kind: Kind, minimum: int, convert: Callable[[Part], Measurements]
    ) -> Measurements:
        """Spools the parts of a kind, of which training needs some rows at least."""
        features, counts, times_ms = Spool(), Spool(), Spool()
        for url in self._parts[kind]:
            for part in read_pieces(url, kind):
                self.provenance.check(part)
                if part.table.num_rows:
                    piece = convert(part)
                    features.append(piece.features)
                    counts.append(piece.counts)
                    times_ms.append(piece.times_ms)
            self._num_read += 1
            self._on_progress(self._num_read / sum(map(len, self._parts.values())))
        if len(counts) < minimum:
            raise DatasetError(
                f"{self._root_url}/{kind.value}: has {len(counts)} usable rows, training needs at "
                f"least {minimum}"
            )
        digests = [spool.digest.hexdigest() for spool in (features, counts, times_ms)]
        self.digests[kind.value] = " ".join(digests)
        return Measurements(features.mapped(), counts.mapped(), times_ms.mapped())


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
    keys = np.concatenate([_combination_keys(piece) for piece in data.pieces()])
    _, combination = np.unique(keys, return_inverse=True)
    num_combinations = int(combination.max()) + 1
    place = np.random.default_rng(seed).permutation(num_combinations)[combination]
    tenth = max(1, num_combinations // 10)
    return Split(
        training=np.flatnonzero(place >= 2 * tenth),
        validation=np.flatnonzero((place >= tenth) & (place < 2 * tenth)),
        held_out=np.flatnonzero(place < tenth),
    )


def _combination_keys(data: Measurements) -> npt.NDArray[np.uint64]:
    """Numbers that are the same for the same rows in any order, `[r]`."""
    # a sum of well-mixed 64-bit words does not depend on the order within a combination
    words = data.features.view(np.uint32).astype(np.uint64)
    with np.errstate(over="ignore"):
        weights = np.random.default_rng(0).integers(1, 2**63, words.shape[1], dtype=np.uint64)
        mixed = (words * (weights * np.uint64(2) + np.uint64(1))).sum(axis=1, dtype=np.uint64)
        mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(32)
        return np.add.reduceat(mixed, np.cumsum(data.counts) - data.counts)


def evenly(groups: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """At most so many of the groups, at equal distances."""
    return groups[:: -(-len(groups) // most)]
