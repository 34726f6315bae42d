"""A registry: bundles under `<root>/<hardware>/<version>/`, on any file system fsspec knows."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import fsspec

from shardwright_costmodel.bundle import (
    MANIFEST_NAME,
    NAME_PATTERN,
    Bundle,
    Manifest,
    read_bundle,
    read_manifest,
    translated,
    write_bundle,
)
from shardwright_costmodel.errors import BundleError, BundleNotFoundError

DEFAULT_BUNDLES_URL = str(Path(__file__).parent / "bundles")
"""The bundles that ship with this package."""

_LOG = logging.getLogger(__name__)
_NAME = re.compile(NAME_PATTERN)


@dataclass(frozen=True, order=True)
class RegistryEntry:
    """One bundle of a registry; whether its content is sound shows when it is loaded.

    Attributes:
        hardware: Hardware profile.
        version: Version.
        url: Where it lies.
    """

    hardware: str
    version: str
    url: str


class Registry:
    """The bundles under one root.

    Args:
        root_url: Any fsspec URL or a directory; it need not exist yet.
    """

    def __init__(self, root_url: str = DEFAULT_BUNDLES_URL) -> None:
        self.root_url = str(root_url).rstrip("/") or "/"

    def list(self) -> tuple[RegistryEntry, ...]:
        """Every version that has a manifest, sorted by hardware and version; nothing is read.

        Raises:
            BundleError: When the root cannot be listed.
        """
        with translated(self.root_url):
            filesystem, root = fsspec.core.url_to_fs(self.root_url)
            filesystem.invalidate_cache()
            paths = filesystem.glob(f"{root.rstrip('/')}/*/*/{MANIFEST_NAME}")
        entries = []
        for path in paths:
            hardware, version = str(path).split("/")[-3:-1]
            # a bundle being written lies in a hidden directory
            if _NAME.fullmatch(hardware) and _NAME.fullmatch(version):
                entries.append(RegistryEntry(hardware, version, self._url(hardware, version)))
        return tuple(sorted(entries))

    def load(self, hardware: str, version: str | None = None) -> Bundle:
        """Reads and checks one bundle.

        Args:
            hardware: Hardware profile.
            version: None for the default, the newest by `created_at` (then by version).

        Raises:
            BundleNotFoundError: Listing the profiles or versions there are.
            BundleError: When the bundle is damaged.
        """
        entries = self.list()
        of_hardware = [entry for entry in entries if entry.hardware == hardware]
        if not of_hardware:
            known = ", ".join(sorted({entry.hardware for entry in entries})) or "none"
            raise BundleNotFoundError(
                f"{self.root_url}: no cost model for hardware {hardware!r:.140}; there are: {known}"
            )
        if version is None:
            version = self.default_version(hardware)
        for entry in of_hardware:
            if entry.version == version:
                return self._checked(entry, read_bundle(entry.url))
        known = ", ".join(entry.version for entry in of_hardware)
        raise BundleNotFoundError(
            f"{self.root_url}: no version {version!r:.140} of {hardware!r}; there are: {known}"
        )

    def default_version(self, hardware: str) -> str:
        """The newest version of a profile by `created_at`, then by version.

        A version whose manifest cannot be read is passed over, with a logged warning.

        Raises:
            BundleNotFoundError: When the profile has no version.
            BundleError: When no manifest of the profile can be read.
        """
        manifests: list[Manifest] = []
        fault: BundleError | None = None
        for entry in self.list():
            if entry.hardware == hardware:
                try:
                    manifests.append(read_manifest(entry.url))
                except BundleError as error:
                    _LOG.warning("passing over a bundle: %s", error)
                    fault = error
        if manifests:
            return max(manifests, key=lambda m: (m.created_at, m.version)).version
        raise fault or BundleNotFoundError(
            f"{self.root_url}: no cost model for hardware {hardware!r:.140}"
        )

    def publish(self, bundle: Bundle) -> RegistryEntry:
        """Writes a bundle at its place, whole or not at all.

        Raises:
            BundleError: When the version exists or writing fails.
        """
        manifest = bundle.manifest
        url = self._url(manifest.hardware, manifest.version)
        write_bundle(url, bundle)
        return RegistryEntry(manifest.hardware, manifest.version, url)

    def _url(self, hardware: str, version: str) -> str:
        return f"{self.root_url.rstrip('/')}/{hardware}/{version}"

    def _checked(self, entry: RegistryEntry, bundle: Bundle) -> Bundle:
        found = (bundle.manifest.hardware, bundle.manifest.version)
        if found != (entry.hardware, entry.version):
            raise BundleError(
                f"{entry.url}/{MANIFEST_NAME}: says it is {found[0]} {found[1]}, but lies in the "
                f"place of {entry.hardware} {entry.version}"
            )
        return bundle
