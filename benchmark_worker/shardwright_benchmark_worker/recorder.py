"""Gathers measured rows into parts of a dataset.

A part's name says what is in it (hardware, seed, indices, options), so the same command writes the
same parts: a worker that was stopped carries on where it left off, and two that overlap do no harm.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import fsspec

from shardwright_benchmark_worker.errors import OptionError
from shardwright_costmodel.dataset import Kind, PartMetadata, list_parts, write_part

Row = dict[str, Any]
Measure = Callable[[range], Iterator[Row]]
"""Measures the samples of some indices, in order, one row each."""

_HARDWARE = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")


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
        num_samples: How many.
        part_size: Most rows in a part.
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

    def parts(self) -> list[range]:
        """The indices of each part, in order."""
        stop = self.start_index + self.num_samples
        starts = range(self.start_index, stop, self.part_size)
        return [range(start, min(start + self.part_size, stop)) for start in starts]

    def part_name(self, indices: range) -> str:
        """The name of the part of some indices."""
        options = json.dumps(dict(self.options), sort_keys=True)
        digest = hashlib.sha256(options.encode()).hexdigest()[:8]
        span = f"{indices.start:09d}-{indices.stop:09d}"
        return f"{self.hardware}-{self.source}-seed{self.seed}-{span}-{digest}"

    def missing_parts(self) -> list[range]:
        """The parts that are not in the dataset yet."""
        urls = list_parts(self.out_url, self.kind)
        there = {PurePosixPath(url).stem for url in urls}
        return [indices for indices in self.parts() if self.part_name(indices) not in there]

    def metadata(self, indices: range) -> PartMetadata:
        """Provenance of the part of some indices."""
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
        )


def record_part(
    recording: Recording,
    indices: range,
    measure: Measure,
    on_row: Callable[[], None] = lambda: None,
) -> str:
    """Measures the samples of one part and writes it; returns its URL.

    Args:
        recording: Where it belongs.
        indices: One of `recording.parts()`.
        measure: Called once.
        on_row: Called after every row, for progress.
    """
    rows = []
    for row in measure(indices):
        rows.append(row)
        on_row()
    name = recording.part_name(indices)
    return write_part(recording.out_url, recording.kind, name, rows, recording.metadata(indices))
