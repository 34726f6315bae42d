"""A registry: bundles under `<root>/<hardware>/<version>/`, on any file system fsspec knows.

Which version of a profile is the promoted one stands in `<root>/<hardware>/promoted.json`.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from shardwright_costmodel.bundle import (
    MANIFEST_NAME,
    NAME_PATTERN,
    Bundle,
    Manifest,
    read_bundle,
    read_manifest,
    write_bundle,
)
from shardwright_costmodel.errors import BundleError, BundleNotFoundError
from shardwright_costmodel.history import (
    PROMOTIONS_NAME,
    Action,
    Promotion,
    Promotions,
    encode_promotions,
    parse_promotions,
    promotions_after,
)
from shardwright_costmodel.storage import (
    filesystem_of,
    read_file,
    require_bucket,
    translated,
    update_file,
)

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
            filesystem, root = filesystem_of(self.root_url)
            filesystem.invalidate_cache()
            paths = filesystem.glob(f"{root.rstrip('/')}/*/*/{MANIFEST_NAME}")
            if not paths:
                require_bucket(filesystem, root)
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
            version: None for the default, see `default_version`.

        Raises:
            BundleNotFoundError: Listing the profiles or versions there are.
            BundleError: When the bundle is damaged.
        """
        if version is None:
            version = self.default_version(hardware)
        for entry in self.versions(hardware):
            if entry.version == version:
                return self._checked(entry, read_bundle(entry.url))
        raise BundleNotFoundError(
            f"{self.root_url}: no version {version!r:.140} of {hardware!r}; "
            f"there are: {_versions(self.versions(hardware))}"
        )

    def versions(self, hardware: str) -> tuple[RegistryEntry, ...]:
        """The versions of a profile, at least one, sorted.

        Raises:
            BundleNotFoundError: Listing the profiles there are.
        """
        entries = self.list()
        of_hardware = tuple(entry for entry in entries if entry.hardware == hardware)
        if not of_hardware:
            known = ", ".join(sorted({entry.hardware for entry in entries})) or "none"
            raise BundleNotFoundError(
                f"{self.root_url}: no cost model for hardware {hardware!r:.140}; there are: {known}"
            )
        return of_hardware

    def default_version(self, hardware: str) -> str:
        """The promoted version of a profile; where none was ever promoted, the newest.

        Raises:
            BundleNotFoundError: When the profile has no version.
            BundleError: When `promoted.json` is damaged or names a version that is not there, or
                no manifest of the profile can be read.
        """
        entries = self.versions(hardware)
        promotions = self.promotions(hardware)
        if promotions is None:
            return self.newest_version(hardware)
        if promotions.promoted not in [entry.version for entry in entries]:
            raise BundleError(
                f"{self._promotions_url(hardware)}: promoted is {promotions.promoted!r}, which is "
                f"not there; there are: {_versions(entries)}. 'shardwright-registry promote "
                "--force' promotes one of them"
            )
        return promotions.promoted

    def newest_version(self, hardware: str) -> str:
        """The newest version of a profile by `created_at`, then by version.

        A version whose manifest cannot be read is passed over, with a logged warning.

        Raises:
            BundleNotFoundError: When the profile has no version.
            BundleError: When no manifest of the profile can be read.
        """
        manifests: list[Manifest] = []
        fault: BundleError | None = None
        for entry in self.versions(hardware):
            try:
                manifests.append(read_manifest(entry.url))
            except BundleError as error:
                _LOG.warning("passing over a bundle: %s", error)
                fault = error
        if not manifests and fault is not None:
            raise fault
        return max(manifests, key=lambda m: (m.created_at, m.version)).version

    def promotions(self, hardware: str) -> Promotions | None:
        """Which version is promoted, and its history; None when none ever was.

        Raises:
            BundleError: When `promoted.json` cannot be read.
        """
        url = self._promotions_url(hardware)
        content = read_file(url)
        return None if content is None else parse_promotions(content, url)

    def record_promotion(
        self, hardware: str, version: str, action: Action, why: str, *, anew: bool = False
    ) -> Promotions:
        """Writes down another promoted version, whole or not at all; checks nothing.

        Args:
            hardware: Hardware profile.
            version: The version to be promoted.
            action: What this is.
            why: The reason, for people.
            anew: Whether a `promoted.json` that cannot be read gives way to a new one.

        Raises:
            BundleError: When `promoted.json` is damaged or cannot be written.
        """
        url = self._promotions_url(hardware)
        at = datetime.now(UTC).replace(microsecond=0)
        written: list[Promotions] = []

        def change(content: bytes | None) -> bytes:
            before = None
            try:
                before = None if content is None else parse_promotions(content, url)
            except BundleError:
                if not anew:
                    raise
            entry = Promotion(version=version, action=action, at=at, why=why)
            written.append(promotions_after(before, entry))
            return encode_promotions(written[-1])

        update_file(url, change)
        return written[-1]

    def publish(self, bundle: Bundle) -> RegistryEntry:
        """Writes a bundle at its place, whole or not at all.

        Raises:
            BundleError: When the version exists or writing fails.
        """
        manifest = bundle.manifest
        url = self._url(manifest.hardware, manifest.version)
        if manifest.version == PROMOTIONS_NAME:
            raise BundleError(f"{url}: is the place of another file; choose another version")
        write_bundle(url, bundle)
        return RegistryEntry(manifest.hardware, manifest.version, url)

    def _url(self, hardware: str, version: str) -> str:
        return f"{self.root_url.rstrip('/')}/{hardware}/{version}"

    def _promotions_url(self, hardware: str) -> str:
        return f"{self.root_url.rstrip('/')}/{hardware}/{PROMOTIONS_NAME}"

    def _checked(self, entry: RegistryEntry, bundle: Bundle) -> Bundle:
        found = (bundle.manifest.hardware, bundle.manifest.version)
        if found != (entry.hardware, entry.version):
            raise BundleError(
                f"{entry.url}/{MANIFEST_NAME}: says it is {found[0]} {found[1]}, but lies in the "
                f"place of {entry.hardware} {entry.version}"
            )
        return bundle


def _versions(entries: tuple[RegistryEntry, ...]) -> str:
    return ", ".join(entry.version for entry in entries)
