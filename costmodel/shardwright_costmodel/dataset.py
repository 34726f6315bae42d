"""Datasets of measured costs: Parquet parts under `<root>/`, a folder for each `Kind`.

The columns are documented in `costmodel/README.md`, so that anyone can bring their own numbers.
Readers see whole parts or none: an object store shows an object when all of it has arrived, and
elsewhere a part is written under a temporary name and renamed.
"""

from __future__ import annotations

import io
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from shardwright_costmodel.errors import DatasetError
from shardwright_costmodel.storage import filesystem_of, open_file, require_bucket

FORMAT_VERSION = "1"
_METADATA_KEY = b"shardwright"
_TEMPORARY_SUFFIX = ".tmp"
_OBJECT_STORES = frozenset(
    {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "ossfs"}
)
"""fsspec protocols of stores that show an object only once all of it has arrived."""

PIECE_ROWS = 2048
"""Rows that are in memory at once when a dataset is streamed."""
_BUFFER_BYTES = 1 << 16
"""Of a column that are read ahead."""

TABLE_STRUCT = pa.struct(
    [
        pa.field("num_embeddings", pa.int64(), nullable=False),
        pa.field("embedding_dim", pa.int32(), nullable=False),
        pa.field("pooling_factor", pa.float64(), nullable=False),
        pa.field("reuse_histogram", pa.list_(pa.float32()), nullable=False),
        pa.field("weight_dtype", pa.string(), nullable=False),
        pa.field("batch_size", pa.int64()),
    ]
)
"""A table or a piece of one. `batch_size` may be null or left out: then the table sees the whole
global batch; a data-parallel copy sees its share."""

_TIMES = ("forward_ms", "backward_ms")


def _optional(*names: str) -> list[pa.Field]:
    """Columns of percentages that a part may leave out."""
    return [pa.field(name, pa.float64()) for name in names]


COMPUTE_SCHEMA = pa.schema(
    [
        pa.field("global_batch_size", pa.int64(), nullable=False),
        pa.field("optimizer", pa.string(), nullable=False),
        pa.field("tables", pa.list_(TABLE_STRUCT), nullable=False),
        *(
            pa.field(f"{time}{suffix}", pa.float64())
            for time in _TIMES
            for suffix in ("", "_p10", "_p90")
        ),
        pa.field("repetitions", pa.int32(), nullable=False),
        pa.field("feasible", pa.bool_()),
        pa.field("placement", pa.string()),
        *_optional("forward_ci_percent", "backward_ci_percent", "drift_percent"),
    ]
)
"""One fused operator on one device: its tables (or shards) and median, p10 and p90 times, null
where `feasible` is false: it did not fit into the device's memory."""

COMM_SCHEMA = pa.schema(
    [
        pa.field("world_size", pa.int32(), nullable=False),
        pa.field("devices_per_host", pa.int32(), nullable=False),
        pa.field("global_batch_size", pa.int64(), nullable=False),
        pa.field("dims", pa.list_(pa.int32()), nullable=False),
        pa.field("start_skew_ms", pa.list_(pa.float64()), nullable=False),
        pa.field("forward_ms", pa.list_(pa.float64()), nullable=False),
        pa.field("backward_ms", pa.list_(pa.float64()), nullable=False),
        pa.field("repetitions", pa.int32(), nullable=False),
        pa.field("wait_ms", pa.list_(pa.float64())),
        *_optional("forward_ci_percent", "backward_ci_percent", "drift_percent"),
    ]
)
"""One all-to-all: lists have one entry per device. `forward_ms` runs from a device's own start to
the end of its all-to-all, so it contains the waiting for later starters, which `wait_ms` is where
it was measured; `backward_ms` has none."""

