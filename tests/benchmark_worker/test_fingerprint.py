"""What measures: read where it can be read, unknown where not, and never a failure."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from shardwright_benchmark_worker.measure import fingerprint, host
from shardwright_benchmark_worker.measure.device import open_device

TOPOLOGY = """\
\tGPU0\tGPU1\tGPU2\tNIC0\tCPU Affinity\tNUMA Affinity
\x1b[4mGPU0\t X \tNV18\tSYS\tPIX\t0-55\t0\x1b[0m
GPU1\tNV18\t X \tSYS\tNODE\t0-55\t0
GPU2\tSYS\tSYS\t X \tNODE\t56-111\t1
NIC0\tPIX\tNODE\tNODE\t X

Legend:
"""
STATE = "550.54.15, 1980, 1980, 2619, 700.00, 0x0000000000000000, Enabled, Disabled"


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of that name which answers as the real one does, and records its arguments."""
    (tmp_path / "topology").write_text(TOPOLOGY)
    program = tmp_path / "nvidia-smi"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'
        f'if [ "$1" = topo ]; then cat {tmp_path}/topology; else echo "{STATE}"; fi\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_a_cpu_says_what_decides_its_speed() -> None:
    found = open_device("cpu").fingerprint()
    assert {
        *("device", "devices", "memory_bytes", "clock_mhz", "max_clock_mhz", "governor"),
        *("microcode", "threads", "processors", "usable_processors", "last_level_cache_bytes"),
        *("kernel", "host", "container_memory_bytes", "container_processors", "cuda", "nccl"),
        "link",
    } <= set(found)
    assert all(isinstance(value, str) and value for value in found.values())
    assert int(found["threads"]) == torch.get_num_threads()
    assert int(found["usable_processors"]) == len(os.sched_getaffinity(0))
    # what psutil and free(1) read
    assert int(found["memory_bytes"]) == pytest.approx(
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), rel=0.01
    )


def test_what_cannot_be_read_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "read_text", lambda path: None)
    found = fingerprint.cpu_fingerprint()
    for name in ("memory_bytes", "clock_mhz", "max_clock_mhz", "governor", "microcode"):
        assert found[name] == "unknown"
    assert found["last_level_cache_bytes"] == "unknown"
    assert found["container_memory_bytes"] == found["container_processors"] == "none"
    assert host.available_memory_bytes() > 0


def test_files_that_are_no_text_or_not_there_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "words").write_text("many\n")
    for name in ("binary", "words", "missing"):
        assert host.read_int(str(tmp_path / name)) is None
    assert host.read_text(str(tmp_path / "words")) == "many"


CGROUP_V2 = {
    "/proc/self/cgroup": "0::/pods/worker",
    "/sys/fs/cgroup/pods/worker/memory.max": "max",
    "/sys/fs/cgroup/pods/worker/memory.current": "1000",
    "/sys/fs/cgroup/pods/memory.max": "5000",
    "/sys/fs/cgroup/pods/worker/cpu.max": "150000 100000",
    "/proc/meminfo": "MemTotal: 100 kB\nMemAvailable: 90 kB\n",
}
CGROUP_V1 = {
    "/proc/self/cgroup": "4:memory:/worker\n2:cpu,cpuacct:/worker\n0::/",
    "/sys/fs/cgroup/memory/worker/memory.limit_in_bytes": "5000",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**63 - 4096),
    "/sys/fs/cgroup/memory/worker/memory.usage_in_bytes": "1000",
    "/sys/fs/cgroup/cpu/worker/cpu.cfs_quota_us": "150000",
    "/sys/fs/cgroup/cpu/worker/cpu.cfs_period_us": "100000",
    "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
    "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
    "/proc/meminfo": "MemTotal: 100 kB\nMemAvailable: 90 kB\n",
}


@pytest.mark.parametrize("files", [CGROUP_V2, CGROUP_V1], ids=["v2", "v1"])
def test_the_limits_of_a_container_count(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "read_text", files.get)
    assert host.container_memory_bytes() == 5000
    assert host.available_memory_bytes() == 4000
    assert host.container_processors() == 1.5


def test_the_links_of_gpus_are_read(nvidia_smi: None) -> None:
    assert fingerprint.gpu_link(3) == "NV18,SYS"
    assert fingerprint.gpu_link(1) == "none"


def test_the_state_of_a_gpu_is_read(nvidia_smi: None, tmp_path: Path) -> None:
    state = fingerprint.gpu_state("GPU-1234")
    assert state["driver"] == "550.54.15" and state["clock_mhz"] == "1980"
    assert state["power_limit_w"] == "700.00" and state["mig"] == "Disabled"
    assert "-i GPU-1234" in (tmp_path / "asked").read_text()


def test_without_nvidia_smi_a_gpu_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert set(fingerprint.gpu_state(None).values()) == {None}
    assert fingerprint.gpu_link(8) is None


def test_an_older_nvidia_smi_that_refuses_a_field_is_unknown(
    nvidia_smi: None, tmp_path: Path
) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'Field \"x\" is not valid'\nexit 2\n")
    assert set(fingerprint.gpu_state(None).values()) == {None}


def test_the_interface_of_the_backend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    assert fingerprint.host_link("gloo")["interface"] == "eth7"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setattr("socket.gethostname", lambda: "localhost")
    assert fingerprint.host_link("gloo")["interface"] == "lo"
    monkeypatch.setattr("socket.gethostname", lambda: "no.such.host.invalid")
    assert fingerprint.host_link("gloo")["interface"] == "unknown"


@pytest.mark.gpu
def test_a_gpu_says_what_decides_its_speed() -> None:
    found = open_device("cuda").fingerprint()
    assert found["device"] and found["driver"] != "unknown" and found["link"] != "unknown"
