"""One training step of a sharded model against the unsharded one; run under torchrun.

Usage: torchrun --standalone --nproc-per-node N train_sharded.py REQUEST.json RESPONSE.json
Exits with an error on any rank whose outputs or updated weights differ.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import fbgemm_gpu  # noqa: F401  registers the operators that torchrec's CPU kernels call
import torch
import torch.distributed as dist
from google.protobuf import json_format
from torch import nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ShardingEnv
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from shardwright import wire
from shardwright.domain import ShardingProblem
from shardwright.v1 import sharding_plan_service_pb2 as pb2
from shardwright_client.torchrec import to_torchrec

LEARNING_RATE = 0.5
SAMPLES_PER_RANK = 32


class Model(nn.Module):
    """An embedding bag collection one level down, as in a real model."""

    def __init__(self, problem: ShardingProblem) -> None:
        super().__init__()
        self.sparse = EmbeddingBagCollection(
            device=torch.device("cpu"),
            tables=[
                EmbeddingBagConfig(
                    name=table.name,
                    num_embeddings=table.num_embeddings,
                    embedding_dim=table.embedding_dim,
                    feature_names=[f"feature_{table.name}"],
                )
                for table in problem.tables
            ],
        )

    def forward(self, features: KeyedJaggedTensor) -> dict[str, torch.Tensor]:
        return self.sparse(features).to_dict()


def draw_features(problem: ShardingProblem, rank: int) -> KeyedJaggedTensor:
    """A rank's batch: ragged bags, some of them empty."""
    generator = torch.Generator().manual_seed(1000 + rank)
    keys, values, lengths = [], [], []
    for table in problem.tables:
        most = max(2, round(2 * table.pooling_factor) + 1)
        length = torch.randint(0, most, (SAMPLES_PER_RANK,), generator=generator)
        keys.append(f"feature_{table.name}")
        lengths.append(length)
        values.append(
            torch.randint(0, table.num_embeddings, (int(length.sum()),), generator=generator)
        )
    return KeyedJaggedTensor(keys=keys, values=torch.cat(values), lengths=torch.cat(lengths))


def concatenate(batches: list[KeyedJaggedTensor]) -> KeyedJaggedTensor:
    """The global batch: the ranks' samples one after another, key by key."""
    keys = batches[0].keys()
    split = [batch.to_dict() for batch in batches]
    return KeyedJaggedTensor(
        keys=keys,
        values=torch.cat([d[key].values() for key in keys for d in split]),
        lengths=torch.cat([d[key].lengths() for key in keys for d in split]),
    )


def loss_of(outputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Depends on every element with its own weight, in an order that the plan does not change."""
    return sum(  # type: ignore[return-value]
        (value * torch.linspace(0.1, 1.0, value.shape[1])).sum() for value in outputs.values()
    )


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copies the unsharded weights into the local shards."""
    weights = source.state_dict()
    for name, tensor in target.state_dict().items():
        for shard in tensor.local_shards():
            row, column = shard.metadata.shard_offsets
            rows, columns = shard.metadata.shard_sizes
            piece = weights[name][row : row + rows, column : column + columns]
            shard.tensor.detach().copy_(piece)


def largest_difference(source: nn.Module, target: nn.Module) -> float:
    """Between the unsharded weights and the local shards."""
    weights = source.state_dict()
    worst = 0.0
    for name, tensor in target.state_dict().items():
        for shard in tensor.local_shards():
            row, column = shard.metadata.shard_offsets
            rows, columns = shard.metadata.shard_sizes
            piece = weights[name][row : row + rows, column : column + columns]
            if piece.numel():
                worst = max(worst, float((shard.tensor - piece).abs().max()))
    return worst


def main() -> None:
    request_path, response_path = map(Path, sys.argv[1:])
    request = json_format.Parse(request_path.read_text(), pb2.GetShardingPlanRequest())
    response = json_format.Parse(response_path.read_text(), pb2.GetShardingPlanResponse())
    problem = wire.plan_request_from_proto(request).problem
    plan = wire.plan_result_from_proto(response).plan

    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(7)
    unsharded = Model(problem)
    before = copy.deepcopy(unsharded)

    model = Model(problem)
    apply_optimizer_in_backward(torch.optim.SGD, model.parameters(), {"lr": LEARNING_RATE})
    sharded = DistributedModelParallel(
        module=model,
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=torch.device("cpu"),
        plan=to_torchrec(plan, model, device_type="cpu", world_size=world_size),
        sharders=[EmbeddingBagCollectionSharder()],
    )
    copy_weights(unsharded, sharded)

    batches = [draw_features(problem, r) for r in range(world_size)]
    outputs = sharded(batches[rank])
    expected = unsharded(concatenate(batches))
    assert outputs.keys() == expected.keys(), (outputs.keys(), expected.keys())
    mine = slice(rank * SAMPLES_PER_RANK, (rank + 1) * SAMPLES_PER_RANK)
    forward_difference = max(
        float((outputs[key] - expected[key][mine]).abs().max()) for key in expected
    )

    # TorchRec divides gradients by the world size: the mean over ranks of their losses.
    (loss_of(expected) / world_size).backward()
    with torch.no_grad():
        for parameter in unsharded.parameters():
            parameter -= LEARNING_RATE * parameter.grad
    loss_of(outputs).backward()
    step_difference = largest_difference(unsharded, sharded)
    moved = largest_difference(before, sharded)

    report = {
        "rank": rank,
        "sharded": str(type(sharded.module.sparse).__name__),
        "forward_difference": forward_difference,
        "step_difference": step_difference,
        "moved": moved,
        "local_shards": sum(len(t.local_shards()) for t in sharded.state_dict().values()),
    }
    print("REPORT " + json.dumps(report), flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
