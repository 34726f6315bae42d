"""Builds fused operators, and keeps the host memory that they use one after another."""

from __future__ import annotations

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
)

from shardwright.domain import Optimizer, WeightDtype
from shardwright_benchmark_worker.measure.device import Device
from shardwright_benchmark_worker.measure.placement import Placement
from shardwright_benchmark_worker.sampling import ComputeSample

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


class HostArena:
    """Host memory for the tables of one operator after another.

    Getting fresh pages from the system and zeroing them costs ten times what a sample's kernels
    cost. Buffers keep one role and dtype, so old contents are ordinary weights or states.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    @property
    def held_bytes(self) -> int:
        """Of all buffers."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def take(self, role: str, dtype: torch.dtype, size: int) -> torch.Tensor:
        """`[size]` of `dtype`; its contents are those of the last operator with this role."""
        buffer = self._buffers.get((role, dtype))
        if buffer is None or len(buffer) < size:
            # given back before the larger one is asked for: both might not fit
            del buffer
            self._buffers.pop((role, dtype), None)
            buffer = self._buffers[role, dtype] = torch.zeros(size, dtype=dtype)
        return buffer[:size]

    def clear(self) -> None:
        """Gives all memory back."""
        self._buffers.clear()


def build_operator(
    sample: ComputeSample,
    device: Device,
    placement: Placement = Placement.DEVICE,
    arena: HostArena | None = None,
) -> SplitTableBatchedEmbeddingBagsCodegen:
    """The fused operator, as TorchRec builds it: sum pooling, fp32 output, fused optimizer.

    Args:
        sample: Its tables.
        device: Where it runs.
        placement: One of `device.locations`.
        arena: Host memory to use on a CPU; None: its own.
    """
    where = (device.locations[placement], device.compute_device)
    shapes = zip(sample.num_embeddings.tolist(), sample.embedding_dim.tolist(), strict=True)
    buffers = None if arena is None or device.name != "cpu" else _buffers(sample, arena)
    return SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, dim, *where) for rows, dim in shapes],
        weights_precision=_DTYPES[sample.weight_dtype],
        output_dtype=SparseType.FP32,
        optimizer=_OPTIMIZERS[sample.optimizer],
        pooling_mode=PoolingMode.SUM,
        learning_rate=1e-3,
        device=device.torch_device,
        preallocated_host_buffers=buffers,
    )


def _buffers(sample: ComputeSample, arena: HostArena) -> dict[str, torch.Tensor] | None:
    """Weights and first moment by fbgemm's names; None for Adam, which has no CPU kernel."""
    rows = int(sample.num_embeddings.sum())
    elements = int((sample.num_embeddings * sample.embedding_dim).sum())
    dtype = _DTYPES[sample.weight_dtype].as_dtype()
    if sample.optimizer is Optimizer.ADAM:
        return None
    states = {Optimizer.ROWWISE_ADAGRAD: rows, Optimizer.ADAGRAD: elements}
    buffers = {"weights": arena.take("weights", dtype, elements)}
    if sample.optimizer in states:
        state = arena.take("state", torch.float32, states[sample.optimizer])
        buffers["momentum1"] = state
    return buffers
