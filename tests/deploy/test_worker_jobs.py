"""The commands of the worker Jobs, run as their pods would run them, with small options."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from shardwright_benchmark_worker.errors import LostRankError, OptionError
from shardwright_costmodel.dataset import Kind, Part, list_parts, read_part

# the overlays differ in where data lies and in images, not in what runs
pytestmark = pytest.mark.parametrize("overlay", ["dev"], indirect=True, scope="session")

Process = subprocess.Popen[bytes]
BIN = Path(sys.executable).parent
SMALL = {
    "compute": ("--device=roofline:nvidia-h100-sxm5-80gb", "--samples=90", "--part-size=10"),
    "comm": (
        *("--device=cpu", "--samples=4", "--part-size=2", "--max-batch-size=512"),
        *("--max-skew-ms=5", "--repetitions=1", "--max-repetitions=1", "--max-drift-percent=1000"),
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


CLOCKS_APART_S = 5000


def as_pod(namespace: str, index: int) -> tuple[str, ...]:
    """What runs a command with the network, the name and the monotonic clock of a host."""
    named = f'hostname shardwright-worker-comm-{index}; exec "$@"'
    clock = ("--time", f"--monotonic={index * CLOCKS_APART_S}", "--fork", "--kill-child=TERM")
    return (
        *("ip", "netns", "exec", namespace, "unshare", "--uts", *clock),
        *("sh", "-c", named, "sh"),
    )


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
                run(*as_pod(namespace, 0), "true")
        except (subprocess.CalledProcessError, PermissionError) as error:
            pytest.skip(f"may not make network and time namespaces, run as root: {error}")
        yield addresses


def run_pods(
    container: dict[str, Any],
    hosts: dict[str, str],
    folder: Path,
    *options: tuple[str, ...],
    meanwhile: Callable[[list[Process]], None] = lambda pods: None,
) -> tuple[list[int], list[str]]:
    """Runs the command of comm on all hosts at once: exit statuses and logs.

    Args:
        container: Of the Job.
        hosts: As the fixture has them.
        folder: For `data/` and logs.
        options: Of each pod, behind those of the manifest.
        meanwhile: Called with the running pods.
    """
    pods = []
    for index, (namespace, ip) in enumerate(hosts.items()):
        variables = pod_variables(container, index, ip, folder / "data")
        command = command_line(container, variables, *SMALL["comm"], *options[index])
        with (folder / f"log{index}").open("w") as log:
            pods.append(
                subprocess.Popen(
                    [*as_pod(namespace, index), *command], env=environment(variables), stderr=log
                )
            )
    try:
        meanwhile(pods)
        statuses = [pod.wait(timeout=200) for pod in pods]
    finally:
        for pod in pods:
            pod.kill()
    return statuses, [(folder / f"log{index}").read_text() for index in range(len(pods))]


def with_devices(container: dict[str, Any], devices: int) -> dict[str, Any]:
    """The container with another number of ranks than the 8 of the manifest."""
    command = [
        word.replace("--nproc-per-node=8", f"--nproc-per-node={devices}")
        for word in container["command"]
    ]
    assert command != container["command"]
    return {**container, "command": command}


@pytest.mark.parametrize("devices", [1, 2])
def test_the_pods_of_comm_measure_across_two_hosts(
    devices: int, manifests: list[dict[str, Any]], hosts: dict[str, str], tmp_path: Path
) -> None:
    spec = job(manifests, "comm")
    (container,) = spec["template"]["spec"]["containers"]
    assert spec["completions"] == len(hosts)
    statuses, logs = run_pods(with_devices(container, devices), hosts, tmp_path, (), ())
    assert statuses == [0, 0], "\n".join(logs)
    # the index is that of a host here, and rank 0 alone records
    assert sum("metrics are served" in log for log in logs) == 1
    for kind in (Kind.COMM, Kind.ALL_REDUCE, Kind.REDUCE_SCATTER):
        parts = [read_part(url, kind) for url in list_parts(str(tmp_path / "data"), kind)]
        assert [part.table.num_rows for part in parts] == [2, 2]
        for part in parts:
            assert part.metadata.fingerprint["world_size"] == str(2 * devices)
            assert part.metadata.fingerprint["hosts"] == "2", "their clocks differ"
            for row in part.table.to_pylist():
                assert (row["world_size"], row["devices_per_host"]) == (2 * devices, devices)
        if kind is Kind.COMM:
            rows_have_one_entry_per_device(parts, 2 * devices)
            waits_are_those_of_one_clock(parts, devices)


LISTS = ("dims", "start_skew_ms", "forward_ms", "backward_ms", "wait_ms")


def rows_have_one_entry_per_device(parts: list[Part], world_size: int) -> None:
    for part in parts:
        for row in part.table.to_pylist():
            assert {name: len(row[name]) for name in LISTS} == dict.fromkeys(LISTS, world_size)
            assert min(row["forward_ms"]) > 0
            # who sends to nobody and gets nothing may be done at once, but not before
            assert min(row["backward_ms"]) >= 0 and max(row["backward_ms"]) > 0


def waits_are_those_of_one_clock(parts: list[Part], devices: int) -> None:
    """Each was timed once, so that the last to start waited for nobody.

    Were the offset of the clocks not found, all on one host would seem to wait to the end.
    """
    transferred = [False, False]
    for part in parts:
        assert 0 < float(part.metadata.measuring["clock_error_ms"]) < CLOCKS_APART_S * 1e3
        for row in part.table.to_pylist():
            waits = list(zip(row["wait_ms"], row["forward_ms"], strict=True))
            assert min(row["wait_ms"]) == 0
            assert all(0 <= wait <= forward for wait, forward in waits), waits
            for host in range(2):
                of_host = waits[host * devices : (host + 1) * devices]
                transferred[host] |= any(wait < forward for wait, forward in of_host)
    assert transferred == [True, True]


def test_a_mistake_of_one_pod_ends_both_without_another_start(
    manifests: list[dict[str, Any]], hosts: dict[str, str], tmp_path: Path
) -> None:
    (container,) = job(manifests, "comm")["template"]["spec"]["containers"]
    mistaken, right = ("--timeout-s=0",), ("--timeout-s=20",)
    statuses, logs = run_pods(with_devices(container, 2), hosts, tmp_path, mistaken, right)
    assert statuses == [OptionError.exit_status, LostRankError.exit_status], "\n".join(logs)
    # a rank that is slower may be stopped before it says so; a second start would say it again
    assert logs[0].count("error: --timeout-s must be in 1 .. 86400, got 0") in (1, 2), logs[0]
    assert not (tmp_path / "data").exists()


def ranks(pod: Process) -> list[int]:
    """Process ids in a pod that have no children."""
    found, todo = [], [pod.pid]
    while todo:
        pid = todo.pop()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        todo += map(int, children)
        found += [] if children else [pid]
    return found


def test_a_rank_lost_on_one_host_starts_again_on_both(
    manifests: list[dict[str, Any]], hosts: dict[str, str], tmp_path: Path
) -> None:
    (container,) = job(manifests, "comm")["template"]["spec"]["containers"]

    def lose_one(pods: list[Process]) -> None:
        deadline_s = time.monotonic() + 120
        while not list_parts(str(tmp_path / "data"), Kind.COMM):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        (rank,) = ranks(pods[1])
        os.kill(rank, signal.SIGKILL)

    more = ("--samples=40",)
    statuses, logs = run_pods(
        with_devices(container, 1), hosts, tmp_path, more, more, meanwhile=lose_one
    )
    assert statuses == [0, 0], "\n".join(logs)
    assert "parts are already there" in logs[0], "it went on behind them"
    for kind in (Kind.COMM, Kind.ALL_REDUCE, Kind.REDUCE_SCATTER):
        parts = [read_part(url, kind) for url in list_parts(str(tmp_path / "data"), kind)]
        assert sum(part.table.num_rows for part in parts) == 40


def test_a_mistake_in_comm_fails_the_job_at_once(manifests: list[dict[str, Any]]) -> None:
    spec = job(manifests, "comm")
    (container,) = spec["template"]["spec"]["containers"]
    drained, mistake = spec["podFailurePolicy"]["rules"]
    assert (drained["action"], mistake["action"]) == ("Ignore", "FailJob")
    assert mistake["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [OptionError.exit_status],
    }
    assert spec["backoffLimit"] > 0, "what may pass is tried again"
    assert container["command"][:3] == ["python", "-m", "shardwright_benchmark_worker.launch"]
