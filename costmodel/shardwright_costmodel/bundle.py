"""Bundles: one directory with a manifest and the five ONNX graphs of one hardware profile.

    <bundle>/manifest.json  compute_encoder.onnx  compute_head.onnx
             forward_comm.onnx  backward_comm.onnx  all_reduce.onnx

A bundle is written whole or not at all, and every file is checked against the manifest when read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from shardwright.domain import CostModelSource
from shardwright_costmodel.errors import BundleError
from shardwright_costmodel.features import ALL_REDUCE_COLUMNS, COMM_COLUMNS, SHARD_COLUMNS
from shardwright_costmodel.storage import (
    filesystem_of,
    is_local,
    make_directories,
    require_bucket,
    translated,
    write_to_disk,
)

FORMAT_VERSION = "2"
"""Format 1 had neither floors nor all-reduces."""
MANIFEST_NAME = "manifest.json"
REPORT_NAME = "report.html"
"""What may lie beside a bundle for people to read; the manifest does not know it."""

COMPUTE_ENCODER = "compute_encoder.onnx"
COMPUTE_HEAD = "compute_head.onnx"
FORWARD_COMM = "forward_comm.onnx"
BACKWARD_COMM = "backward_comm.onnx"
ALL_REDUCE = "all_reduce.onnx"
GRAPH_NAMES: tuple[str, ...] = (
    COMPUTE_ENCODER,
    COMPUTE_HEAD,
    FORWARD_COMM,
    BACKWARD_COMM,
    ALL_REDUCE,
)

GRAPH_PORTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    COMPUTE_ENCODER: ("shard_features", ("encodings",)),
    COMPUTE_HEAD: ("encodings", ("compute_ms", "compute_floor_ms")),
    FORWARD_COMM: ("comm_features", ("forward_comm_ms", "forward_comm_floor_ms")),
    BACKWARD_COMM: ("comm_features", ("backward_comm_ms", "backward_comm_floor_ms")),
    ALL_REDUCE: ("all_reduce_features", ("all_reduce_ms",)),
}
"""Names of each graph's one input and of its outputs, all `[rows, width] float32`; the outputs of a
graph are equally wide."""

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}"
"""Names of profiles, versions and files: no separator, no leading dot, so never another path."""

PathName = Annotated[str, StringConstraints(pattern=f"^{NAME_PATTERN}$")]


class Accuracy(BaseModel):
    """Held-out accuracy of one predicted quantity.

    Attributes:
        quantity: `compute_forward`, `compute_backward`, `compute`, `forward_comm`,
            `backward_comm` or `all_reduce`; `reduce_scatter`: of `forward_comm` on
            reduce-scatters.
        mape_percent: Mean absolute percentage error.
        kendall_tau: Rank correlation, tau-b.
        num_measurements: Held-out values behind the two.
    """

    model_config = ConfigDict(frozen=True)

    quantity: str
    mape_percent: float
    kendall_tau: float
    num_measurements: int


class Manifest(BaseModel):
    """What a bundle is and where it comes from.

    Attributes:
        format_version: Of this layout.
        name: Of the cost model.
        version: Unique among the bundles of a hardware profile.
        hardware: Hardware profile whose costs are predicted.
        source: Whether its measurements were measured or modelled.
        created_at: Moment of training, with time zone.
        shard_columns: Input columns of the compute encoder, in order.
        comm_columns: Input columns of the communication models, in order.
        all_reduce_columns: Input columns of the all-reduce model, in order.
        encoding_size: Channels of a shard's encoding.
        peak_channels: The last channels, in which the floor of the computation is not convex.
        num_compute_measurements: Rows behind the compute model.
        num_comm_measurements: Rows (all-to-alls) behind the communication models.
        num_all_reduce_measurements: Rows behind the all-reduce model.
        accuracy: On measurements held out of training.
        mean_floor_ratio: Quantity to the mean of floor over prediction on the same measurements:
            the nearer to 1, the tighter the bounds.
        training_range: `shard.<column>`, `comm.<column>` and `all_reduce.<column>` to the least
            and largest value seen.
        training: Seed, epochs and whatever else is needed to train the same again, as text.
        num_left_out: Rows of the dataset that training had no use for, by reason.
        fingerprint: What measured, from the dataset's parts: the distinct values of each fact.
        sampling: How the rows were drawn, likewise.
        software: Package to version.
        files: File name to sha256 in hex.
    """

    model_config = ConfigDict(frozen=True)

    format_version: str = FORMAT_VERSION
    name: PathName
    version: PathName
    hardware: PathName
    source: CostModelSource
    created_at: AwareDatetime
    shard_columns: tuple[str, ...] = SHARD_COLUMNS
    comm_columns: tuple[str, ...] = COMM_COLUMNS
    all_reduce_columns: tuple[str, ...] = ALL_REDUCE_COLUMNS
    encoding_size: int = Field(gt=0, le=4096)
    peak_channels: int = Field(default=0, ge=0)
    num_compute_measurements: int = Field(ge=0)
    num_comm_measurements: int = Field(ge=0)
    num_all_reduce_measurements: int = Field(ge=0)
    accuracy: tuple[Accuracy, ...] = ()
    mean_floor_ratio: dict[str, float] = Field(default_factory=dict)
    training_range: dict[str, tuple[float, float]] = Field(default_factory=dict)
    training: dict[str, str] = Field(default_factory=dict)
    num_left_out: dict[str, int] = Field(default_factory=dict)
    fingerprint: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    sampling: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    software: dict[str, str] = Field(default_factory=dict)
    files: dict[PathName, str]


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were checked against its manifest.

    Attributes:
        manifest: What it is.
        graphs: The graphs by file name, one for each of `GRAPH_NAMES`.
        url: Where it was read from, for messages; empty when it was never stored.
        attachments: What is published beside it by file name, such as a report: never read back,
            nor part of what the manifest vouches for.
    """

    manifest: Manifest
    graphs: Mapping[str, bytes]
    url: str = ""
    attachments: Mapping[str, bytes] = field(default_factory=dict)

    def describe(self, graph_name: str) -> str:
        """A graph's place, for messages."""
        return f"{self.url or self.manifest.name}/{graph_name}"


