"""Where models are fitted."""

from __future__ import annotations

import os
from enum import Enum

import torch

from shardwright_costmodel.errors import DeviceError

CPU = torch.device("cpu")


class DeviceChoice(Enum):
    """What a user asks for."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def choose_device(choice: DeviceChoice) -> torch.device:
    """The device to fit on, `auto` being a CUDA device where there is one.

    Raises:
        DeviceError: When there is no CUDA device.
    """
    if choice is DeviceChoice.CPU or not torch.cuda.is_available():
        if choice is DeviceChoice.CUDA:
            build = torch.version.cuda or "none"
            raise DeviceError(
                f"--device cuda: torch {torch.__version__} (CUDA {build}) sees no CUDA device; "
                "take --device cpu, or a machine with one and a CUDA build of torch"
            )
        return CPU
    # the same weights every time: without these, sums are added in the order that threads come
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    return torch.device("cuda")
