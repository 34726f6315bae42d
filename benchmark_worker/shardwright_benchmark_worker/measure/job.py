"""The torchrun job of this process: joining it, leaving it, and losing one of its ranks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from shardwright_benchmark_worker.errors import LaunchError, LostRankError, OptionError
from shardwright_benchmark_worker.measure.device import Device, open_device

_TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")


class Job:
    """One rank of a job; every rank calls the same methods in the same order.

    What is measured goes over the device's own library (NCCL or gloo). What the ranks have to tell
    each other meanwhile goes over gloo, which needs no GPU.

    Args:
        device: That this rank measures.
        timeout_s: A collective that takes longer has lost a rank.
        patience_s: How much longer rank 0 may take to list and write parts.

    Attributes:
        device: See above.
        rank: Of this process.
        world_size: Processes of the job.
        local_world_size: Processes on this host.
        timeout_s: See above.
    """

    def __init__(self, device: Device, timeout_s: float, patience_s: float = 0.0) -> None:
        self.device = device
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.local_world_size = int(os.environ["LOCAL_WORLD_SIZE"])
        self.timeout_s = timeout_s
        self._patience_s = patience_s + timeout_s
        with collective(timeout_s):
            self._control = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
            self._patient = dist.new_group(
                backend="gloo", timeout=timedelta(seconds=self._patience_s)
            )

    def agree(self, parts: list[range]) -> list[range]:
        """What rank 0 has in `parts`, on every rank."""
        payload = [[(part.start, part.stop) for part in parts]]
        with collective(self._patience_s):
            dist.broadcast_object_list(payload, src=0, group=self._patient)
        return [range(start, stop) for start, stop in payload[0]]

    def meet(self) -> None:
        """Waits for all ranks; longer than in a collective, for rank 0 writes parts."""
        with collective(self._patience_s):
            dist.barrier(self._patient)

    def barrier(self) -> None:
        """Returns when all ranks are here."""
        with collective(self.timeout_s):
            dist.barrier(self._control)

    def gather(self, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """`[world_size, *shape]`: everyone's numbers of one shape, on every rank."""
        mine = torch.as_tensor(np.asarray(values, dtype=np.float64))
        everyone = [torch.empty_like(mine) for _ in range(self.world_size)]
        with collective(self.timeout_s):
            dist.all_gather(everyone, mine, self._control)
        return torch.stack(everyone).numpy()

    def gather_texts(self, text: str) -> list[str]:
        """Everyone's text, on every rank."""
        everyone: list[str] = [""] * self.world_size
        with collective(self.timeout_s):
            dist.all_gather_object(everyone, text, self._control)
        return everyone

    def send(self, number: float, rank: int) -> None:
        """Sends a number to a rank, which receives it."""
        with collective(self.timeout_s):
            dist.send(torch.tensor([number], dtype=torch.float64), rank, self._control)

    def receive(self, rank: int) -> float:
        """Receives a number that a rank sends."""
        number = torch.empty(1, dtype=torch.float64)
        with collective(self.timeout_s):
            dist.recv(number, rank, self._control)
        return float(number)


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
