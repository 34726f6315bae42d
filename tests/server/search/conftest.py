"""Fixtures of the search tests."""

import pytest

from shardwright_costmodel.registry import DEFAULT_BUNDLES_URL, Registry
from shardwright_costmodel.runtime import OnnxCostModel


@pytest.fixture(scope="session")
def shipped_cost_model() -> OnnxCostModel:
    """The first of the bundles that ship with the cost-model package."""
    registry = Registry(DEFAULT_BUNDLES_URL)
    return OnnxCostModel.from_bundle(registry.load(registry.list()[0].hardware, None))
