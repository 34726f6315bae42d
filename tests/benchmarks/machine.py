"""What a results file says about where its numbers come from."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from os import cpu_count
from pathlib import Path

from tests.benchmarks.sides import cost_model

from shardwright.domain import CostModelId

_PACKAGES = ("numpy", "onnxruntime", "torch", "torchrec", "numba")


def header(title: str, command: str, cost_model_id: CostModelId | None = None) -> list[str]:
    """Title, command, machine and versions, as Markdown lines; by default of all tasks' model."""
    model = cost_model_id or cost_model().id
    return [
        *provenance(title, command, _PACKAGES),
        f"- Cost model: {model.name} {model.version} of {model.hardware}, {model.source.value}",
        "",
    ]


def provenance(title: str, command: str, packages: Sequence[str]) -> list[str]:
    """Title, command, machine and versions of what asks no cost model."""
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return [
        f"# {title}",
        "",
        f"- Command: `{command}`",
        f"- Machine: {_cpu()}, {cpu_count()} cores, {platform.system()} {platform.release()}",
        f"- Versions: commit {_commit()}, Python {platform.python_version()}, {versions}",
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, first column left, others right."""
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.processor()


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "server", "costmodel", "benchmark_worker", "proto")
    return git("rev-parse", "--short", "HEAD") + (" with uncommitted changes" if changed else "")
