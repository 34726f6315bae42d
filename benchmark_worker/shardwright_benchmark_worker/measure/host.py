"""What the operating system says about this host; whatever cannot be read is None."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

_UNLIMITED = 2**60
"""Memory limits from here on mean none: cgroup v1 writes a number near 2^63."""


def read_text(path: str) -> str | None:
    """A small file of the kernel's, stripped."""
    try:
        return Path(path).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def read_int(path: str) -> int | None:
    """A number in a small file of the kernel's."""
    try:
        return int(read_text(path) or "")
    except ValueError:
        return None


def cpu_info(field: str) -> str | None:
    """A field of the first processor in /proc/cpuinfo."""
    found = re.search(rf"^{re.escape(field)}\s*:\s*(.+)$", read_text("/proc/cpuinfo") or "", re.M)
    return found.group(1).strip() if found else None


def memory_bytes(field: str) -> int | None:
    """A field of /proc/meminfo, such as MemTotal or MemAvailable."""
    found = re.search(rf"^{field}:\s*(\d+) kB$", read_text("/proc/meminfo") or "", re.M)
    return int(found.group(1)) * 1024 if found else None


def available_memory_bytes() -> int:
    """Memory that can be allocated now; honours the memory limit of a container."""
    free = memory_bytes("MemAvailable")
    if free is None:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = container_memory_bytes()
    return free if limit is None else min(free, max(limit - (_container_used_bytes() or 0), 0))


def cache_bytes() -> dict[int, int]:
    """Level to bytes of the data caches that the first processor uses."""
    caches = {}
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        level, size = read_int(f"{folder}/level"), read_text(f"{folder}/size")
        found = re.fullmatch(r"(\d+)K", size or "")
        if level is not None and found and read_text(f"{folder}/type") != "Instruction":
            caches[level] = int(found.group(1)) * 1024
    return caches


def usable_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def container_memory_bytes() -> int | None:
    """The smallest memory limit of this process's control groups; None: there is none."""
    limits = [read_int(f"{group}/memory.max") for group in _groups("")]
    limits += [read_int(f"{group}/memory.limit_in_bytes") for group in _groups("memory")]
    return min((n for n in limits if n is not None and n < _UNLIMITED), default=None)


def container_processors() -> float | None:
    """Processors' worth of time that the control groups allow; None: all."""
    shares = []
    for group in _groups(""):
        quota, _, period = (read_text(f"{group}/cpu.max") or "max").partition(" ")
        if quota != "max" and period:
            shares.append(int(quota) / int(period))
    for group in _groups("cpu"):
        quota_us = read_int(f"{group}/cpu.cfs_quota_us")
        period_us = read_int(f"{group}/cpu.cfs_period_us")
        if quota_us is not None and period_us and quota_us > 0:
            shares.append(quota_us / period_us)
    return min(shares, default=None)


def _container_used_bytes() -> int | None:
    used = [read_int(f"{group}/memory.current") for group in _groups("")]
    used += [read_int(f"{group}/memory.usage_in_bytes") for group in _groups("memory")]
    return next((n for n in used if n is not None), None)


def _groups(controller: str) -> Iterator[str]:
    """Folders of this process's control group and those above it; "" for version 2."""
    mount = f"/sys/fs/cgroup/{controller}".rstrip("/")
    for line in (read_text("/proc/self/cgroup") or "").splitlines():
        _, names, path = line.split(":", 2)
        if (controller in names.split(",")) if controller else not names:
            parts = [part for part in path.split("/") if part]
            # in a container the path may be the host's, of which only the root is mounted
            for depth in range(len(parts), -1, -1):
                yield "/".join([mount, *parts[:depth]])
