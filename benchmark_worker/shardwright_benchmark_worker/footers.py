"""What the parts of a dataset say of themselves, without reading their rows.

Parquet keeps counts and metadata at the end of a file. The ends of all parts are asked for at once,
so that thousands of objects take an object store seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from shardwright_costmodel.dataset import Kind, PartMetadata, parse_metadata
from shardwright_costmodel.errors import DatasetError

_TAIL_BYTES = 32 * 2**10
"""More than the end of a part of ours, with its schema and metadata."""


@dataclass(frozen=True)
class PartEntry:
    """A part as a listing shows it.

    Attributes:
        path: On its filesystem.
        num_bytes: Its size.
        modified_s: Seconds since the epoch; None where the store does not tell.
    """

    path: str
    num_bytes: int
    modified_s: float | None

    @property
    def name(self) -> str:
        """Without folder and suffix."""
        return PurePosixPath(self.path).stem


@dataclass(frozen=True)
class Footer:
    """The end of a part.

    Attributes:
        entry: Whose.
        num_rows: How many rows it has.
        metadata: Its provenance; None when it cannot be read.
    """

    entry: PartEntry
    num_rows: int
    metadata: PartMetadata | None


def list_entries(root_url: str, kind: Kind) -> list[PartEntry]:
    """The parts of a kind, sorted by path."""
    filesystem, root = fsspec.core.url_to_fs(root_url)
    found = filesystem.find(f"{root}/{kind.value}", maxdepth=1, detail=True)
    return [
        PartEntry(path, int(info["size"]), _modified_s(info))
        for path, info in sorted(found.items())
        if path.endswith(".parquet")
    ]


def read_footers(root_url: str, entries: list[PartEntry]) -> Iterator[Footer]:
    """Reads the ends of parts, concurrently where the store can do that."""
    if not entries:
        return
    filesystem, _ = fsspec.core.url_to_fs(root_url)
    tails = filesystem.cat_ranges(
        [entry.path for entry in entries],
        [max(0, entry.num_bytes - _TAIL_BYTES) for entry in entries],
        [entry.num_bytes for entry in entries],
        on_error="return",
    )
    for entry, tail in zip(entries, tails, strict=True):
        yield _parse(entry, tail)


def _parse(entry: PartEntry, tail: bytes | Exception) -> Footer:
    if isinstance(tail, Exception):
        return Footer(entry, 0, None)
    try:
        footer = pq.read_metadata(pa.BufferReader(tail))
        return Footer(entry, footer.num_rows, parse_metadata(entry.path, footer.metadata or {}))
    except (pa.ArrowException, OSError, DatasetError):
        return Footer(entry, 0, None)


def _modified_s(info: Mapping[str, Any]) -> float | None:
    """Time of the last change; fsspec's filesystems name it differently."""
    for key in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = info.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, (int, float)):
            return float(value)
        if isinstance(value, str):
            return datetime.fromisoformat(value).timestamp()
    return None
