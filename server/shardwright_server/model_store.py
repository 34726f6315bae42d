"""The cost models that can answer, loaded from a registry of bundles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

import structlog

from shardwright.domain import CostModelDescription
from shardwright_costmodel.errors import BundleNotFoundError, CostModelError
from shardwright_costmodel.registry import Registry
from shardwright_costmodel.runtime import OnnxCostModel
from shardwright_server.errors import StartupError

_LOG = structlog.get_logger(__name__)


class ModelStore:
    """Cost models by hardware profile and version; the newest of a profile is its default.

    Immutable, so every thread may read it.

    Args:
        models: In any order; a profile's versions differ.
    """

    def __init__(self, models: Iterable[OnnxCostModel]) -> None:
        self._profiles: dict[str, dict[str, OnnxCostModel]] = {}
        for model in sorted(models, key=_age, reverse=True):
            self._profiles.setdefault(model.id.hardware, {})[model.id.version] = model

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
        if not version:
            return next(iter(versions.values()))
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
            model.description(is_default=i == 0)
            for profile, versions in sorted(self._profiles.items())
            if profile == hardware or not hardware
            for i, model in enumerate(versions.values())
        )


def _age(model: OnnxCostModel) -> tuple[datetime, str]:
    description = model.description(is_default=False)
    return description.create_time, description.cost_model.version


def _names(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names))


def load_models(bundles_url: str) -> tuple[ModelStore, tuple[str, ...]]:
    """Loads every bundle of a registry.

    A damaged bundle is logged and left out; the others serve.

    Returns:
        The models, and the faults of the bundles left out, each naming its file.

    Raises:
        StartupError: When no bundle can be read.
    """
    registry = Registry(bundles_url)
    models: list[OnnxCostModel] = []
    faults: list[str] = []
    try:
        entries = registry.list()
    except CostModelError as error:
        raise StartupError(f"cannot list the bundles: {error}") from error
    for entry in entries:
        try:
            bundle = registry.load(entry.hardware, entry.version)
            models.append(OnnxCostModel.from_bundle(bundle))
        except CostModelError as error:
            faults.append(str(error))
            _LOG.error("bundle left out", bundle=entry.url, fault=str(error))
    if not models:
        found = f"{len(faults)} damaged ({faults[0]})" if faults else "none"
        raise StartupError(
            f"no readable bundle under {bundles_url}, found {found}; point --bundles at a registry "
            "with <hardware>/<version>/manifest.json in it, as shardwright-train writes it"
        )
    return ModelStore(models), tuple(faults)
