"""From a checked dataset to a bundle: split, fit, export, judge on what was held out."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version as installed_version

import numpy as np
import torch

from shardwright.domain import REUSE_BINS
from shardwright_costmodel.bundle import GRAPH_NAMES, Accuracy, Bundle, Manifest, sha256
from shardwright_costmodel.features import COMM_COLUMNS, SHARD_COLUMNS
from shardwright_costmodel.runtime import OnnxCostModel
from shardwright_costmodel.training.data import Split, TrainingData, split_by_combination
from shardwright_costmodel.training.export import export_graphs
from shardwright_costmodel.training.fit import FitResult, FitSettings, fit
from shardwright_costmodel.training.measurements import Measurements
from shardwright_costmodel.training.metrics import kendall_tau, mape_percent
from shardwright_costmodel.training.models import (
    ENCODING_SIZE,
    CommModel,
    ComputeHead,
    ShardEncoder,
)
from shardwright_costmodel.training.objectives import CommObjective, ComputeObjective, Objective

Report = Callable[[str, float, float], None]
"""Told of progress: what is fitted, progress from 0 to 1, validation error in percent."""

_SHARE_OF_TIME = {"compute": 0.6, "forward_comm": 0.2, "backward_comm": 0.2}
_SOFTWARE = ("shardwright-costmodel", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True)
class _Fitted:
    encoder: ShardEncoder
    head: ComputeHead
    forward_comm: CommModel
    backward_comm: CommModel
    results: dict[str, FitResult]


def train(
    data: TrainingData,
    *,
    name: str,
    version: str | None,
    settings: FitSettings,
    threads: int = 1,
    report: Report = lambda stage, progress, error: None,
) -> Bundle:
    """Trains the cost models of one hardware profile.

    The same data, settings, software and thread count give the same graphs on one machine, unless
    `settings.max_seconds` ends a fit.

    Args:
        data: The dataset.
        name: Of the cost model.
        version: Of the bundle; None: the date and a digest of the graphs.
        settings: How to fit.
        threads: Of torch.
        report: Told of progress.

    Raises:
        ExportError: When an exported graph differs from its model.
    """
    torch.set_num_threads(threads)
    compute_split = split_by_combination(data.compute, settings.seed)
    comm_split = split_by_combination(data.comm, settings.seed)
    fitted = _fit_all(data, compute_split, comm_split, settings, report)
    held_out_compute = data.compute.select(compute_split.held_out)
    held_out_comm = data.comm.select(comm_split.held_out)
    graphs = export_graphs(
        fitted.encoder,
        fitted.head,
        fitted.forward_comm,
        fitted.backward_comm,
        held_out_compute.features,
        held_out_comm.features,
    )
    created_at = datetime.now(UTC).replace(microsecond=0)
    if version is None:
        digest = hashlib.sha256(b"".join(graphs[graph] for graph in GRAPH_NAMES)).hexdigest()
        version = f"{created_at:%Y%m%d}-{digest[:8]}"
    manifest = Manifest(
        name=name,
        version=version,
        hardware=data.hardware,
        source=data.source,
        created_at=created_at,
        encoding_size=ENCODING_SIZE,
        num_compute_measurements=len(data.compute),
        num_comm_measurements=len(data.comm),
        training_range=_training_range(data),
        training=_describe(settings, threads, fitted.results),
        software=_software(data),
        files={graph: sha256(content) for graph, content in graphs.items()},
    )
    bundle = Bundle(manifest, graphs)
    accuracy = judge(OnnxCostModel.from_bundle(bundle), held_out_compute, held_out_comm)
    return replace(bundle, manifest=manifest.model_copy(update={"accuracy": accuracy}))


def _fit_all(
    data: TrainingData,
    compute_split: Split,
    comm_split: Split,
    settings: FitSettings,
    report: Report,
) -> _Fitted:
    torch.manual_seed(settings.seed)
    encoder, head = ShardEncoder(), ComputeHead()
    forward_comm, backward_comm = CommModel(), CommModel()
    compute_training = torch.from_numpy(compute_split.training)
    comm_training = torch.from_numpy(comm_split.training)
    objectives: dict[str, tuple[Objective, Split]] = {
        "compute": (
            ComputeObjective(encoder, head, data.compute, compute_training),
            compute_split,
        ),
        "forward_comm": (CommObjective(forward_comm, data.comm, 0, comm_training), comm_split),
        "backward_comm": (CommObjective(backward_comm, data.comm, 1, comm_training), comm_split),
    }
    results = {}
    for stage, (objective, split) in objectives.items():
        limited = replace(settings, max_seconds=settings.max_seconds * _SHARE_OF_TIME[stage])

        def on_epoch(progress: float, error: float, stage: str = stage) -> None:
            report(stage, progress, error)

        results[stage] = fit(objective, split, limited, on_epoch)
    return _Fitted(encoder, head, forward_comm, backward_comm, results)


def judge(model: OnnxCostModel, compute: Measurements, comm: Measurements) -> tuple[Accuracy, ...]:
    """Compares a cost model, run as a server runs it, with measurements.

    Args:
        model: The cost model.
        compute: Fused operators.
        comm: Collectives.
    """
    encodings = model.encode(compute.features)
    sums = np.add.reduceat(encodings, np.cumsum(compute.counts) - compute.counts)
    predicted = model.compute_ms(sums)
    measured = compute.times_ms
    pairs = {
        "compute_forward": (measured[:, 0], predicted[:, 0]),
        "compute_backward": (measured[:, 1], predicted[:, 1]),
        "compute": (measured.sum(axis=1), predicted.sum(axis=1)),
        "forward_comm": (comm.times_ms[:, 0], model.forward_comm_ms(comm.features)),
        "backward_comm": (comm.times_ms[:, 1], model.backward_comm_ms(comm.features)),
    }
    return tuple(
        Accuracy(
            quantity=quantity,
            mape_percent=round(mape_percent(truth, guess), 4),
            kendall_tau=round(kendall_tau(truth, guess), 6),
            num_measurements=len(truth),
        )
        for quantity, (truth, guess) in pairs.items()
    )


def _training_range(data: TrainingData) -> dict[str, tuple[float, float]]:
    """Least and largest value of each column; reuse bins are shares and need no range."""
    ranges = {}
    for kind, columns, features in (
        ("shard", SHARD_COLUMNS[:-REUSE_BINS], data.compute.features),
        ("comm", COMM_COLUMNS, data.comm.features),
    ):
        for i, column in enumerate(columns):
            ranges[f"{kind}.{column}"] = (
                float(features[:, i].min()),
                float(features[:, i].max()),
            )
    return ranges


def _describe(settings: FitSettings, threads: int, results: dict[str, FitResult]) -> dict[str, str]:
    described = {"seed": str(settings.seed), "threads": str(threads)}
    for stage, result in results.items():
        described[f"{stage}_epochs"] = f"{result.epochs}, best {result.best_epoch + 1}"
    return described


def _software(data: TrainingData) -> dict[str, str]:
    trained_with = {package: installed_version(package) for package in _SOFTWARE}
    measured_with = {f"measured: {name}": value for name, value in data.software.items()}
    return {"python": platform.python_version(), **trained_with, **measured_with}
