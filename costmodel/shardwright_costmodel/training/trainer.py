"""From a checked dataset to a bundle: split, fit, export, judge on what was held out."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
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
from shardwright_costmodel.training.checkpoint import Checkpoint
from shardwright_costmodel.training.compute_model import (
    ENCODING_SIZE,
    WORK_CHANNELS,
    ComputeHead,
    ShardEncoder,
)
from shardwright_costmodel.training.data import (
    Split,
    TrainingData,
    evenly,
    split_by_combination,
)
from shardwright_costmodel.training.device import CPU
from shardwright_costmodel.training.export import export_graphs
from shardwright_costmodel.training.fit import FitResult, FitSettings, fit
from shardwright_costmodel.training.judge import (
    UNSEEN,
    HeldOut,
    Predictions,
    judged,
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
_SAMPLE = 8192
"""Groups whose statistics normalise the inputs of models."""
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
    device: torch.device = CPU,
    unseen: TrainingData | None = None,
    checkpoint: Checkpoint | None = None,
    report: Report = lambda stage, progress, error: None,
) -> TrainingRun:
    """Trains the cost models of one hardware profile.

    The same data, settings, software, device and thread count give the same graphs on one machine,
    also when a training goes on from a checkpoint, unless
    `settings.max_seconds` ends a fit.

    Args:
        data: The dataset.
        name: Of the cost model.
        version: Of the bundle; None: the date and a digest of the graphs.
        settings: How to fit.
        threads: Of torch.
        device: Where to fit; graphs are made and judged on the CPU.
        unseen: Measurements of another kind, such as of tables and world sizes that `data` never
            has: accuracy on them is noted in the manifest beside that on held-out ones.
        checkpoint: Keeps the state after every epoch, and is gone on from.
        report: Told of progress.

    Raises:
        ExportError: When an exported graph differs from its model.
        CheckpointError: When a checkpoint cannot be written.
    """
    torch.set_num_threads(threads)
    splits = _Splits(
        *(
            split_by_combination(d, settings.seed)
            for d in (data.compute, data.comm, data.all_reduce)
        )
    )
    fitted = _fit_all(data, splits, settings, device, checkpoint or Checkpoint(None), report)
    held_out = HeldOut(
        compute=judged(data.compute, splits.compute.held_out),
        comm=judged(data.comm, splits.comm.held_out),
        all_reduce=judged(data.all_reduce, splits.all_reduce.held_out),
        reduce_scatter=None if data.reduce_scatter is None else judged(data.reduce_scatter),
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
        training=_describe(settings, threads, device, fitted.results),
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
        others = HeldOut(
            compute=judged(unseen.compute),
            comm=judged(unseen.comm),
            all_reduce=judged(unseen.all_reduce),
            reduce_scatter=None if unseen.reduce_scatter is None else judged(unseen.reduce_scatter),
        )
        predictions += predict(model, others, UNSEEN)
    accuracy = {
        "accuracy": tuple(predicted.accuracy() for predicted in predictions),
        "mean_floor_ratio": mean_floor_ratio(model, held_out),
    }
    bundle = replace(bundle, manifest=manifest.model_copy(update=accuracy))
    return TrainingRun(bundle, fitted.results, predictions)


def _fit_all(
    data: TrainingData,
    splits: _Splits,
    settings: FitSettings,
    device: torch.device,
    checkpoint: Checkpoint,
    report: Report,
) -> _Fitted:
    torch.manual_seed(settings.seed)
    encoder, head = ShardEncoder(), ComputeHead()
    forward_comm, backward_comm, all_reduce = CommModel(), CommModel(), AllReduceModel()
    compute, comm, reduced = (
        torch.from_numpy(evenly(split.training, _SAMPLE))
        for split in (splits.compute, splits.comm, splits.all_reduce)
    )
    stages: dict[str, tuple[Callable[[], Objective], Split]] = {
        "compute": (
            lambda: ComputeObjective(encoder, head, data.compute, compute, device),
            splits.compute,
        ),
        "forward_comm": (
            lambda: CommObjective(forward_comm, data.comm, 0, comm, device),
            splits.comm,
        ),
        "backward_comm": (
            lambda: CommObjective(backward_comm, data.comm, 1, comm, device),
            splits.comm,
        ),
        "all_reduce": (
            lambda: AllReduceObjective(all_reduce, data.all_reduce, reduced, device),
            splits.all_reduce,
        ),
    }
    results = {}
    for stage, (objective, split) in stages.items():
        limited = replace(settings, max_seconds=settings.max_seconds * _SHARE_OF_TIME[stage])
        results[stage] = fit(
            objective(),
            split,
            limited,
            partial(report, stage),
            saved=checkpoint.state(stage),
            save=partial(checkpoint.save, stage),
        )
    for module in (encoder, head, forward_comm, backward_comm, all_reduce):
        module.cpu()
    return _Fitted(encoder, head, forward_comm, backward_comm, all_reduce, results)


def identity(
    data: TrainingData, settings: FitSettings, threads: int, device: torch.device
) -> dict[str, str]:
    """What decides the weights, for a `Checkpoint`."""
    return {
        **{f"data {kind}": digest for kind, digest in data.digests.items()},
        **{name: str(value) for name, value in vars(settings).items()},
        "threads": str(threads),
        "device": device.type,
        **{package: installed_version(package) for package in ("shardwright-costmodel", "torch")},
    }


def _training_range(data: TrainingData) -> dict[str, tuple[float, float]]:
    """Least and largest value of each column; reuse bins are shares and need no range."""
    ranges = {}
    for kind, columns, features in (
        ("shard", SHARD_COLUMNS[:-REUSE_BINS], data.compute.features),
        ("comm", COMM_COLUMNS, data.comm.features),
        ("all_reduce", ALL_REDUCE_COLUMNS, data.all_reduce.features),
    ):
        lowest, highest = features.min(axis=0), features.max(axis=0)
        for i, column in enumerate(columns):
            ranges[f"{kind}.{column}"] = (float(lowest[i]), float(highest[i]))
    return ranges


def _describe(
    settings: FitSettings, threads: int, device: torch.device, results: dict[str, FitResult]
) -> dict[str, str]:
    described = {"seed": str(settings.seed), "threads": str(threads), "device": device.type}
    for stage, result in results.items():
        described[f"{stage}_epochs"] = f"{result.epochs}, best {result.best_epoch + 1}"
    return described


def _software(data: TrainingData) -> dict[str, str]:
    trained_with = {package: installed_version(package) for package in _SOFTWARE}
    measured_with = {f"measured: {name}": value for name, value in data.software.items()}
    return {"python": platform.python_version(), **trained_with, **measured_with}
