"""Times fused embedding bags: fbgemm's table-batched embedding, forward and backward apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
)

from shardwright.domain import Optimizer, WeightDtype
from shardwright_benchmark_worker.errors import DeviceError, OptionError
from shardwright_benchmark_worker.measure.device import open_device
from shardwright_benchmark_worker.measure.lookups import draw_lookups
from shardwright_benchmark_worker.progress import logger
from shardwright_benchmark_worker.rows import Quantiles, compute_row
from shardwright_benchmark_worker.sampling import ComputeLimits, ComputeSample

_OPTIMIZERS = {
    Optimizer.SGD: EmbOptimType.EXACT_SGD,
    Optimizer.ROWWISE_ADAGRAD: EmbOptimType.EXACT_ROWWISE_ADAGRAD,
    Optimizer.ADAGRAD: EmbOptimType.EXACT_ADAGRAD,
    Optimizer.ADAM: EmbOptimType.ADAM,
}
_DTYPES = {
    WeightDtype.FP32: SparseType.FP32,
    WeightDtype.FP16: SparseType.FP16,
    WeightDtype.BF16: SparseType.BF16,
}
_LOOKUP_STREAM = 3
_CPU_MAX_LOOKUPS = 2_000_000
_CPU_MAX_MEMORY_BYTES = 2**30
"""Setting up larger tables takes a CPU far longer than measuring them."""
_MEMORY_SHARE = 0.5
"""Of the free memory: lookups, outputs, gradients and fbgemm's own buffers need room too."""


class ComputeBench:
    """Measures fused operators on one device.

    Args:
        device: `cpu` or `cuda`.
        warmup: Untimed runs of each sample.
        repetitions: Timed runs of each sample.

    Raises:
        DeviceError: When this machine does not have the device.
        OptionError: When `warmup` or `repetitions` is out of range.
    """

    def __init__(self, device: str, *, warmup: int, repetitions: int) -> None:
        check_repetitions(warmup, repetitions)
        self._device = open_device(device)
        self._warmup = warmup
        self._repetitions = repetitions

    def fingerprint(self) -> dict[str, str]:
        """What measures, as text."""
        return self._device.fingerprint()

    def restrict(
        self, limits: ComputeLimits, *, chosen_optimizers: bool, chosen_dtypes: bool
    ) -> ComputeLimits:
        """Leaves out what the device cannot do; bounds memory and, on a CPU, lookups.

        Args:
            limits: What the user allows.
            chosen_optimizers: Whether the user named optimizers, rather than allowing all.
            chosen_dtypes: Whether the user named weight dtypes.

        Raises:
            DeviceError: When the user asked for one of those that fbgemm does not implement here.
        """
        device = self._device
        optimizers = tuple(o for o in limits.optimizers if o in device.optimizers)
        dtypes = tuple(d for d in limits.weight_dtypes if d in device.weight_dtypes)
        no_optimizers = [o.value for o in limits.optimizers if o not in optimizers]
        no_dtypes = [d.value for d in limits.weight_dtypes if d not in dtypes]
        asked = no_optimizers * chosen_optimizers + no_dtypes * chosen_dtypes
        if asked:
            raise DeviceError(
                f"fbgemm has no {device.name} kernels for {', '.join(asked)}; "
                f"it has {', '.join(o.value for o in device.optimizers)} and "
                f"{', '.join(d.value for d in device.weight_dtypes)}"
            )
        missing = ", ".join(no_optimizers + no_dtypes)
        if missing:
            logger.info("not drawn: %s (fbgemm has no %s kernels for them)", missing, device.name)
        max_lookups = limits.max_lookups
        if max_lookups is None and device.name == "cpu":
            max_lookups = _CPU_MAX_LOOKUPS
        return replace(
            limits,
            # an fbgemm operator has one batch size
            copies=False,
            optimizers=optimizers,
            weight_dtypes=dtypes,
            max_memory_bytes=limits.max_memory_bytes or self._memory_bytes(),
            max_lookups=max_lookups,
        )

    def rows(
        self, draw: Callable[[int], ComputeSample], indices: range
    ) -> Iterator[dict[str, Any]]:
        """Measures the samples of some indices, one dataset row each.

        Raises:
            DeviceError: When a sample does not fit into the device's memory.
        """
        for index in indices:
            sample = draw(index)
            try:
                forward_ms, backward_ms = self._measure(sample)
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                raise DeviceError(
                    f"sample {index} ({int(sample.memory_bytes.sum())} bytes of tables) does not "
                    f"fit into the memory of {self._device.name}; lower --max-memory-bytes"
                ) from error
            yield compute_row(
                sample, Quantiles.of(forward_ms), Quantiles.of(backward_ms), self._repetitions
            )

    def _measure(self, sample: ComputeSample) -> tuple[list[float], list[float]]:
        """Forward and backward times of every repetition, ms."""
        device = self._device
        # by index alone, so that a sample has the same lookups on every machine and in any order
        rng = np.random.default_rng(np.random.SeedSequence((_LOOKUP_STREAM, sample.index)))
        lookups = draw_lookups(sample, rng, device.torch_device)
        bags = _build(sample, device.placement, device.torch_device)
        forward = partial(bags, lookups.indices, lookups.offsets)
        shape = (sample.global_batch_size, int(sample.embedding_dim.sum()))
        gradient = torch.randn(shape, device=device.torch_device)
        forward_ms, backward_ms = [], []
        for repetition in range(self._warmup + self._repetitions):
            device.flush_caches()
            output, forward_time_ms = device.timed_ms(forward)
            device.flush_caches()
            _, backward_time_ms = device.timed_ms(partial(output.backward, gradient))
            if repetition >= self._warmup:
                forward_ms.append(forward_time_ms)
                backward_ms.append(backward_time_ms)
        return forward_ms, backward_ms

    def _memory_bytes(self) -> int:
        """Half of the free memory, rounded down to a power of two.

        What is drawn depends on the limit, so it must not change with every page that is freed.
        """
        free = int(self._device.free_memory_bytes() * _MEMORY_SHARE)
        if self._device.name == "cpu":
            free = min(free, _CPU_MAX_MEMORY_BYTES)
        return 1 << (max(free, 4096).bit_length() - 1)


def check_repetitions(warmup: int, repetitions: int) -> None:
    """Checks the counts of runs.

    Raises:
        OptionError: When one is out of range.
    """
    if not 0 <= warmup <= 10_000:
        raise OptionError(f"--warmup must be in 0 .. 10000, got {warmup}")
    if not 1 <= repetitions <= 10_000:
        raise OptionError(f"--repetitions must be in 1 .. 10000, got {repetitions}")


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed; torch's CPU allocator raises a bare RuntimeError."""
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or "DefaultCPUAllocator" in str(error)


def _build(
    sample: ComputeSample, placement: tuple[Any, Any], device: torch.device
) -> SplitTableBatchedEmbeddingBagsCodegen:
    """The fused operator, as TorchRec builds it: sum pooling, fp32 output, fused optimizer."""
    shapes = zip(sample.num_embeddings.tolist(), sample.embedding_dim.tolist(), strict=True)
    return SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, dim, *placement) for rows, dim in shapes],
        weights_precision=_DTYPES[sample.weight_dtype],
        output_dtype=SparseType.FP32,
        optimizer=_OPTIMIZERS[sample.optimizer],
        pooling_mode=PoolingMode.SUM,
        learning_rate=1e-3,
        device=device,
    )
