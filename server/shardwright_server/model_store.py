"""The cost models that can answer, loaded from a registry of bundles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

import structlog

from shardwright.domain import CostModelDescription
from shardwright_costmodel.errors import (
    BundleError,
    BundleNotFoundError,
    CostModelError,
    without_secrets,
)
from shardwright_costmodel.registry import Registry, RegistryEntry
from shardwright_costmodel.runtime import OnnxCostModel
from shardwright_server.errors import StartupError

_LOG = structlog.get_logger(__name__)


class ModelStore:
    """Cost models by hardware profile and version.

    The default of a profile is the promoted version, or the newest where none is promoted.
    Immutable, so every thread may read it.

    Args:
        models: In any order; a profile's versions differ.
        promoted: Hardware profile to its promoted version.
    """

    def __init__(
        self, models: Iterable[OnnxCostModel], promoted: Mapping[str, str] | None = None
    ) -> None:
        self._profiles: dict[str, dict[str, OnnxCostModel]] = {}
        for model in sorted(models, key=_age, reverse=True):
            self._profiles.setdefault(model.id.hardware, {})[model.id.version] = model
        newest = {name: next(iter(versions)) for name, versions in self._profiles.items()}
        self._defaults = newest | dict(promoted or {})

    def resolve(self, hardware: str, version: str = "") -> OnnxCostModel:
        """The model of a profile; an empty version means the default.

        Raises:
            BundleNotFoundError: Listing the profiles or versions there are.
        """
        versions = self._profiles.get(hardware)
        if versions is None:
            raise BundleNotFoundError(
                f"no cost model for hardware {hardware!r:.140}; there are: {_names(self._profiles)}"
            )
        version = version or self._defaults[hardware]
        if version not in versions:
            raise BundleNotFoundError(
                f"no version {version!r:.140} of the cost model for {hardware!r}; "
                f"there are: {_names(versions)}"
            )
        return versions[version]

    def describe(self, hardware: str = "") -> tuple[CostModelDescription, ...]:
        """All models, or those of one profile: by profile, newest first.

        Raises:
            BundleNotFoundError: When a profile is named that has no model.
        """
        if hardware:
            self.resolve(hardware)
        return tuple(
            model.description(is_default=version == self._defaults[profile])
            for profile, versions in sorted(self._profiles.items())
            if profile == hardware or not hardware
            for version, model in versions.items()
        )


def _age(model: OnnxCostModel) -> tuple[datetime, str]:
    description = model.description(is_default=False)
    return description.create_time, description.cost_model.version


def _names(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names))


class ModelLoader:
    """Loads the bundles of a registry, and again when it has changed.

    A version never changes once published, so what was loaded is kept as long as it is listed.

    Args:
        bundles_url: Root of the registry.
    """

    def __init__(self, bundles_url: str) -> None:
        self._registry = Registry(bundles_url)
        self._models: dict[RegistryEntry, OnnxCostModel] = {}
        self._promoted: dict[str, str] = {}
        self._logged: frozenset[str] = frozenset()

    def load(self) -> tuple[ModelStore, tuple[str, ...]]:
        """Loads what is new.

        A damaged bundle is logged, once, and left out; the others serve. Where `promoted.json` is
        damaged, or the version that it names, what was promoted before stays the default, and the
        newest after a start.

        Returns:
            The models, and the faults of what was left out, each naming its file.

        Raises:
            StartupError: When no bundle can be read; the loader is as it was.
        """
        faults: list[str] = []
        models = self._load_bundles(faults)
        if not models:
            found = f"{len(faults)} damaged ({faults[0]})" if faults else "none"
            raise StartupError(
                without_secrets(
                    f"no readable bundle under {self._registry.root_url}, found {found}; point "
                    "--bundles at a registry with <hardware>/<version>/manifest.json in it, as "
                    "shardwright-train writes it"
                )
            )
        self._promoted = self._read_promoted(models, faults)
        self._models = models
        self._logged = frozenset(faults)
        return ModelStore(models.values(), self._promoted), tuple(faults)

    def _load_bundles(self, faults: list[str]) -> dict[RegistryEntry, OnnxCostModel]:
        try:
            entries = self._registry.list()
        except CostModelError as error:
            raise StartupError(f"cannot list the bundles: {error}") from error
        models: dict[RegistryEntry, OnnxCostModel] = {}
        for entry in entries:
            model = self._models.get(entry)
            try:
                models[entry] = model or OnnxCostModel.from_bundle(
                    self._registry.load(entry.hardware, entry.version)
                )
            except CostModelError as error:
                self._leave_out(faults, str(error), bundle=without_secrets(entry.url))
        return models

    def _read_promoted(
        self, models: Mapping[RegistryEntry, OnnxCostModel], faults: list[str]
    ) -> dict[str, str]:
        promoted = {}
        loaded = {(entry.hardware, entry.version) for entry in models}
        for hardware in sorted({entry.hardware for entry in models}):
            version = self._promoted.get(hardware)
            try:
                promotions = self._registry.promotions(hardware)
                version = promotions.promoted if promotions is not None else None
                if version is not None and (hardware, version) not in loaded:
                    raise BundleError(
                        f"{self._registry.root_url}/{hardware}: promoted is {version!r}, which is "
                        "not there or damaged"
                    )
            except CostModelError as error:
                version = self._promoted.get(hardware)
                self._leave_out(faults, str(error), hardware=hardware)
            if version is not None and (hardware, version) in loaded:
                promoted[hardware] = version
        return promoted

    def _leave_out(self, faults: list[str], fault: str, **where: str) -> None:
        faults.append(fault)
        if fault not in self._logged:
            event = "bundle left out" if "bundle" in where else "promotion left out"
            _LOG.error(event, **where, fault=fault)


def load_models(bundles_url: str) -> tuple[ModelStore, tuple[str, ...]]:
    """Loads every bundle of a registry, once; as `ModelLoader.load`."""
    return ModelLoader(bundles_url).load()
