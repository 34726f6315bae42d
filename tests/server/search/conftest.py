"""Fixtures of the search tests."""

import pytest

from shardwright_costmodel.registry import DEFAULT_BUNDLES_URL, Registry
from shardwright_costmodel.runtime import OnnxCostModel


@pytest.fixture(scope="session")
def shipped_cost_model() -> OnnxCostModel:
    """The H100 bundle that ships with the cost-model package."""
    registry = Registry(DEFAULT_BUNDLES_URL)
    return OnnxCostModel.from_bundle(registry.load("nvidia-h100-sxm5-80gb", None))
