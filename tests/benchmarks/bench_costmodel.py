"""How accurate cost models are, and how much better than others trained on the same data.

python -m tests.benchmarks.bench_costmodel --data DATA --unseen UNSEEN

DATA and UNSEEN as `costmodel/README.md` makes them for the shipped bundle. Judged on UNSEEN: tables
and world sizes that the training data never has.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer
from tests.benchmarks.costmodel_baselines import (
    linear_comm,
    linear_compute,
    neuroshard_comm,
    neuroshard_compute,
    sum_of_singles,
)
from tests.benchmarks.extrapolation import extrapolation_lines
from tests.benchmarks.machine import header, table

from shardwright.domain import CostModelSource
from shardwright_costmodel.registry import DEFAULT_BUNDLES_URL, Registry
from shardwright_costmodel.runtime import OnnxCostModel
from shardwright_costmodel.training.data import TrainingData, load, load_like, split_by_combination
from shardwright_costmodel.training.measurements import Measurements
from shardwright_costmodel.training.metrics import kendall_tau, mape_percent

Array = npt.NDArray[np.float64]
RESULTS = Path(__file__).parent / "results"
JOBS = ((4, 4), (8, 8), (32, 8))
"""World sizes and devices per host for which a network of NeuroShard's kind is trained."""

TABLES = (1, 2, 5, 10, 20, 41)
DIMS = (4, 16, 32, 64, 128, 1025)
BATCHES = (512, 2048, 16_384, 65_536, 262_145)
IMBALANCES = (1.0, 1.05, 1.5, 3.0, 1e9)


def errors(truth: Array, predictions: dict[str, Array]) -> list[str]:
    """MAPE and Kendall's tau of each side, as cells."""
    return [
        f"{mape_percent(truth, p):.2f} % / {kendall_tau(truth, p):.4f}"
        for p in predictions.values()
    ]


def by(
    title: str, values: Array, edges: tuple[float, ...], truth: Array, sides: dict[str, Array]
) -> list[str]:
    """Mean absolute percentage errors in ranges of a value, as a Markdown table."""
    rows = []
    for low, high in zip(edges, edges[1:], strict=False):
        chosen = (values >= low) & (values < high)
        if chosen.any():
            cells = [f"{mape_percent(truth[chosen], p[chosen]):.2f}" for p in sides.values()]
            rows.append([f"{low:g} .. {high:g}", str(int(chosen.sum())), *cells])
    return table([title, "judged", *sides], rows)


def compute_lines(
    model: OnnxCostModel, data: Measurements, judged: Measurements, epochs: int
) -> list[str]:
    """Fused operators, forward + backward."""
    starts = np.cumsum(judged.counts) - judged.counts
    encodings = np.add.reduceat(model.encode(judged.features), starts)
    ours, floor = model.compute_ms(encodings), model.compute_floor_ms(encodings)
    sides = {
        "ours": ours.sum(axis=1).astype(np.float64),
        "NeuroShard's architecture": neuroshard_compute(data, judged, epochs).sum(axis=1),
        "sum of single tables": sum_of_singles(model, judged).sum(axis=1),
        "linear in bytes": linear_compute(data, judged).sum(axis=1),
    }
    truth = judged.times_ms.sum(axis=1).astype(np.float64)
    batch = np.maximum.reduceat(judged.features[:, 3], starts)
    dim = np.add.reduceat(judged.features[:, 1], starts) / judged.counts
    ratio = floor.sum(axis=1) / sides["ours"]
    tightness = [
        [f"{low} .. {high - 1}", f"{ratio[chosen].mean():.3f}"]
        for low, high in zip(TABLES, TABLES[1:], strict=False)
        if (chosen := (judged.counts >= low) & (judged.counts < high)).any()
    ]
    return [
        "## Compute: forward + backward of fused operators of unseen tables",
        "",
        *table(
            ["MAPE / Kendall's tau", *sides], [[f"{len(truth)} operators", *errors(truth, sides)]]
        ),
        "MAPE in percent, by number of tables, mean dim, and batch (upper ends excluded):",
        "",
        *by("tables", judged.counts.astype(np.float64), TABLES, truth, sides),
        *by("mean dim", dim, DIMS, truth, sides),
        *by("batch", batch, BATCHES, truth, sides),
        "How tight the floor is:",
        "",
        *table(["tables", "mean floor / prediction"], tightness),
    ]


