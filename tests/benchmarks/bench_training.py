"""Memory and time of training as the dataset grows.

    .venv/bin/python -m tests.benchmarks.bench_training measure --data DATA

DATA as `costmodel/README.md` makes it for the shipped bundle. Larger datasets hold its fused
operators several times over (hard links to its parts): memory and time do not depend on what the
rows say. Writes `results/training_cpu_<date>.md`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated

import pyarrow.parquet as pq
import typer
from tests.benchmarks.machine import provenance, table

from shardwright_costmodel.dataset import Kind
from shardwright_costmodel.registry import Registry
from shardwright_costmodel.training import trainer as training
from shardwright_costmodel.training.data import load
from shardwright_costmodel.training.fit import FitSettings

RESULTS = Path(__file__).parent / "results"
_MIB = 2**20

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Run:
    """What one training took.

    Attributes:
        rows: Fused operators.
        epochs: As asked for.
        read_mib: Most anonymous memory before the first epoch.
        peak_mib: Most anonymous memory.
        read_s: Seconds to the first epoch.
        seconds: In all, process start and export included.
    """

    rows: int
    epochs: int
    read_mib: float
    peak_mib: float
    read_s: float
    seconds: float


def multiplied(data: Path, times: float, root: Path) -> int:
    """A dataset with the compute parts of another so often, and its collectives once; its rows."""
    for kind in (Kind.COMM, Kind.ALL_REDUCE):
        (root / kind.value).mkdir(parents=True)
        for part in (data / kind.value).iterdir():
            os.link(part, root / kind.value / part.name)
    folder = root / Kind.COMPUTE.value
    folder.mkdir()
    parts = sorted((data / Kind.COMPUTE.value).glob("*.parquet"))
    for i in range(round(times * len(parts))):
        os.link(parts[i % len(parts)], folder / f"{i:06d}-{parts[i % len(parts)].name}")
    return sum(pq.read_metadata(part).num_rows for part in folder.iterdir())


def trained(root: Path, rows: int, epochs: int, out: Path) -> Run:
    """Trains in a process of its own, looked at twenty times a second."""
    log = out / "log"
    with log.open("w") as stream:
        command = [
            *(sys.executable, "-m", "tests.benchmarks.bench_training", "train"),
            *(str(root), str(out / "bundles"), str(epochs)),
        ]
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        peak = read = 0.0
        read_s = 0.0
        while process.poll() is None:
            peak = max(peak, _anonymous_mib(process.pid))
            if not read_s and "first epoch" in log.read_text():
                read, read_s = peak, time.monotonic() - started
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(log.read_text())
    return Run(rows, epochs, read, peak, read_s, time.monotonic() - started)


def _anonymous_mib(pid: int) -> float:
    """Memory that no file backs; what is mapped from files, the kernel may drop at any time."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in lines if line.startswith("RssAnon")]
    return int(found[0]) * 1024 / _MIB if found else 0.0


@app.command()
def train(root: str, out: str, epochs: int) -> None:
    """Reads a dataset, trains, and publishes, as shardwright-train does; 0 epochs: the default."""
    settings = FitSettings(epochs=epochs, min_steps=0) if epochs else FitSettings()
    data = load(root)
    print("first epoch begins", flush=True)
    run = training.train(data, name="bench", version=None, settings=settings)
    Registry(out).publish(run.bundle)


@app.command()
def measure(
    data: Annotated[Path, typer.Option(help="Dataset of fused operators and collectives.")],
    times: Annotated[list[float], typer.Option(help="Sizes, as multiples of it.")] = [0.2, 2, 20],  # noqa: B006
    full: Annotated[float, typer.Option(help="Size that is trained to the end.")] = 2,
) -> None:
    """Trains one epoch at every size, and one size to the end."""
    runs = []
    for size, epochs in [*((size, 1) for size in times), (full, 0)]:
        with tempfile.TemporaryDirectory(dir=data.parent) as folder:
            rows = multiplied(data, size, Path(folder) / "data")
            runs.append(trained(Path(folder) / "data", rows, epochs, Path(folder)))
            print(runs[-1], flush=True)
    options = " ".join(f"--times {size:g}" for size in times)
    lines = provenance(
        "Training: memory and time as the dataset grows",
        "python -m tests.benchmarks.bench_training measure "
        f"--data {data.name} {options} --full {full:g}",
        ("numpy", "torch", "pyarrow"),
    )
    lines += [
        "",
        "Anonymous memory is what no file backs: spooled measurements are mapped from files, ",
        "and the kernel may drop them at any time. One thread; export included. Larger sizes hold "
        "the same operators several times over.",
        "",
    ]
    lines += table(
        [
            "fused operators",
            "epochs",
            "anonymous MiB before the first epoch",
            "at most",
            "s to the first epoch",
            "s in all",
        ],
        [
            [
                f"{r.rows:,}",
                str(r.epochs or "default"),
                f"{r.read_mib:.0f}",
                f"{r.peak_mib:.0f}",
                f"{r.read_s:.0f}",
                f"{r.seconds:.0f}",
            ]
            for r in runs
        ],
    )
    path = RESULTS / f"training_cpu_{date.today().isoformat()}.md"
    path.write_text("\n".join(lines).rstrip() + "\n")
    print(path)


if __name__ == "__main__":
    app()
