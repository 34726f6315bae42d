"""Renders the overlays once for all tests of this folder."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
OVERLAYS = sorted(
    path.parent.name
    for path in (REPOSITORY / "deploy/kubernetes/overlays").glob("*/kustomization.yaml")
)
KUBECTL = Path(sys.executable).parent / "kubectl"

Manifest = dict[str, Any]


@pytest.fixture(scope="session", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def manifests(overlay: str) -> list[Manifest]:
    rendered = subprocess.run(
        [str(KUBECTL), "kustomize", str(REPOSITORY / "deploy/kubernetes/overlays" / overlay)],
        capture_output=True,
        text=True,
    )
    assert rendered.returncode == 0, rendered.stderr
    assert rendered.stderr == "", "kustomize warns"
    return list(yaml.safe_load_all(rendered.stdout))
