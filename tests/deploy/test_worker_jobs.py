"""The commands of the worker Jobs, run as their pods would run them, with small options."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from shardwright_costmodel.dataset import Kind, list_parts, read_part

# the overlays differ in where data lies and in images, not in what runs
pytestmark = pytest.mark.parametrize("overlay", ["dev"], indirect=True, scope="session")

BIN = Path(sys.executable).parent
SMALL = {
    "compute": ("--device=roofline:nvidia-h100-sxm5-80gb", "--samples=90", "--part-size=10"),
    "comm": (
        *("--device=cpu", "--samples=4", "--part-size=2", "--max-batch-size=512"),
        *("--max-skew-ms=0", "--repetitions=2", "--max-repetitions=2", "--max-drift-percent=1000"),
    ),
}
"""Later options win over those of the manifest."""


def job(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (
        m
        for m in manifests
        if m["kind"] == "Job" and m["metadata"]["name"] == f"shardwright-worker-{kind}"
    )
    return dict(found["spec"])


def pod_variables(container: dict[str, Any], index: int, ip: str, data: Path) -> dict[str, str]:
    """What Kubernetes sets in a pod, and what the ConfigMap says, with the data at hand."""
    fields = {"status.podIP": ip}
    own = {
        variable["name"]: variable["value"]
        if "value" in variable
        else fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        for variable in container["env"]
    }
    storage = {"DATASET_URL": str(data), "HARDWARE": "this-machine"}
    return {**storage, **own, "JOB_COMPLETION_INDEX": str(index)}


def command_line(container: dict[str, Any], variables: dict[str, str], *more: str) -> list[str]:
    """Command and arguments as Kubernetes expands them; the image's entry point without one."""
    words = [*container.get("command", ["shardwright-worker"]), *container["args"]]
    expanded = [re.sub(r"\$\((\w+)\)", lambda m: variables[m[1]], word) for word in words]
    first = str(BIN / expanded[0])
    assert Path(first).exists()
    return [first, *expanded[1:], *more]


def environment(variables: dict[str, str]) -> dict[str, str]:
    path = f"{BIN}:{os.environ['PATH']}"
    return {**os.environ, **variables, "PATH": path, "OMP_NUM_THREADS": "1"}


def test_the_pods_of_compute_measure_every_sample_once(
    manifests: list[dict[str, Any]], tmp_path: Path
) -> None:
    spec = job(manifests, "compute")
    (container,) = spec["template"]["spec"]["containers"]
    for index in range(spec["completions"]):
        variables = pod_variables(container, index, "127.0.0.1", tmp_path)
        more = (*SMALL["compute"], "--metrics-port=0")
        done = subprocess.run(
            command_line(container, variables, *more),
            env=environment(variables),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    parts = [read_part(url, Kind.COMPUTE) for url in list_parts(str(tmp_path), Kind.COMPUTE)]
    assert len(parts) == 9 and sum(part.table.num_rows for part in parts) == 90


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def host(namespace: str, names: dict[str, str]) -> Iterator[None]:
    """A network namespace with a hosts file of its own, as a pod has them."""
    run("ip", "netns", "add", namespace)
    folder = Path("/etc/netns") / namespace
    try:
        folder.mkdir(parents=True)
        lines = ["127.0.0.1 localhost", *(f"{ip} {name}" for name, ip in names.items())]
        (folder / "hosts").write_text("\n".join(lines) + "\n")
        run("ip", "-n", namespace, "link", "set", "lo", "up")
        yield
    finally:
        run("ip", "netns", "del", namespace)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def hosts() -> Iterator[dict[str, str]]:
    """Two hosts with a cable between them: namespace to address."""
    addresses = {f"sw{os.getpid()}{end}": f"10.77.0.{i}" for i, end in ((1, "a"), (2, "b"))}
    pods = {f"shardwright-worker-comm-{i}": ip for i, ip in enumerate(addresses.values())}
    names = pods | {f"{name}.shardwright-worker-comm": ip for name, ip in pods.items()}
    if shutil.which("ip") is None:
        pytest.skip("no ip on PATH; apt-get install iproute2")
    with ExitStack() as stack:
        try:
            for namespace in addresses:
                stack.enter_context(host(namespace, names))
            ends = [f"v{namespace}" for namespace in addresses]
            run("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
            for end, (namespace, ip) in zip(ends, addresses.items(), strict=True):
                run("ip", "link", "set", end, "netns", namespace, "name", "eth0")
                run("ip", "-n", namespace, "addr", "add", f"{ip}/24", "dev", "eth0")
                run("ip", "-n", namespace, "link", "set", "eth0", "up")
        except (subprocess.CalledProcessError, PermissionError) as error:
            pytest.skip(f"may not make network namespaces, run as root: {error}")
        yield addresses


def test_the_pods_of_comm_measure_across_two_hosts(
    manifests: list[dict[str, Any]], hosts: dict[str, str], tmp_path: Path
) -> None:
    spec = job(manifests, "comm")
    (container,) = spec["template"]["spec"]["containers"]
    container = {
        **container,
        "command": [
            word.replace("--nproc-per-node=8", "--nproc-per-node=1")
            for word in container["command"]
        ],
    }
    assert spec["completions"] == len(hosts)
    pods = []
    for index, (namespace, ip) in enumerate(hosts.items()):
        variables = pod_variables(container, index, ip, tmp_path / "data")
        command = command_line(container, variables, *SMALL["comm"])
        named = f'hostname shardwright-worker-comm-{index}; exec "$@"'
        inside = ("ip", "netns", "exec", namespace, "unshare", "--uts", "sh", "-c", named, "sh")
        log = (tmp_path / f"log{index}").open("w")
        pods.append(subprocess.Popen([*inside, *command], env=environment(variables), stderr=log))
    try:
        statuses = [pod.wait(timeout=200) for pod in pods]
    finally:
        for pod in pods:
            pod.kill()
    logs = [(tmp_path / f"log{index}").read_text() for index in range(len(pods))]
    assert statuses == [0, 0], "\n".join(logs)
    parts = [read_part(url, Kind.COMM) for url in list_parts(str(tmp_path / "data"), Kind.COMM)]
    assert [part.table.num_rows for part in parts] == [2, 2]
    for row in parts[0].table.to_pylist():
        assert (row["world_size"], row["devices_per_host"]) == (2, 1)
    # the index is that of a host here, and rank 0 alone records
    assert sum("part written" in log for log in logs) == 1
    assert sum("metrics are served" in log for log in logs) == 1
