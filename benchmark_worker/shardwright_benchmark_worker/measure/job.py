"""The torchrun job of this process: joining it, leaving it, and losing one of its ranks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from shardwright_benchmark_worker.errors import LaunchError, LostRankError, OptionError
from shardwright_benchmark_worker.measure.device import Device, open_device

_TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")


@contextmanager
def join_job(command: str, device_name: str, timeout_s: float) -> Iterator[Device]:
    """Joins the job, one process per device, and leaves it at the end; yields the device.

    Args:
        command: Of the worker, for advice on how to start it.
        device_name: `cpu` (gloo) or `cuda` (NCCL).
        timeout_s: A collective that takes longer fails: a rank is lost.

    Raises:
        LaunchError: When not started by torchrun.
        LostRankError: When a rank is lost.
        OptionError: When the timeout is out of range.
        DeviceError: When this machine does not have the device.
    """
    if not 1 <= timeout_s <= 86_400:
        raise OptionError(f"--timeout-s must be in 1 .. 86400, got {timeout_s:g}")
    missing = [name for name in _TORCHRUN_VARIABLES if name not in os.environ]
    if missing:
        raise LaunchError(
            f"{command.split()[0]} on cpu and cuda runs under torchrun, one process per device: "
            f"torchrun --standalone --nproc-per-node 2 -m shardwright_benchmark_worker {command} "
            f"(not set: {', '.join(missing)})"
        )
    device = open_device(device_name, int(os.environ["LOCAL_RANK"]))
    with collective(timeout_s):
        dist.init_process_group(
            device.backend,
            timeout=timedelta(seconds=timeout_s),
            # NCCL otherwise guesses the GPU of a rank at its first barrier
            device_id=device.torch_device if device.name == "cuda" else None,
        )
    yield device
    # nobody leaves before all have finished: a closed connection looks like a lost rank
    with collective(timeout_s):
        dist.barrier()
    dist.destroy_process_group()


@contextmanager
def collective(timeout_s: float) -> Iterator[None]:
    """Translates the failure of a collective: torch raises bare RuntimeErrors for it."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise LostRankError(
            f"rank {os.environ['RANK']}: a collective failed or took more than {timeout_s:g} s, so "
            f"another rank is lost; its own log says why ({error})"
        ) from error
