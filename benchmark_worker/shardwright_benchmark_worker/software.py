"""Versions of the software behind a measurement."""

from __future__ import annotations

import platform
from importlib import metadata

_PACKAGES = ("shardwright-benchmark-worker", "shardwright-costmodel", "numpy", "pyarrow")
_DEVICE_PACKAGES = ("torch", "fbgemm-gpu", "fbgemm-gpu-cpu")


def software_versions(*, measured: bool) -> dict[str, str]:
    """Package name to version; with the libraries that run kernels when `measured`."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES + (_DEVICE_PACKAGES if measured else ()):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            # exactly one of the two fbgemm distributions is installed
            continue
    return versions
