"""What measures, as text: enough to tell later why two datasets differ.

Nothing here fails: what cannot be read is `unknown`.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import socket
import struct
import subprocess
from pathlib import Path

import torch

from shardwright_benchmark_worker.measure import host

UNKNOWN = "unknown"
_SIOCGIFADDR = 0x8915
_SMI_FIELDS = {
    "driver": "driver_version",
    "clock_mhz": "clocks.current.sm",
    "max_clock_mhz": "clocks.max.sm",
    "memory_clock_mhz": "clocks.current.memory",
    "power_limit_w": "power.limit",
    "throttle_reasons": "clocks_throttle_reasons.active",
    "ecc": "ecc.mode.current",
    "mig": "mig.mode.current",
}


def cpu_fingerprint() -> dict[str, str]:
    """Of the processor and its host."""
    policy = "/sys/devices/system/cpu/cpu0/cpufreq"
    max_khz = host.read_int(f"{policy}/cpuinfo_max_freq")
    return _texts(
        device=host.cpu_info("model name") or platform.processor() or platform.machine(),
        devices=1,
        memory_bytes=host.memory_bytes("MemTotal"),
        processors=os.cpu_count(),
        usable_processors=host.usable_processors(),
        threads=torch.get_num_threads(),
        clock_mhz=host.cpu_info("cpu MHz"),
        max_clock_mhz=None if max_khz is None else max_khz / 1000,
        governor=host.read_text(f"{policy}/scaling_governor"),
        microcode=host.cpu_info("microcode"),
        last_level_cache_bytes=max(host.cache_bytes().values(), default=None),
        transparent_hugepage=_chosen(host.read_text("/sys/kernel/mm/transparent_hugepage/enabled")),
        cuda="none",
        nccl="none",
        link="none",
        **_host(),
    )


def cuda_fingerprint(device: torch.device) -> dict[str, str]:
    """Of a GPU and its host."""
    properties = torch.cuda.get_device_properties(device)
    uuid = getattr(properties, "uuid", None)
    return _texts(
        device=properties.name,
        devices=torch.cuda.device_count(),
        memory_bytes=properties.total_memory,
        processors=os.cpu_count(),
        usable_processors=host.usable_processors(),
        last_level_cache_bytes=properties.L2_cache_size,
        cuda=torch.version.cuda,
        nccl=_nccl_version(),
        link=gpu_link(torch.cuda.device_count()),
        **gpu_state(None if uuid is None else f"GPU-{uuid}"),
        **_host(),
    )


def gpu_state(identifier: str | None) -> dict[str, str | None]:
    """Driver, clocks and modes of a GPU by nvidia-smi.

    Args:
        identifier: Its UUID, which does not depend on CUDA_VISIBLE_DEVICES; None: the first one.
    """
    query = f"--query-gpu={','.join(_SMI_FIELDS.values())}"
    output = _nvidia_smi(query, "--format=csv,noheader,nounits", "-i", identifier or "0")
    values = [value.strip() for value in (output or "").split(",")]
    if len(values) != len(_SMI_FIELDS):
        return dict.fromkeys(_SMI_FIELDS)
    return {name: value or None for name, value in zip(_SMI_FIELDS, values, strict=True)}


def gpu_link(devices: int) -> str | None:
    """How the GPUs of this host are connected, by `nvidia-smi topo -m`: `NV18`, `PIX,SYS`, ...

    See the legend that nvidia-smi prints: NV# is a bond of # NVLinks, all others cross PCIe.
    """
    if devices < 2:
        return "none"
    kinds = set()
    for line in (_nvidia_smi("topo", "-m") or "").splitlines():
        cells = re.sub(r"\x1b\[[0-9;]*m", "", line).split()
        if cells and re.fullmatch(r"GPU\d+", cells[0]) and "X" in cells[1 : devices + 1]:
            kinds.update(cells[1 : devices + 1])
    return ",".join(sorted(kinds - {"X"})) or None


def host_link(backend: str) -> dict[str, str]:
    """What connects hosts: the interface that the backend's sockets use, and InfiniBand ports."""
    chosen = os.environ.get(f"{backend.upper()}_SOCKET_IFNAME")
    adapters = sorted(path.name for path in Path("/sys/class/infiniband").glob("*"))
    return _texts(
        interface=chosen or _interface_of(socket.gethostname()),
        infiniband=",".join(adapters) or "none",
    )


def _host() -> dict[str, object]:
    return {
        "host": platform.node(),
        "kernel": platform.release(),
        "container_memory_bytes": host.container_memory_bytes() or "none",
        "container_processors": host.container_processors() or "none",
    }


def _texts(**values: object) -> dict[str, str]:
    return {name: UNKNOWN if value is None else str(value) for name, value in values.items()}


def _chosen(options: str | None) -> str | None:
    """The one in brackets of `always [madvise] never`."""
    found = re.search(r"\[(\w+)\]", options or "")
    return found.group(1) if found else None


def _nccl_version() -> str | None:
    try:
        return ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    except (RuntimeError, AttributeError, TypeError):
        return None


def _nvidia_smi(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _interface_of(name: str) -> str | None:
    """The network interface that has the address of a host's name."""
    try:
        address = socket.gethostbyname(name)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            for _, interface in socket.if_nameindex():
                request = struct.pack("256s", interface.encode()[:15])
                try:
                    answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
                except OSError:
                    continue
                if socket.inet_ntoa(answer[20:24]) == address:
                    return interface
    except OSError:
        pass
    # addresses such as 127.0.1.1 belong to no interface by name
    return None