ALL_REDUCE_SCHEMA = pa.schema(
    [
        pa.field("world_size", pa.int32(), nullable=False),
        pa.field("devices_per_host", pa.int32(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
        *(pa.field(f"time_ms{s}", pa.float64(), nullable=False) for s in ("", "_p10", "_p90")),
        pa.field("repetitions", pa.int32(), nullable=False),
        *_optional("ci_percent", "drift_percent"),
    ]
)
"""One all-reduce of `num_bytes` on every device, all starting at once: the slowest device's median,
p10 and p90 times."""

REDUCE_SCATTER_SCHEMA = ALL_REDUCE_SCHEMA
"""One reduce-scatter, as row-wise tables need it, of an input of `num_bytes` on every device."""


class Kind(Enum):
    """What a part holds; the value is its folder."""

    COMPUTE = "compute"
    COMM = "comm"
    ALL_REDUCE = "all_reduce"
    REDUCE_SCATTER = "reduce_scatter"

    @property
    def schema(self) -> pa.Schema:
        """The columns of a part of this kind; those that are optional come last."""
        return _SCHEMAS[self]

    @property
    def optional_columns(self) -> list[str]:
        """Columns that a part may leave out, which then are null."""
        names: list[str] = self.schema.names
        return names[names.index("repetitions") + 1 :]


_SCHEMAS = {
    Kind.COMPUTE: COMPUTE_SCHEMA,
    Kind.COMM: COMM_SCHEMA,
    Kind.ALL_REDUCE: ALL_REDUCE_SCHEMA,
    Kind.REDUCE_SCATTER: REDUCE_SCATTER_SCHEMA,
}


@dataclass(frozen=True)
class PartMetadata:
    """What stands in every part beside its rows.

    Attributes:
        hardware: Hardware profile the numbers belong to.
        source: `measured` or `modelled`.
        fingerprint: What measured: device name and count, host, driver, ... as text.
        software: Package name to version.
        sampling: How the rows were drawn: seed, first index, ... as text.
        measuring: How measuring went: seconds by activity, share of drifted rows, ... as text.
    """

    hardware: str
    source: str
    fingerprint: dict[str, str] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)
    sampling: dict[str, str] = field(default_factory=dict)
    measuring: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One Parquet part, or consecutive rows of it, read and checked.

    Attributes:
        url: Where it came from.
        metadata: Its provenance.
        table: The rows, of `Kind.schema`; optional columns that it lacks are null.
        first_row: Position of the first of these rows in the part.
    """

    url: str
    metadata: PartMetadata
    table: pa.Table
    first_row: int = 0


def write_part(
    root_url: str, kind: Kind, name: str, rows: Sequence[Mapping[Any, Any]], metadata: PartMetadata
) -> str:
    """Writes `<root>/<kind>/<name>.parquet` atomically and returns its URL.

    Args:
        root_url: Dataset root, any fsspec URL or a directory.
        kind: What the rows are.
        name: Name of the part; an existing part of that name is replaced.
        rows: One mapping per row, of `kind.schema`.
        metadata: Provenance.

    Raises:
        DatasetError: When a row does not follow the schema.
    """
    payload = {"format_version": FORMAT_VERSION, **metadata.__dict__}
    schema = kind.schema.with_metadata({_METADATA_KEY: json.dumps(payload, sort_keys=True)})
    try:
        table = pa.Table.from_pylist(list(rows), schema=schema)
    except (pa.ArrowException, KeyError, TypeError) as error:
        raise DatasetError(f"rows do not follow the {kind.value} schema: {error}") from error
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    filesystem, root = filesystem_of(root_url)
    target = f"{root}/{kind.value}/{name}.parquet"
    write_whole(filesystem, target, buffer.getvalue())
    return str(filesystem.unstrip_protocol(target))


def write_whole(filesystem: Any, path: str, content: bytes) -> None:
    """Writes a file so that readers see all of it or, until then, what was there before.

    Args:
        filesystem: Any of fsspec's.
        path: On that filesystem; its folder is made where there are folders.
        content: What it holds then.
    """
    if _shows_whole_objects(filesystem):
        filesystem.pipe_file(path, content)
        return
    folder, _, name = path.rpartition("/")
    filesystem.makedirs(folder, exist_ok=True)
    temporary = f"{folder}/.{name}.{os.getpid()}.{uuid.uuid4().hex}{_TEMPORARY_SUFFIX}"
    try:
        with filesystem.open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            if isinstance(filesystem, LocalFileSystem):
                # else the name may survive a power cut that the content does not
                os.fsync(file.fileno())
        filesystem.mv(temporary, path)
    except BaseException:
        if filesystem.exists(temporary):
            filesystem.rm(temporary)
        raise


def _shows_whole_objects(filesystem: Any) -> bool:
    """Whether a written object is visible only as a whole, so that renaming would be a copy."""
    protocols = filesystem.protocol
    names = {protocols} if isinstance(protocols, str) else set(protocols)
    return bool(names & _OBJECT_STORES)


def remove_orphans(root_url: str, kind: Kind, older_than_s: float = 3600.0) -> list[str]:
    """Removes what writers left that were killed while they wrote a part; returns the paths.

    Readers never see such files. One that is younger may belong to a writer that lives.

    Args:
        root_url: Dataset root, any fsspec URL or a directory.
        kind: Whose folder.
        older_than_s: Seconds since the last change.
    """
    filesystem, root = filesystem_of(root_url)
    folder = f"{root}/{kind.value}"
    if _shows_whole_objects(filesystem) or not filesystem.exists(folder):
        return []
    removed = []
    for path in filesystem.ls(folder, detail=False):
        # another worker may clean up at the same time
        with suppress(FileNotFoundError):
            if str(path).endswith(_TEMPORARY_SUFFIX) and _age_s(filesystem, path) > older_than_s:
                filesystem.rm(path)
                removed.append(str(path))
    return removed


def _age_s(filesystem: Any, path: str) -> float:
    modified: datetime = filesystem.modified(path)
    return time.time() - modified.timestamp()


def list_parts(root_url: str, kind: Kind) -> list[str]:
    """URLs of the parts of a kind, sorted by name; empty when there are none."""
    filesystem, root = filesystem_of(root_url)
    paths = sorted(filesystem.glob(f"{root}/{kind.value}/*.parquet"))
    if not paths:
        require_bucket(filesystem, root)
    return [str(filesystem.unstrip_protocol(path)) for path in paths]


def read_part(url: str, kind: Kind) -> Part:
    """Reads one part.

    Raises:
        DatasetError: Naming the part and what is wrong with it.
    """
    pieces = list(read_pieces(url, kind))
    return replace(pieces[0], table=pa.concat_tables(piece.table for piece in pieces))


def read_dataset(root_url: str, kind: Kind) -> Iterator[Part]:
    """Reads the parts of a kind one after another, piece by piece.

    Raises:
        DatasetError: On the first bad part.
    """
    for url in list_parts(root_url, kind):
        yield from read_pieces(url, kind)


def read_pieces(url: str, kind: Kind) -> Iterator[Part]:
    """Reads one part in pieces of at most `PIECE_ROWS` rows, but one piece at least.

    Memory does not grow with the size of the part.

    Raises:
        DatasetError: Naming the part and what is wrong with it.
    """
    try:
        with open_file(url) as file:
            reader = pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES)
            schema = reader.schema_arrow
            metadata = parse_metadata(url, schema.metadata or {})
            _require_columns(url, schema.names, kind)
            first_row = 0
            # no threads of Arrow's: one that still winds down when the interpreter exits aborts it
            for batch in reader.iter_batches(PIECE_ROWS, use_threads=False):
                table = _cast(url, pa.Table.from_batches([batch]), kind)
                yield Part(url, metadata, table, first_row)
                first_row += len(table)
            if first_row == 0:
                yield Part(url, metadata, _cast(url, schema.empty_table(), kind))
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{url}: cannot be read as Parquet: {error}") from error


def _require_columns(url: str, names: Sequence[str], kind: Kind) -> None:
    known, optional = kind.schema.names, kind.optional_columns
    missing = [name for name in known if name not in names and name not in optional]
    extra = [name for name in names if name not in known]
    if missing or extra:
        raise DatasetError(
            f"{url}: columns must be those of the {kind.value} schema (costmodel/README.md); "
            f"missing: {missing or 'none'}, unknown: {extra or 'none'}"
        )


def _cast(url: str, table: pa.Table, kind: Kind) -> pa.Table:
    """The columns of the schema, in its order; those that are left out are null."""
    for name in kind.optional_columns:
        if name not in table.schema.names:
            table = table.append_column(name, pa.nulls(len(table), kind.schema.field(name).type))
    try:
        return table.select(kind.schema.names).cast(kind.schema)
    except (pa.ArrowException, ValueError) as error:
        raise DatasetError(f"{url}: a column has the wrong type: {error}") from error


def parse_metadata(url: str, raw: dict[bytes, bytes]) -> PartMetadata:
    """The provenance in a part's key-value metadata.

    Raises:
        DatasetError: Naming the part, when it has none or that of another format version.
    """
    try:
        payload = json.loads(raw[_METADATA_KEY])
        version = payload.pop("format_version")
        metadata = PartMetadata(**payload)
    except (KeyError, ValueError, TypeError) as error:
        raise DatasetError(
            f"{url}: has no readable 'shardwright' metadata (costmodel/README.md): {error!r}"
        ) from error
    if version != FORMAT_VERSION:
        raise DatasetError(
            f"{url}: is of format version {version!r}; this software reads {FORMAT_VERSION!r}"
        )
    return metadata
