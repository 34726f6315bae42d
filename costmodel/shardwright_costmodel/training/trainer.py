"""From a checked dataset to a bundle: split, fit, export, judge on what was held out."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version as installed_version

import torch

from shardwright.domain import REUSE_BINS
from shardwright_costmodel.bundle import GRAPH_NAMES, Bundle, Manifest, sha256
from shardwright_costmodel.features import (
    ALL_REDUCE_COLUMNS,
    COMM_COLUMNS,
    SHARD_COLUMNS,
)
from shardwright_costmodel.runtime import OnnxCostModel
from shardwright_costmodel.training.compute_model import (
    ENCODING_SIZE,
    WORK_CHANNELS,
    ComputeHead,
    ShardEncoder,
)
from shardwright_costmodel.training.data import Split, TrainingData, split_by_combination
from shardwright_costmodel.training.export import export_graphs
from shardwright_costmodel.training.fit import FitResult, FitSettings, fit
from shardwright_costmodel.training.judge import (
    UNSEEN,
    HeldOut,
    Predictions,
    mean_floor_ratio,
    predict,
)
from shardwright_costmodel.training.models import AllReduceModel, CommModel
from shardwright_costmodel.training.objectives import (
    AllReduceObjective,
    CommObjective,
    ComputeObjective,
    Objective,
)

Report = Callable[[str, float, float], None]
"""Told of progress: what is fitted, progress from 0 to 1, validation error in percent."""

_SHARE_OF_TIME = {"compute": 0.6, "forward_comm": 0.17, "backward_comm": 0.17, "all_reduce": 0.06}
_SOFTWARE = ("shardwright-costmodel", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True)
class TrainingRun:
    """What came of a training.

    Attributes:
        bundle: The cost models, to be published.
        fits: How each fit went, epoch by epoch, by stage: `compute`, `forward_comm`,
            `backward_comm`, `all_reduce`.
        predictions: Of what was held out, and of unseen measurements where there are any.
    """

    bundle: Bundle
    fits: dict[str, FitResult]
    predictions: tuple[Predictions, ...]


@dataclass(frozen=True)
class _Splits:
    compute: Split
    comm: Split
    all_reduce: Split


@dataclass(frozen=True)
class _Fitted:
    encoder: ShardEncoder
    head: ComputeHead
    forward_comm: CommModel
    backward_comm: CommModel
    all_reduce: AllReduceModel
    results: dict[str, FitResult]


def train(
    data: TrainingData,
    *,
    name: str,
    version: str | None,
    settings: FitSettings,
    threads: int = 1,
    unseen: TrainingData | None = None,
    report: Report = lambda stage, progress, error: None,
) -> TrainingRun:
    """Trains the cost models of one hardware profile.

    The same data, settings, software and thread count give the same graphs on one machine, unless
    `settings.max_seconds` ends a fit.

    Args:
        data: The dataset.
        name: Of the cost model.
        version: Of the bundle; None: the date and a digest of the graphs.
        settings: How to fit.
        threads: Of torch.
        unseen: Measurements of another kind, such as of tables and world sizes that `data` never
            has: accuracy on them is noted in the manifest beside that on held-out ones.
        report: Told of progress.

    Raises:
        ExportError: When an exported graph differs from its model.
    """
    torch.set_num_threads(threads)
    splits = _Splits(
        *(
            split_by_combination(d, settings.seed)
            for d in (data.compute, data.comm, data.all_reduce)
        )
    )
    fitted = _fit_all(data, splits, settings, report)
    held_out = HeldOut(
        compute=data.compute.select(splits.compute.held_out),
        comm=data.comm.select(splits.comm.held_out),
        all_reduce=data.all_reduce.select(splits.all_reduce.held_out),
        reduce_scatter=data.reduce_scatter,
    )
    graphs = export_graphs(
        fitted.encoder,
        fitted.head,
        fitted.forward_comm,
        fitted.backward_comm,
        fitted.all_reduce,
        held_out.compute.features,
        held_out.comm.features,
        held_out.all_reduce.features,
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
        peak_channels=ENCODING_SIZE - WORK_CHANNELS,
        num_compute_measurements=len(data.compute),
        num_comm_measurements=len(data.comm),
        num_all_reduce_measurements=len(data.all_reduce),
        training_range=_training_range(data),
        training=_describe(data, settings, threads, fitted.results),
        num_left_out=data.left_out,
        fingerprint=data.fingerprint,
        sampling=data.sampling,
        software=_software(data),
        files={graph: sha256(content) for graph, content in graphs.items()},
    )
    bundle = Bundle(manifest, graphs)
    model = OnnxCostModel.from_bundle(bundle)
    predictions = predict(model, held_out)
    if unseen is not None:
        others = HeldOut(unseen.compute, unseen.comm, unseen.all_reduce, unseen.reduce_scatter)
        predictions += predict(model, others, UNSEEN)
    judged = {
        "accuracy": tuple(predicted.accuracy() for predicted in predictions),
        "mean_floor_ratio": mean_floor_ratio(model, held_out),
    }
    bundle = replace(bundle, manifest=manifest.model_copy(update=judged))
    return TrainingRun(bundle, fitted.results, predictions)


def _fit_all(data: TrainingData, splits: _Splits, settings: FitSettings, report: Report) -> _Fitted:
    torch.manual_seed(settings.seed)
    encoder, head = ShardEncoder(), ComputeHead()
    forward_comm, backward_comm, all_reduce = CommModel(), CommModel(), AllReduceModel()
    compute, comm = (
        torch.from_numpy(splits.compute.training),
        torch.from_numpy(splits.comm.training),
    )
    reduced = torch.from_numpy(splits.all_reduce.training)
    objectives: dict[str, tuple[Objective, Split]] = {
        "compute": (ComputeObjective(encoder, head, data.compute, compute), splits.compute),
        "forward_comm": (CommObjective(forward_comm, data.comm, 0, comm), splits.comm),
        "backward_comm": (CommObjective(backward_comm, data.comm, 1, comm), splits.comm),
        "all_reduce": (
            AllReduceObjective(all_reduce, data.all_reduce, reduced),
            splits.all_reduce,
        ),
    }
    results = {}
    for stage, (objective, split) in objectives.items():
        limited = replace(settings, max_seconds=settings.max_seconds * _SHARE_OF_TIME[stage])

        def on_epoch(progress: float, error: float, stage: str = stage) -> None:
            report(stage, progress, error)

        results[stage] = fit(objective, split, limited, on_epoch)
    return _Fitted(encoder, head, forward_comm, backward_comm, all_reduce, results)


def _training_range(data: TrainingData) -> dict[str, tuple[float, float]]:
    """Least and largest value of each column; reuse bins are shares and need no range."""
    ranges = {}
    for kind, columns, features in (
        ("shard", SHARD_COLUMNS[:-REUSE_BINS], data.compute.features),
        ("comm", COMM_COLUMNS, data.comm.features),
        ("all_reduce", ALL_REDUCE_COLUMNS, data.all_reduce.features),
    ):
        for i, column in enumerate(columns):
            ranges[f"{kind}.{column}"] = (
                float(features[:, i].min()),
                float(features[:, i].max()),
            )
    return ranges


def _describe(
    data: TrainingData, settings: FitSettings, threads: int, results: dict[str, FitResult]
) -> dict[str, str]:
    described = {"seed": str(settings.seed), "threads": str(threads)}
    described |= {f"left_out_{reason}": str(count) for reason, count in data.left_out.items()}
    for stage, result in results.items():
        described[f"{stage}_epochs"] = f"{result.epochs}, best {result.best_epoch + 1}"
    return described


def _software(data: TrainingData) -> dict[str, str]:
    trained_with = {package: installed_version(package) for package in _SOFTWARE}
    measured_with = {f"measured: {name}": value for name, value in data.software.items()}
    return {"python": platform.python_version(), **trained_with, **measured_with}
