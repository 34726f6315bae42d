"""deploy.sh against a kubectl that records its calls and fails on demand."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

FAKE_KUBECTL = """#!/usr/bin/env bash
# records its arguments; fails with the status in $FAIL_WITH where they begin with $FAIL_ON
echo "$*" >>"$CALLS"
case "$*" in
"${FAIL_ON:-nothing}"*) echo "the fake refuses" >&2; exit "${FAIL_WITH:-1}" ;;
"config current-context") echo test-cluster ;;
"get namespace"*) [ -n "${FIRST:-}" ] || echo namespace/shardwright-dev ;;
"get jobs"*) printf '%s' "${RUNNING:-}" ;;
"kustomize"*) exec "$REAL_KUBECTL" "$@" ;;
esac
"""

WORKERS = "-n shardwright-dev -l app.kubernetes.io/name=shardwright-worker"
ACTIVE_NAMES = "{range .items[?(@.status.active)]}{.metadata.name} {end}"

Deploy = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return tmp_path / "calls"


@pytest.fixture
def deploy(tmp_path: Path, calls: Path) -> Deploy:
    """Runs a copy of deploy/ so that a test may change its overlays."""
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin/kubectl"
    fake.write_text(FAKE_KUBECTL)
    fake.chmod(0o755)
    shutil.copytree(REPOSITORY / "deploy", tmp_path / "deploy")

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
            "CALLS": str(calls),
            "REAL_KUBECTL": str(Path(os.sys.executable).parent / "kubectl"),
        }
        return subprocess.run(
            [str(tmp_path / "deploy/deploy.sh"), *arguments],
            capture_output=True,
            text=True,
            env=environment | variables,
        )

    return run


def made(calls: Path) -> list[str]:
    return calls.read_text().splitlines() if calls.exists() else []


def told(result: subprocess.CompletedProcess[str]) -> str:
    """The script's one line of advice."""
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("deploy: ")]
    return line


def test_a_deployment_compares_applies_and_waits(deploy: Deploy, calls: Path) -> None:
    done = deploy("dev", ROLLOUT_TIMEOUT="42s")
    assert done.returncode == 0, done.stderr
    folder = calls.parent / "deploy/kubernetes/overlays/dev"
    assert made(calls) == [
        f"kustomize {folder}",
        "config current-context",
        "get --raw /readyz --request-timeout=10s",
        "get namespace shardwright-dev --ignore-not-found -o name",
        f"get jobs {WORKERS} -o jsonpath={ACTIVE_NAMES}",
        f"delete jobs {WORKERS}",
        f"diff -k {folder}",
        f"apply -k {folder}",
        "rollout status deployment/shardwright-server -n shardwright-dev --timeout=42s",
    ]
    assert "deploy: dev to cluster 'test-cluster', namespace 'shardwright-dev'" in done.stdout
    assert "dns:///shardwright-server.shardwright-dev:50051" in done.stdout


def test_differences_are_no_failure(deploy: Deploy, calls: Path) -> None:
    done = deploy("dev", FAIL_ON="diff", FAIL_WITH="1")
    assert done.returncode == 0, done.stderr
    assert made(calls)[-1].startswith("rollout status")


def test_a_first_deployment_has_nothing_to_compare(deploy: Deploy, calls: Path) -> None:
    done = deploy("dev", FIRST="1")
    assert done.returncode == 0, done.stderr
    assert "first deployment" in done.stdout
    assert not [call for call in made(calls) if call.startswith(("diff", "delete"))]


def test_a_running_measurement_is_left_alone(deploy: Deploy, calls: Path) -> None:
    refused = deploy("dev", RUNNING="shardwright-worker-comm ")
    assert refused.returncode == 2
    assert "measurements are running: shardwright-worker-comm; wait" in told(refused)
    assert made(calls)[-1].startswith("get jobs"), "nothing is deleted, nothing applied"


@pytest.mark.parametrize(
    ("fail_on", "fail_with", "status", "advice"),
    [
        ("kustomize", "1", 2, "does not render"),
        ("config current-context", "1", 2, "kubectl config use-context NAME"),
        ("get --raw /readyz", "1", 2, "cluster 'test-cluster' does not answer"),
        ("get namespace", "1", 2, "ask for the right to get them"),
        ("get jobs", "1", 2, "ask for the right to get them"),
        ("delete jobs", "1", 2, "ask for the right to delete Jobs"),
        ("diff", "2", 1, "nothing was applied"),
        ("apply", "1", 1, "deploy again, it is repeatable"),
        ("rollout status", "1", 1, "kubectl rollout undo -n shardwright-dev"),
    ],
)
def test_each_failure_stops_there_and_says_in_one_line_what_to_do(
    deploy: Deploy, calls: Path, fail_on: str, fail_with: str, status: int, advice: str
) -> None:
    failed = deploy("dev", FAIL_ON=fail_on, FAIL_WITH=fail_with)
    assert failed.returncode == status
    assert advice in told(failed)
    assert made(calls)[-1].startswith(fail_on), "nothing is called after the failure"


@pytest.mark.parametrize("arguments", [(), ("staging",), ("",), ("../base",)])
def test_an_unknown_overlay_is_told_with_those_there_are(
    deploy: Deploy, calls: Path, arguments: tuple[str, ...]
) -> None:
    refused = deploy(*arguments)
    assert refused.returncode == 2
    assert "there are: dev prod" in told(refused)
    assert made(calls) == []


def test_a_missing_kubectl_is_told(deploy: Deploy, calls: Path) -> None:
    refused = deploy("dev", KUBECTL="kubectl-that-is-not-there")
    assert refused.returncode == 2
    assert "install kubectl" in told(refused)


def test_production_is_not_deployed_with_example_names(deploy: Deploy, calls: Path) -> None:
    refused = deploy("prod")
    assert refused.returncode == 2
    assert "put your own registry and bucket" in told(refused)
    assert [call.split()[0] for call in made(calls)] == ["kustomize"]


def test_production_is_deployed_once_it_names_real_places(deploy: Deploy, calls: Path) -> None:
    overlay = calls.parent / "deploy/kubernetes/overlays/prod/kustomization.yaml"
    text = overlay.read_text()
    overlay.write_text(
        text.replace("registry.example.com", "registry.corp").replace("example-bucket", "plans")
    )
    done = deploy("prod")
    assert done.returncode == 0, done.stderr
    assert made(calls)[-1] == (
        "rollout status deployment/shardwright-server -n shardwright --timeout=300s"
    )
