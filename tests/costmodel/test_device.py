"""Models are fitted where the user says, and the same way every time."""

from __future__ import annotations

import pytest
import torch

from shardwright_costmodel.errors import DeviceError
from shardwright_costmodel.training.data import load
from shardwright_costmodel.training.device import CPU, DeviceChoice, choose_device
from shardwright_costmodel.training.fit import FitSettings
from shardwright_costmodel.training.trainer import TrainingRun, train

NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="of machines without CUDA")


@NO_CUDA
def test_without_a_cuda_device_it_is_the_cpu_or_an_error() -> None:
    assert choose_device(DeviceChoice.AUTO) == choose_device(DeviceChoice.CPU) == CPU
    with pytest.raises(DeviceError, match=r"--device cuda: torch .* sees no CUDA device"):
        choose_device(DeviceChoice.CUDA)


@pytest.mark.gpu
def test_a_cuda_device_trains_as_well_as_the_cpu_and_the_same_every_time(dataset_url: str) -> None:
    def run(choice: DeviceChoice) -> TrainingRun:
        settings = FitSettings(epochs=10, min_steps=600)
        device = choose_device(choice)
        return train(load(dataset_url), name="test", version="1", settings=settings, device=device)

    first, again, on_cpu = (run(DeviceChoice(d)) for d in ("auto", "cuda", "cpu"))
    assert first.bundle.manifest.training["device"] == "cuda"
    assert first.bundle.graphs == again.bundle.graphs
    for found, expected in zip(
        first.bundle.manifest.accuracy, on_cpu.bundle.manifest.accuracy, strict=True
    ):
        assert found.mape_percent < 2 * expected.mape_percent + 0.5