def sha256(content: bytes) -> str:
    """SHA-256 in hex, as it stands in a manifest's `files`."""
    return hashlib.sha256(content).hexdigest()


def read_manifest(url: str) -> Manifest:
    """Reads the manifest of the bundle at `url` without its graphs.

    Raises:
        BundleError: When it is missing, unreadable, or of a format this version does not read.
    """
    place = f"{url}/{MANIFEST_NAME}"
    with translated(place):
        filesystem, root = filesystem_of(url)
        content = filesystem.cat_file(f"{root}/{MANIFEST_NAME}")
    try:
        payload = json.loads(content)
    except ValueError as error:
        raise BundleError(f"{place}: is not JSON: {error}") from error
    return _parse_manifest(payload, place)


def _parse_manifest(payload: Any, place: str) -> Manifest:
    if not isinstance(payload, dict):
        raise BundleError(f"{place}: must be a JSON object, got {type(payload).__name__}")
    found = payload.get("format_version")
    if found != FORMAT_VERSION:
        raise BundleError(
            f"{place}: is of format version {found!r}; this software reads {FORMAT_VERSION!r}: "
            "train a bundle of this format from the same measurements with 'shardwright-train'"
        )
    try:
        manifest = Manifest.model_validate(payload)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()
        )
        raise BundleError(f"{place}: {faults}") from error
    _check_columns(manifest, place)
    missing = [name for name in GRAPH_NAMES if name not in manifest.files]
    if missing:
        raise BundleError(f"{place}: files: has no entry for {', '.join(missing)}")
    return manifest


def _check_columns(manifest: Manifest, place: str) -> None:
    for kind, found, known in (
        ("shard_columns", manifest.shard_columns, SHARD_COLUMNS),
        ("comm_columns", manifest.comm_columns, COMM_COLUMNS),
        ("all_reduce_columns", manifest.all_reduce_columns, ALL_REDUCE_COLUMNS),
    ):
        if found != known:
            raise BundleError(
                f"{place}: {kind} are {list(found)}, but this software computes {list(known)}; "
                "use a bundle that was trained with this version"
            )


def read_bundle(url: str) -> Bundle:
    """Reads the bundle at `url`, an fsspec URL or a directory, and checks every file.

    Raises:
        BundleError: Naming the file and its fault.
    """
    manifest = read_manifest(url)
    contents = {}
    for name, expected in manifest.files.items():
        place = f"{url}/{name}"
        with translated(place):
            filesystem, root = filesystem_of(url)
            contents[name] = filesystem.cat_file(f"{root}/{name}")
        found = sha256(contents[name])
        if found != expected:
            raise BundleError(
                f"{place}: is damaged: its sha256 is {found}, the manifest says {expected}"
            )
    return Bundle(manifest, {name: contents[name] for name in GRAPH_NAMES}, url)


def write_bundle(url: str, bundle: Bundle) -> None:
    """Writes a bundle to `url` so that readers see all of it or nothing.

    On a local disk the files are written to a hidden sibling directory that is then renamed. Object
    stores have no rename: there the manifest, without which a bundle does not exist, comes last.

    Raises:
        BundleError: When `url` already holds a bundle, or writing fails; then nothing is left.
    """
    with translated(url):
        filesystem, root = filesystem_of(url)
        filesystem.invalidate_cache()
        require_bucket(filesystem, root)
        if filesystem.exists(f"{root}/{MANIFEST_NAME}"):
            raise BundleError(
                f"{url}: already holds a bundle and is never overwritten; choose another version"
            )
        if is_local(filesystem):
            _write_directory(root, bundle, url)
        else:
            _write_objects(filesystem, root, bundle)


def _write_directory(root: str, bundle: Bundle, url: str) -> None:
    parent, _, name = root.rpartition("/")
    folder = f"{parent}/.{name}.{uuid.uuid4().hex}.tmp"
    try:
        os.makedirs(folder)
        for file_name, content in _files_of(bundle):
            write_to_disk(f"{folder}/{file_name}", content)
        # a plain rename, not fsspec's mv: it fails where a bundle has appeared meanwhile
        _rename_directory(folder, root, url)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _write_objects(filesystem: Any, root: str, bundle: Bundle) -> None:
    try:
        make_directories(filesystem, root)
        for file_name, content in _files_of(bundle):
            filesystem.pipe_file(f"{root}/{file_name}", content)
    except BaseException:
        # a store that is down cannot be tidied up; without a manifest the rest is no bundle
        with contextlib.suppress(Exception):
            filesystem.rm(root, recursive=True)
        raise


def _files_of(bundle: Bundle) -> Iterator[tuple[str, bytes]]:
    yield from bundle.attachments.items()
    for name in GRAPH_NAMES:
        yield name, bundle.graphs[name]
    yield MANIFEST_NAME, bundle.manifest.model_dump_json(indent=1).encode() + b"\n"


def _rename_directory(source: str, target: str, url: str) -> None:
    try:
        os.rename(source, target)
    except OSError as error:
        raise BundleError(f"{url}: cannot be put in place: {error}") from error
