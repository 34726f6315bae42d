"""Places to publish to that fail, really: a store of one's own, a disk that is too small."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem


class FlakyStore(MemoryFileSystem):  # type: ignore[misc]
    """An object store that stops taking files after `writes_left` of them."""

    protocol = "flaky"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]
    writes_left: float = float("inf")
    is_down = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + str(path).removeprefix("flaky://").strip("/")

    def pipe_file(self, path: str, value: bytes, **kwargs: Any) -> None:
        if FlakyStore.writes_left <= 0:
            raise ConnectionError("the store went away")
        FlakyStore.writes_left -= 1
        super().pipe_file(path, value, **kwargs)

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        if FlakyStore.is_down:
            raise ConnectionError("the store is away")
        super().rm(path, recursive=recursive, maxdepth=maxdepth)


fsspec.register_implementation("flaky", FlakyStore, clobber=True)


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of a few bytes, in memory; skips the test where none may be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            try:
                yield folder
            finally:
                subprocess.run(["umount", str(folder)], check=True)
            return
    pytest.skip("only root may mount a small file system here")


def enlarge(disk: Path, size_bytes: int) -> None:
    """Gives a small disk more room."""
    command = ["mount", "-o", f"remount,size={size_bytes}", str(disk)]
    subprocess.run(command, check=True)