def comm_lines(
    model: OnnxCostModel, data: TrainingData, unseen: Measurements, epochs: int
) -> list[str]:
    """All-to-alls: unseen world sizes, held-out ones of seen sizes, and fixed world sizes."""
    held_out = data.comm.select(split_by_combination(data.comm, 0).held_out)
    lines = ["## Communication: transfer of the backward all-to-all", ""]
    for title, judged in (("seen world sizes, held out", held_out), ("unseen world sizes", unseen)):
        truth = judged.times_ms[:, 1].astype(np.float64)
        sides = {
            "ours": model.backward_comm_ms(judged.features).astype(np.float64),
            "linear in bytes": linear_comm(data.comm, judged)[:, 1],
        }
        world = judged.features[:, 0].astype(np.float64)
        edges = (
            (*sorted(set(world.tolist())), 1e9) if title.startswith("uns") else (2, 5, 9, 33, 129)
        )
        imbalance = (judged.features[:, 5] / judged.features[:, 4]).astype(np.float64)
        lines += [
            f"### {title}",
            "",
            *table(["MAPE / tau", *sides], [[f"{len(truth)} devices", *errors(truth, sides)]]),
            *by("world size", world, edges, truth, sides),
            *by("largest / mean dim", imbalance, IMBALANCES, truth, sides),
        ]
    rows = []
    for world_size, per_host in JOBS:
        features, truth, theirs = neuroshard_comm(
            data.hardware, world_size, per_host, len(data.comm), 5 * epochs
        )
        sides = {"ours": model.backward_comm_ms(features).astype(np.float64), "theirs": theirs}
        rows.append([f"{world_size} ({per_host} a host)", str(len(truth)), *errors(truth, sides)])
    return [
        *lines,
        "### Against one network per job",
        "",
        "NeuroShard's architecture, one network for each job, each trained on as many all-to-alls "
        "of that job alone as ours had of all jobs together; both judged on held-out ones.",
        "",
        *table(["devices", "judged", "ours, MAPE / tau", "NeuroShard's architecture"], rows),
    ]


def main(
    data: Annotated[str, typer.Option(help="Dataset that the bundle was trained on.")],
    unseen: Annotated[str, typer.Option(help="Dataset of other tables and world sizes.")],
    bundles: Annotated[str, typer.Option(help="Registry of the bundle.")] = DEFAULT_BUNDLES_URL,
    epochs: Annotated[int, typer.Option(help="Of the networks compared with.")] = 60,
    out: Annotated[Path, typer.Option(help="Folder of the results file.")] = RESULTS,
) -> None:
    """Judges the newest bundle of the data's hardware and writes the results file."""
    torch.set_num_threads(1)
    training = load(data)
    judged = load_like(unseen, training)
    bundle = Registry(bundles).load(training.hardware)
    model = OnnxCostModel(bundle)
    fitted = training.compute.select(split_by_combination(training.compute, 0).training)
    options = f"--data {data} --unseen {unseen} --epochs {epochs}"
    command = f"python -m tests.benchmarks.bench_costmodel {options}"
    lines = [
        *header(
            "Accuracy of cost models on tables and world sizes they never saw", command, model.id
        ),
        f"- Trained on {len(training.compute)} operators, {len(training.comm)} all-to-alls and "
        f"{len(training.all_reduce)} all-reduces of {training.hardware}, {training.source.value}",
        "",
        "## What the manifest says",
        "",
        *table(
            ["quantity", "MAPE %", "Kendall's tau", "judged"],
            [
                [
                    a.quantity,
                    f"{a.mape_percent:.2f}",
                    f"{a.kendall_tau:.4f}",
                    str(a.num_measurements),
                ]
                for a in bundle.manifest.accuracy
            ],
        ),
        *compute_lines(model, fitted, judged.compute, epochs),
        *comm_lines(model, training, judged.comm, epochs),
        *(
            extrapolation_lines(model, training.hardware, bundle.manifest.training_range)
            if training.source is CostModelSource.MODELLED
            else []
        ),
    ]
    short = training.hardware.split("-")[1]
    name = f"costmodel_accuracy_{'roofline' if training.source.value == 'modelled' else 'measured'}"
    path = out / f"{name}-{short}_{date.today().isoformat()}.md"
    path.write_text("\n".join(lines))
    typer.echo(path)


if __name__ == "__main__":
    typer.run(main)
