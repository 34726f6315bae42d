"""Gathers measured rows into parts of a dataset.

A part's name says what is in it (hardware, seed, indices, options), so the same command writes the
same parts: a worker that was stopped carries on where it left off, and two that overlap do no harm.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import fsspec

from shardwright_benchmark_worker.errors import OptionError
from shardwright_benchmark_worker.share import Share
from shardwright_benchmark_worker.spans import gaps, merge
from shardwright_costmodel.dataset import Kind, PartMetadata, list_parts, write_part

Row = dict[str, Any]
Measure = Callable[[range], Iterator[Row]]
"""Measures the samples of some indices, in order, one row each."""

_HARDWARE = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_PART_NAME = re.compile(
    r"(?P<before>.+-seed\d+)-(?P<start>\d{9,})-(?P<stop>\d{9,})-(?P<digest>[0-9a-f]{8})"
)


@dataclass(frozen=True)
class Recording:
    """Which samples are to be recorded, where, and their provenance.

    Attributes:
        out_url: Root of the dataset, any fsspec URL or a directory.
        kind: What the rows are.
        hardware: Hardware profile the numbers belong to.
        source: `measured` or `modelled`.
        seed: Of the sequence of samples.
        start_index: First sample.
        num_samples: How many, the whole fleet together.
        part_size: Most rows in a part.
        share: Which of the parts this worker measures.
        options: Everything else that decides what is drawn and how it is measured, as text.
        fingerprint: What measures.
        software: Package name to version.
    """

    out_url: str
    kind: Kind
    hardware: str
    source: str
    seed: int
    start_index: int
    num_samples: int
    part_size: int
    share: Share = field(default_factory=Share)
    options: Mapping[str, str] = field(default_factory=dict)
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    software: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _HARDWARE.fullmatch(self.hardware):
            raise OptionError(
                "--hardware must be of lower-case letters, digits, '.', '_' and '-', such as "
                f"nvidia-h100-sxm5-80gb, got {self.hardware!r}"
            )
        try:
            fsspec.core.url_to_fs(self.out_url)
        except (ValueError, ImportError) as error:
            raise OptionError(f"--out {self.out_url}: cannot be opened: {error}") from error
        for option, value, low in (
            ("--seed", self.seed, 0),
            ("--start-index", self.start_index, 0),
            ("--samples", self.num_samples, 1),
            ("--part-size", self.part_size, 1),
        ):
            if not low <= value < 2**53:
                raise OptionError(f"{option} must be at least {low}, got {value}")

    @property
    def indices(self) -> range:
        """All samples of the fleet."""
        return range(self.start_index, self.start_index + self.num_samples)

    def parts(self) -> list[range]:
        """The indices of each of this worker's parts, in order."""
        return self.share.take(cut(self.indices, self.part_size))

    @property
    def sequence(self) -> str:
        """Names the endless sequence of samples that the parts are cut from."""
        options = json.dumps(dict(self.options), sort_keys=True)
        digest = hashlib.sha256(options.encode()).hexdigest()[:8]
        return f"{self.hardware}-{self.source}-seed{self.seed}-{digest}"

    def part_name(self, indices: range) -> str:
        """The name of the part of some indices."""
        before, _, digest = self.sequence.rpartition("-")
        return f"{before}-{indices.start:09d}-{indices.stop:09d}-{digest}"

    def missing_parts(self) -> list[range]:
        """What is not in the dataset yet of this worker's parts.

        Samples that stand in a part of other bounds, from a run with another `part_size` or
        `num_samples`, are not measured again.
        """
        there = merge(self._recorded())
        return [gap for indices in self.parts() for gap in gaps(indices, there)]

    def _recorded(self) -> list[range]:
        """Indices of all parts of this sequence in the dataset."""
        urls = list_parts(self.out_url, self.kind)
        parts = (parse_part_name(PurePosixPath(url).stem) for url in urls)
        return [part[1] for part in parts if part is not None and part[0] == self.sequence]

    def metadata(self, indices: range, measuring: Mapping[str, str]) -> PartMetadata:
        """Provenance of the part of some indices, and how measuring it went."""
        return PartMetadata(
            hardware=self.hardware,
            source=self.source,
            fingerprint=dict(self.fingerprint),
            software=dict(self.software),
            sampling={
                **self.options,
                "seed": str(self.seed),
                "first_index": str(indices.start),
                "last_index": str(indices.stop - 1),
            },
            measuring=dict(measuring),
        )


def cut(indices: range, part_size: int) -> list[range]:
    """The indices of each part of a fleet, in order."""
    starts = indices[::part_size]
    return [range(start, min(start + part_size, indices.stop)) for start in starts]


def parse_part_name(name: str) -> tuple[str, range] | None:
    """The sequence and the indices in the name of a part; None for a name that is not ours."""
    match = _PART_NAME.fullmatch(name)
    if match is None or int(match["start"]) >= int(match["stop"]):
        return None
    indices = range(int(match["start"]), int(match["stop"]))
    return f"{match['before']}-{match['digest']}", indices


def record_part(
    recording: Recording,
    indices: range,
    measure: Measure,
    on_row: Callable[[Row, float], None] = lambda row, seconds: None,
    summary: Callable[[], Mapping[str, str]] = dict,
) -> str:
    """Measures the samples of one part and writes it; returns its URL.

    Args:
        recording: Where it belongs.
        indices: One of `recording.parts()`.
        measure: Called once.
        on_row: Called after every row, with the seconds it took.
        summary: Called after the last row: how measuring went, for the part's metadata.
    """
    rows = measure_part(indices, measure, on_row)
    return write_rows(recording, indices, rows, summary())


def measure_part(
    indices: range, measure: Measure, on_row: Callable[[Row, float], None]
) -> list[Row]:
    """Measures the samples of one part; `on_row` as of `record_part`."""
    rows = []
    began_s = time.perf_counter()
    for row in measure(indices):
        on_row(row, time.perf_counter() - began_s)
        rows.append(row)
        began_s = time.perf_counter()
    return rows


def write_rows(
    recording: Recording, indices: range, rows: list[Row], measuring: Mapping[str, str]
) -> str:
    """Writes the rows of one part, and how measuring them went; returns its URL."""
    name = recording.part_name(indices)
    metadata = recording.metadata(indices, measuring)
    return write_part(recording.out_url, recording.kind, name, rows, metadata)
