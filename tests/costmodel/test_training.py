"""Models learn the analytic machine, the same way every time, and leave as faithful graphs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shardwright.domain import REUSE_BINS
from shardwright_costmodel.bundle import ALL_REDUCE, COMPUTE_ENCODER, Bundle
from shardwright_costmodel.dataset import Kind, PartMetadata, write_part
from shardwright_costmodel.errors import DatasetError, ExportError
from shardwright_costmodel.features import SHARD_COLUMNS, FloatArray, comm_features
from shardwright_costmodel.runtime import OnnxCostModel
from shardwright_costmodel.training import export
from shardwright_costmodel.training.compute_model import ComputeHead, ShardEncoder
from shardwright_costmodel.training.data import load, load_like, split_by_combination
from shardwright_costmodel.training.export import (
    export_graphs,
    extreme_devices,
    extreme_jobs,
    extreme_shards,
)
from shardwright_costmodel.training.fit import FitSettings, fit
from shardwright_costmodel.training.judge import equivalent_all_to_all
from shardwright_costmodel.training.metrics import mape_percent
from shardwright_costmodel.training.models import AllReduceModel, CommModel
from shardwright_costmodel.training.objectives import CommObjective
from shardwright_costmodel.training.trainer import train

SETTINGS = FitSettings(epochs=10, min_steps=600)
"""As in `conftest.py`."""
QUICK = FitSettings(epochs=2, min_steps=1)


def test_held_out_measurements_are_predicted(bundle: Bundle) -> None:
    accuracy = {a.quantity: a for a in bundle.manifest.accuracy}
    assert accuracy["compute"].mape_percent < 10
    assert accuracy["compute"].num_measurements == 150
    for direction in ("forward_comm", "backward_comm"):
        assert accuracy[direction].mape_percent < 5
        assert accuracy[direction].kendall_tau > 0.93


def test_unseen_measurements_are_judged_beside_the_held_out_ones(
    dataset_url: str, tmp_path: Path, write: Callable[..., str], compute: Any, comm: Any
) -> None:
    unseen = load(write(tmp_path, compute, comm))
    data = load(dataset_url)
    bundle = train(data, name="test", version="1", settings=QUICK, unseen=unseen).bundle
    values = {a.quantity: a.num_measurements for a in bundle.manifest.accuracy}
    assert values["compute"] == 150 and values["compute_unseen"] == 60
    assert values["all_reduce"] == 40 and values["all_reduce_unseen"] == 40


def test_reduce_scatters_are_held_against_the_all_to_all_that_plans_take_them_for(
    bundle: Bundle,
) -> None:
    model = OnnxCostModel.from_bundle(bundle)
    scattered = np.array([[8, 4, 4 * 4096 * 1000], [6, 2, 4 * 65536 * 96]], np.float32)
    alike = [
        comm_features(np.full((1, 8), 1000), 4, 4096)[0, :1],
        comm_features(np.full((1, 6), 96), 2, 65536)[0, :1],
    ]
    expected = model.forward_comm_ms(np.concatenate(alike))
    np.testing.assert_allclose(
        model.forward_comm_ms(equivalent_all_to_all(scattered)), expected, rtol=1e-4
    )


def test_the_distance_to_reduce_scatters_is_in_the_manifest(
    dataset_url: str, tmp_path: Path, all_reduce: Any
) -> None:
    url = str(tmp_path / "data")
    shutil.copytree(dataset_url, url)
    metadata = PartMetadata("test-machine", "modelled")
    write_part(url, Kind.REDUCE_SCATTER, "part-0", all_reduce, metadata)
    data = load(url)
    bundle = train(data, name="test", version="1", settings=QUICK, unseen=data).bundle
    values = {a.quantity: a.num_measurements for a in bundle.manifest.accuracy}
    assert values["reduce_scatter"] == values["reduce_scatter_unseen"] == 40


def test_unseen_measurements_are_of_the_same_hardware(
    dataset_url: str, tmp_path: Path, write: Callable[..., str], compute: Any, comm: Any
) -> None:
    other = write(tmp_path, compute, comm, PartMetadata("other-machine", "modelled"))
    with pytest.raises(DatasetError, match=r"is of other-machine \(modelled\), but the training"):
        load_like(other, load(dataset_url))


def test_directions_are_not_mixed_up(bundle: Bundle) -> None:
    model = OnnxCostModel.from_bundle(bundle)
    devices = comm_features([[512, 800, 400, 640]] * 4, 2, 32768).reshape(-1, 8)
    ratio = model.backward_comm_ms(devices) / model.forward_comm_ms(devices)
    np.testing.assert_allclose(ratio, 1.5, rtol=0.1)


def test_the_same_data_and_seed_give_the_same_bytes(bundle: Bundle, dataset_url: str) -> None:
    again = train(load(dataset_url), name="test", version=None, settings=SETTINGS).bundle
    assert again.graphs == bundle.graphs
    assert again.manifest.files == bundle.manifest.files
    assert re.fullmatch(r"20\d{6}-[0-9a-f]{8}", again.manifest.version)


def test_another_seed_gives_other_weights(dataset_url: str) -> None:
    data = load(dataset_url).comm
    split = split_by_combination(data, 0)
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        model = CommModel()
        objective = CommObjective(model, data, 0, torch.from_numpy(split.training))
        fit(objective, split, replace(QUICK, seed=seed))
        weights.append(model.bandwidth.weight.detach().numpy().copy())
    np.testing.assert_array_equal(weights[0], weights[1])
    assert (weights[0] != weights[2]).any()


def test_the_manifest_says_what_was_trained_on(bundle: Bundle, dataset_url: str) -> None:
    manifest, data = bundle.manifest, load(dataset_url)
    assert manifest.num_compute_measurements == len(data.compute) == 1500
    low, high = manifest.training_range["shard.num_columns"]
    assert (low, high) == (4.0, 128.0)
    assert manifest.training_range["comm.world_size"] == (2.0, 16.0)
    assert manifest.software["torch"] == torch.__version__
    assert manifest.software["measured: test-machine"] == "1"
    assert manifest.training["seed"] == "0"


def test_the_best_weights_on_the_validation_split_are_kept(dataset_url: str) -> None:
    data = load(dataset_url).comm
    split = split_by_combination(data, 0)
    torch.manual_seed(0)
    model = CommModel()
    objective = CommObjective(model, data, 0, torch.from_numpy(split.training))
    result = fit(objective, split, replace(QUICK, epochs=8, learning_rate=0.05))
    history = result.validation_mape_percent
    assert len(history) == result.epochs == 8
    assert history[result.best_epoch] == min(history)
    with torch.no_grad():
        ratio = objective.errors(torch.from_numpy(split.validation)).log_ratio
    assert 100 * float(ratio.expm1().abs().mean()) == pytest.approx(min(history), rel=1e-5)


def test_a_run_keeps_its_curves_and_what_was_held_out(dataset_url: str) -> None:
    data = load(dataset_url)
    run = train(data, name="test", version="1", settings=QUICK, unseen=data)
    assert list(run.fits) == ["compute", "forward_comm", "backward_comm", "all_reduce"]
    for fitted in run.fits.values():
        assert len(fitted.training_mape_percent) == fitted.epochs == 2
        assert fitted.training_mape_percent[1] < fitted.training_mape_percent[0]
    held_out = data.compute.select(split_by_combination(data.compute, 0).held_out)
    predictions = {p.quantity: p for p in run.predictions}
    assert list(predictions) == [a.quantity for a in run.bundle.manifest.accuracy]
    assert {"compute", "compute_unseen"} <= predictions.keys()
    measured_ms = predictions["compute_backward"].measured_ms
    np.testing.assert_array_equal(measured_ms, held_out.times_ms[:, 1])
    error = mape_percent(measured_ms, predictions["compute_backward"].predicted_ms)
    accuracy = {a.quantity: a.mape_percent for a in run.bundle.manifest.accuracy}
    assert accuracy["compute_backward"] == pytest.approx(error, abs=1e-3)


def test_a_fit_ends_early_when_nothing_improves(dataset_url: str) -> None:
    data = load(dataset_url).comm
    split = split_by_combination(data, 0)
    objective = CommObjective(CommModel(), data, 0, torch.from_numpy(split.training))
    seen: list[float] = []
    settings = replace(QUICK, epochs=60, learning_rate=1e-12, patience=0.0)
    result = fit(objective, split, settings, lambda progress, _: seen.append(progress))
    assert result.epochs < 30
    assert seen == sorted(seen) and seen[-1] == 1.0


def test_a_fit_ends_in_the_time_it_is_given(dataset_url: str) -> None:
    data = load(dataset_url).comm
    split = split_by_combination(data, 0)
    objective = CommObjective(CommModel(), data, 0, torch.from_numpy(split.training))
    seen: list[float] = []
    settings = replace(QUICK, epochs=10**6, max_seconds=0.5)
    result = fit(objective, split, settings, lambda progress, _: seen.append(progress))
    assert result.epochs < 10**6
    assert seen == sorted(seen) and seen[-1] == 1.0


def models() -> tuple[ShardEncoder, ComputeHead, CommModel, CommModel, AllReduceModel]:
    torch.manual_seed(0)
    return ShardEncoder(), ComputeHead(), CommModel(), CommModel(), AllReduceModel()


def inputs() -> tuple[FloatArray, FloatArray, FloatArray]:
    generator = np.random.default_rng(0)
    return (
        extreme_shards(generator, 50),
        extreme_devices(generator, 50),
        extreme_jobs(generator, 50),
    )


def test_graphs_agree_with_their_models_on_extreme_inputs(bundle: Bundle) -> None:
    """The check at export covers it; here with other inputs, through the runtime."""
    generator = np.random.default_rng(99)
    shards, devices = extreme_shards(generator, 500), extreme_devices(generator, 500)
    jobs = extreme_jobs(generator, 500)
    encoder, head, forward, backward, all_reduce = models()
    with torch.no_grad():
        for module in (encoder, head, forward, backward, all_reduce):
            for parameter in module.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        encodings = encoder(torch.from_numpy(shards))
        compute_ms, compute_floor_ms = head(encodings)
        forward_ms, forward_floor_ms = forward(torch.from_numpy(devices))
        all_reduce_ms = all_reduce(torch.from_numpy(jobs))
    graphs = export_graphs(encoder, head, forward, backward, all_reduce, shards, devices, jobs)
    model = OnnxCostModel.from_bundle(Bundle(bundle.manifest, graphs))
    np.testing.assert_allclose(model.encode(shards), encodings.numpy(), rtol=1e-4)
    sums = encodings.numpy()
    np.testing.assert_allclose(model.compute_ms(sums), compute_ms.numpy(), rtol=1e-4)
    np.testing.assert_allclose(model.compute_floor_ms(sums), compute_floor_ms.numpy(), rtol=1e-4)
    for found, expected in (
        (model.forward_comm_ms(devices), forward_ms),
        (model.forward_comm_floor_ms(devices), forward_floor_ms),
        (model.all_reduce_ms(jobs), all_reduce_ms),
    ):
        np.testing.assert_allclose(found, expected[:, 0].numpy(), rtol=1e-4)


def test_a_traced_structure_filled_with_other_weights_is_what_is_traced_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every export compares its graph with its model; this, with the exporter's own bytes."""
    jobs = extreme_jobs(np.random.default_rng(0), 16)
    first, second = AllReduceModel(), AllReduceModel()
    with torch.no_grad():
        for number, weights in enumerate(second.parameters()):
            weights += 0.1 + 0.01 * number
    empty = export._export(ALL_REDUCE, first, jobs)
    filled = export._export(ALL_REDUCE, second, jobs)
    monkeypatch.setattr(export, "_TRACED", {})
    assert export._export(ALL_REDUCE, second, jobs) == filled != empty


