"""Publishing, promoting and rolling back: which version of a profile is the default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shardwright_costmodel.bundle import Bundle, Manifest, read_manifest
from shardwright_costmodel.comparison import (
    DEFAULT_MARGIN,
    QUANTITIES,
    Margin,
    accuracy_by_quantity,
    objections,
)
from shardwright_costmodel.errors import (
    BundleError,
    BundleNotFoundError,
    NotPromotedError,
    without_secrets,
)
from shardwright_costmodel.history import Action
from shardwright_costmodel.registry import Registry, RegistryEntry
from shardwright_costmodel.runtime import OnnxCostModel
from shardwright_costmodel.verification import check_predictions, verify

EXIT_NOT_PROMOTED = 3
"""Exit status of a command whose bundle is worse than the default, or not comparable with it."""


@dataclass(frozen=True)
class Publication:
    """A bundle that was published.

    Attributes:
        entry: Where it lies.
        default_version: The default version of its profile from now on.
        refusal: Why it was not promoted although it was to be; empty otherwise.
    """

    entry: RegistryEntry
    default_version: str
    refusal: str = ""

    @property
    def is_default(self) -> bool:
        """Whether the published bundle is what its profile is served by."""
        return self.entry.version == self.default_version

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "url": without_secrets(self.entry.url),
            "hardware": self.entry.hardware,
            "version": self.entry.version,
            "default_version": self.default_version,
            "is_default": self.is_default,
            "refusal": self.refusal or None,
        }


def publish(
    registry: Registry, bundle: Bundle, *, promote_it: bool = True, force: bool = False
) -> Publication:
    """Publishes a bundle and promotes it, if it is not worse than what is served now.

    It must give finite predictions, or it is not published. Where nothing was promoted so far, the
    present default is promoted first: it stays the default until the new bundle has passed.

    Args:
        registry: Where to.
        bundle: What.
        promote_it: Whether to promote it.
        force: Whether to promote it even when it is worse.

    Raises:
        BundleError: When the bundle cannot be published, or `promoted.json` is damaged or cannot be
            written.
    """
    hardware, version = bundle.manifest.hardware, bundle.manifest.version
    check_predictions(OnnxCostModel.from_bundle(bundle), bundle.manifest, bundle.url or version)
    keep_default(registry, hardware)
    entry = registry.publish(bundle)
    if not promote_it:
        return Publication(entry, registry.default_version(hardware))
    try:
        promote(registry, hardware, version, force=force)
    except NotPromotedError as error:
        return Publication(entry, registry.default_version(hardware), str(error))
    return Publication(entry, version)


def keep_default(registry: Registry, hardware: str) -> None:
    """Promotes the present default of a profile where nothing was promoted so far.

    Raises:
        BundleError: When `promoted.json` is damaged or cannot be written.
    """
    if registry.promotions(hardware) is not None:
        return
    try:
        version = registry.newest_version(hardware)
    except (BundleNotFoundError, BundleError):
        return  # nothing there that could be the default
    why = "the newest when promotions began"
    registry.record_promotion(hardware, version, Action.PROMOTE, why)


def promote(
    registry: Registry,
    hardware: str,
    version: str,
    *,
    why: str = "",
    force: bool = False,
    margin: Margin = DEFAULT_MARGIN,
) -> str:
    """Makes a version the default of its profile; returns the reason that was written down.

    It is verified first. What it is compared with is the present default.

    Args:
        registry: Where.
        hardware: Hardware profile.
        version: The version.
        why: The reason, for people; empty: the comparison.
        force: Whether to promote it even when it is worse, and to begin a new history where
            `promoted.json` is damaged.
        margin: What counts as worse.

    Raises:
        BundleNotFoundError: When there is no such version.
        NotPromotedError: When it is worse than the default.
        BundleError: When the bundle or `promoted.json` is damaged.
    """
    new = _verified(registry, hardware, version)
    old = _incumbent(registry, hardware, version, force)
    against = objections(new, old, margin) if old is not None else ()
    if old is not None and against and not force:
        raise NotPromotedError(
            f"{hardware} {version} is not promoted over {old.version}: {'; '.join(against)}; "
            "--force promotes it all the same"
        )
    reason = why or _reason(new, old)
    if against:
        reason += f" (forced: {'; '.join(against)})"
    registry.record_promotion(hardware, version, Action.PROMOTE, reason, anew=force)
    return reason


def roll_back(registry: Registry, hardware: str, *, why: str = "") -> str:
    """Makes the previously promoted version of a profile the default again; returns it.

    Raises:
        BundleNotFoundError: When no version was promoted before the present one, or it is gone.
        BundleError: When that version or `promoted.json` is damaged.
    """
    registry.versions(hardware)
    promotions = registry.promotions(hardware)
    previous = promotions.previous() if promotions is not None else None
    if promotions is None or previous is None:
        now = "nothing is promoted" if promotions is None else f"only {promotions.promoted} was"
        raise BundleNotFoundError(
            f"{registry.root_url}: no version of {hardware} was promoted before ({now}): there is "
            "nothing to roll back to"
        )
    _verified(registry, hardware, previous)
    reason = why or f"rolled back from {promotions.promoted}"
    registry.record_promotion(hardware, previous, Action.ROLL_BACK, reason)
    return previous


def _verified(registry: Registry, hardware: str, version: str) -> Manifest:
    manifest = registry.load(hardware, version).manifest
    entry = next(e for e in registry.versions(hardware) if e.version == version)
    fault = verify(registry, entry).fault
    if fault:
        raise BundleError(fault)
    return manifest


def _incumbent(registry: Registry, hardware: str, version: str, force: bool) -> Manifest | None:
    """The manifest of the present default; None when there is none but `version`."""
    try:
        default = registry.default_version(hardware)
        if default == version:
            return None
        (entry,) = (e for e in registry.versions(hardware) if e.version == default)
        return read_manifest(entry.url)
    except BundleError:
        if not force:
            raise
        return None


def _reason(new: Manifest, old: Manifest | None) -> str:
    """What the numbers say, for the history."""
    mine = accuracy_by_quantity(new)
    theirs = accuracy_by_quantity(old) if old is not None else {}
    texts = []
    for quantity in QUANTITIES:
        if quantity in mine:
            text = f"{quantity} {mine[quantity].mape_percent:.2f} %"
            if quantity in theirs:
                text += f" (was {theirs[quantity].mape_percent:.2f} %)"
            texts.append(text)
    return f"{new.source.value.upper()}; held-out MAPE: {', '.join(texts) or 'not judged'}"
