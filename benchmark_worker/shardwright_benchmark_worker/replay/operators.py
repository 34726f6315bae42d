"""The embedding operators of one rank, as TorchRec builds them.

Shards lie in fbgemm's fused table-batched operator, one for each weight dtype, with the optimizer
in its backward pass. Data-parallel copies lie in its dense one: their gradients are all-reduced and
then applied by an optimizer of torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from fbgemm_gpu.split_embedding_configs import SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    DenseTableBatchedEmbeddingBagsCodegen,
    SplitTableBatchedEmbeddingBagsCodegen,
)

from shardwright.domain import EmbeddingTable, Optimizer, ShardingProblem, WeightDtype
from shardwright_benchmark_worker.measure.device import Device
from shardwright_benchmark_worker.measure.fused_operator import build_operator
from shardwright_benchmark_worker.measure.lookups import Lookups
from shardwright_benchmark_worker.replay.batches import together
from shardwright_benchmark_worker.replay.pieces import Piece
from shardwright_benchmark_worker.sampling import ComputeSample
from shardwright_costmodel.features import zipf_reuse_histogram

LEARNING_RATE = 1e-3
_INITIAL_WEIGHT = 0.01
_TORCH_OPTIMIZERS = {
    Optimizer.SGD: torch.optim.SGD,
    # torch has no rowwise Adagrad: data-parallel tables are tiny, and so is the difference
    Optimizer.ROWWISE_ADAGRAD: torch.optim.Adagrad,
    Optimizer.ADAGRAD: torch.optim.Adagrad,
    Optimizer.ADAM: torch.optim.Adam,
}
_DENSE_DTYPES = {
    WeightDtype.FP32: SparseType.FP32,
    WeightDtype.FP16: SparseType.FP16,
    WeightDtype.BF16: SparseType.BF16,
}


class ShardOperators:
    """The shards of a rank; its pooled output is `[batch, width]`, in the order of the pieces.

    Attributes:
        fused: fbgemm's operators with the pieces in each.
    """

    def __init__(self, problem: ShardingProblem, pieces: Sequence[Piece], device: Device) -> None:
        self._shape = (problem.global_batch_size, 0)
        self._device = device.torch_device
        self.fused: list[tuple[SplitTableBatchedEmbeddingBagsCodegen, list[Piece]]] = []
        for dtype, group in groupby(pieces, lambda p: problem.tables[p.table].weight_dtype):
            held = list(group)
            operator = build_operator(_sample(problem, held, dtype), device)
            fill(operator)
            self.fused.append((operator, held))
        self._outputs: list[torch.Tensor] = []

    def batch(self, of_piece: dict[Piece, Lookups]) -> list[Lookups]:
        """The lookups of each operator."""
        return [together([of_piece[piece] for piece in held]) for _, held in self.fused]

    def forward(self, batch: list[Lookups]) -> torch.Tensor:
        """Pools; keeps what the backward pass needs."""
        self._outputs = [
            operator(lookups.indices, lookups.offsets)
            for (operator, _), lookups in zip(self.fused, batch, strict=True)
        ]
        if not self._outputs:
            return torch.empty(self._shape, device=self._device)
        if len(self._outputs) == 1:
            return self._outputs[0].detach()
        return torch.cat([output.detach() for output in self._outputs], dim=1)

    def backward(self, gradient: torch.Tensor) -> None:
        """Propagates `[batch, width]` and updates the weights."""
        if not self._outputs:
            return
        parts = torch.split(gradient, [output.shape[1] for output in self._outputs], dim=1)
        for output, part in zip(self._outputs, parts, strict=True):
            output.backward(part)  # type: ignore[no-untyped-call]
        self._outputs = []


class CopyOperators:
    """A rank's copies of data-parallel tables; each pools its own samples only.

    Attributes:
        weights: Of each copy, flat.
    """

    def __init__(
        self, tables: Sequence[EmbeddingTable], optimizer: Optimizer, device: Device
    ) -> None:
        self._dense = []
        for table in tables:
            operator = DenseTableBatchedEmbeddingBagsCodegen(
                [(table.num_embeddings, table.embedding_dim)],
                weights_precision=_DENSE_DTYPES[table.weight_dtype],
                use_cpu=device.name == "cpu",
            )
            operator.weights.data.fill_(_INITIAL_WEIGHT)
            self._dense.append(operator)
        self.weights = [operator.weights for operator in self._dense]
        self._optimizer = _TORCH_OPTIMIZERS[optimizer](self.weights, lr=LEARNING_RATE)
        self._outputs: list[torch.Tensor] = []

    def forward(self, batch: list[Lookups]) -> None:
        """Pools; keeps what the backward pass needs."""
        self._outputs = [
            operator(lookups.indices, lookups.offsets)
            for operator, lookups in zip(self._dense, batch, strict=True)
        ]

    def backward(self) -> torch.Tensor:
        """Propagates ones; returns the gradients of all copies, one after another."""
        for output in self._outputs:
            output.backward(torch.ones_like(output))  # type: ignore[no-untyped-call]
        self._outputs = []
        return torch.cat([weights.grad.ravel() for weights in self.weights])

    def step(self, gradients: torch.Tensor) -> None:
        """Applies gradients, as `backward` returned them, reduced."""
        sizes = [weights.numel() for weights in self.weights]
        for weights, gradient in zip(self.weights, torch.split(gradients, sizes), strict=True):
            weights.grad.copy_(gradient.view_as(weights))
        self._optimizer.step()
        self._optimizer.zero_grad()


def fill(operator: SplitTableBatchedEmbeddingBagsCodegen) -> None:
    """Writes every weight: memory that nobody has written yet is one page of zeros, in a cache."""
    for weights in operator.split_embedding_weights():
        weights.fill_(_INITIAL_WEIGHT)


def _sample(problem: ShardingProblem, pieces: Sequence[Piece], dtype: WeightDtype) -> ComputeSample:
    shards = [piece.shard for piece in pieces]
    return ComputeSample(
        index=0,
        global_batch_size=problem.global_batch_size,
        optimizer=problem.optimizer,
        weight_dtype=dtype,
        num_embeddings=np.array([shard.num_rows for shard in shards]),
        embedding_dim=np.array([shard.num_columns for shard in shards]),
        # only the shapes are built
        pooling_factor=np.ones(len(shards)),
        reuse_histogram=np.tile(zipf_reuse_histogram(1, 1.0), (len(shards), 1)),
    )
