"""What differs between a CPU and a GPU: clocks, caches, memory, what fbgemm supports."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice

from shardwright.domain import Optimizer, WeightDtype
from shardwright_benchmark_worker.errors import DeviceError
from shardwright_benchmark_worker.measure import host
from shardwright_benchmark_worker.measure.fingerprint import cpu_fingerprint, cuda_fingerprint
from shardwright_benchmark_worker.measure.placement import Placement

_CPU_FLUSH_BYTES = 64 * 2**20

T = TypeVar("T")


class Device(Protocol):
    """One device that runs fused embedding operators and collectives.

    Attributes:
        name: `cpu` or `cuda`.
        torch_device: Where tensors live.
        locations: Where it can keep weights, by fbgemm's name.
        compute_device: fbgemm's name of it.
        backend: Collective library of `torch.distributed`.
        optimizers: Those that fbgemm implements here.
        weight_dtypes: Those that fbgemm implements here.
    """

    name: str
    torch_device: torch.device
    locations: Mapping[Placement, EmbeddingLocation]
    compute_device: ComputeDevice
    backend: str
    optimizers: tuple[Optimizer, ...]
    weight_dtypes: tuple[WeightDtype, ...]

    def timed_ms(self, work: Callable[[], T]) -> tuple[T, float]:
        """Runs `work` on the idle device to its end; returns its result and time in ms."""

    def flush_caches(self) -> None:
        """Evicts what earlier runs left in the last-level cache."""

    def free_memory_bytes(self) -> int:
        """Memory that can be allocated now."""

    def fingerprint(self) -> dict[str, str]:
        """What measures, as text."""


class CpuDevice:
    """The processor: fbgemm's CPU kernels, gloo, the system's monotonic clock."""

    name = "cpu"
    locations: Mapping[Placement, EmbeddingLocation] = {Placement.DEVICE: EmbeddingLocation.HOST}
    compute_device = ComputeDevice.CPU
    backend = "gloo"
    # fbgemm-gpu-cpu 1.8: Adam is asserted away in CPU mode, bf16 is not dispatched on
    optimizers: tuple[Optimizer, ...] = (
        Optimizer.SGD,
        Optimizer.ROWWISE_ADAGRAD,
        Optimizer.ADAGRAD,
    )
    weight_dtypes: tuple[WeightDtype, ...] = (WeightDtype.FP32, WeightDtype.FP16)

    def __init__(self) -> None:
        _check_threads()
        self.torch_device = torch.device("cpu")
        self._scratch = torch.zeros(_CPU_FLUSH_BYTES // 4)

    def timed_ms(self, work: Callable[[], T]) -> tuple[T, float]:
        """See `Device`."""
        start = time.perf_counter()
        result = work()
        return result, (time.perf_counter() - start) * 1e3

    def flush_caches(self) -> None:
        """See `Device`."""
        self._scratch.add_(1.0)

    def free_memory_bytes(self) -> int:
        """See `Device`; honours the memory limit of a container."""
        return host.available_memory_bytes()

    def fingerprint(self) -> dict[str, str]:
        """See `Device`."""
        return cpu_fingerprint()


class CudaDevice:
    """One NVIDIA GPU: fbgemm's CUDA kernels, NCCL, CUDA events."""

    name = "cuda"
    locations: Mapping[Placement, EmbeddingLocation] = {
        Placement.DEVICE: EmbeddingLocation.DEVICE,
        Placement.MANAGED: EmbeddingLocation.MANAGED,
        Placement.MANAGED_CACHING: EmbeddingLocation.MANAGED_CACHING,
    }
    compute_device = ComputeDevice.CUDA
    backend = "nccl"
    optimizers: tuple[Optimizer, ...] = tuple(Optimizer)
    weight_dtypes: tuple[WeightDtype, ...] = tuple(WeightDtype)

    def __init__(self, local_rank: int = 0) -> None:
        if not torch.cuda.is_available():
            raise DeviceError(
                "--device cuda: torch sees no GPU; check the driver (nvidia-smi) and that torch "
                f"is a CUDA build (installed: {torch.__version__}), or use --device cpu"
            )
        if local_rank >= torch.cuda.device_count():
            raise DeviceError(
                f"--device cuda: local rank {local_rank} has no GPU, this host has "
                f"{torch.cuda.device_count()}; start fewer processes per node"
            )
        self.torch_device = torch.device("cuda", local_rank)
        torch.cuda.set_device(self.torch_device)
        self._properties = torch.cuda.get_device_properties(self.torch_device)
        # twice the L2 cache, so that nothing of the last run survives
        flush_bytes = 2 * max(int(self._properties.L2_cache_size), 2**20)
        self._scratch = torch.zeros(flush_bytes // 4, device=self.torch_device)

    def timed_ms(self, work: Callable[[], T]) -> tuple[T, float]:
        """See `Device`; by events, so what the GPU waits for the host counts, as in a job."""
        start: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(self.torch_device)
        start.record()
        result = work()
        end.record()
        torch.cuda.synchronize(self.torch_device)
        return result, float(start.elapsed_time(end))

    def flush_caches(self) -> None:
        """See `Device`."""
        self._scratch.add_(1.0)

    def free_memory_bytes(self) -> int:
        """See `Device`."""
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(self.torch_device)[0])

    def fingerprint(self) -> dict[str, str]:
        """See `Device`."""
        return cuda_fingerprint(self.torch_device)


def open_device(name: str, local_rank: int = 0) -> Device:
    """The device called `cpu` or `cuda`.

    Raises:
        DeviceError: When this machine does not have it, or runs more threads than processors.
    """
    return CudaDevice(local_rank) if name == "cuda" else CpuDevice()


def _check_threads() -> None:
    quota = host.container_processors()
    processors = min(host.usable_processors(), math.ceil(quota or 2**20))
    if torch.get_num_threads() > processors:
        raise DeviceError(
            f"--device cpu: torch would run {torch.get_num_threads()} threads on the {processors} "
            f"processors that this process may use; set OMP_NUM_THREADS={processors} or less"
        )


def spin_ms(duration_ms: float) -> None:
    """Waits without giving up the processor: sleeping is off by a scheduler tick."""
    end = time.perf_counter() + duration_ms * 1e-3
    while time.perf_counter() < end:
        pass