def test_a_graph_that_differs_from_its_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    faithful = export._export

    def slightly_wrong(name: str, module: nn.Module, sample: object) -> bytes:
        if isinstance(module, ShardEncoder):
            with torch.no_grad():
                module.mean_amounts *= 1.0 + 2e-4
            content = faithful(name, module, sample)
            with torch.no_grad():
                module.mean_amounts /= 1.0 + 2e-4
            return content
        return faithful(name, module, sample)

    monkeypatch.setattr(export, "_export", slightly_wrong)
    with pytest.raises(ExportError, match=f"{COMPUTE_ENCODER}: .* differs from its torch model"):
        export_graphs(*models(), *inputs())


def test_a_graph_whose_rows_depend_on_each_other_is_refused() -> None:
    """ONNX Runtime adds the columns of a row in an order that depends on its place in memory."""

    class SumsColumns(ShardEncoder):
        def forward(self, shards: Tensor) -> Tensor:
            reuse = shards[:, len(SHARD_COLUMNS) - REUSE_BINS :] * 1.7
            return super().forward(shards) * reuse.sum(dim=1, keepdim=True)

    _, *others = models()
    with pytest.raises(ExportError, match=rf"{COMPUTE_ENCODER}: .* depends on the rest of the ba"):
        export_graphs(SumsColumns(), *others, *inputs())
