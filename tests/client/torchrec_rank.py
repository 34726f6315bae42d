"""One rank of a TorchRec job on CPUs: the sharded model against the unsharded one.

Usage: torchrec_rank.py SCENARIO INIT_FILE, with RANK, WORLD_SIZE and LOCAL_WORLD_SIZE set.
Fails when outputs, or weights after one step, differ from the unsharded model's.
"""

from __future__ import annotations

import copy
import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec_scenarios import SCENARIOS, Scenario

from shardwright_client import to_torchrec

SAMPLES_PER_RANK = 12
LEARNING_RATE = 0.5


def main() -> None:
    scenario = SCENARIOS[sys.argv[1]]
    rank = int(os.environ["RANK"])
    world_size = int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        "gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=world_size
    )
    check(scenario, rank, world_size, int(os.environ["LOCAL_WORLD_SIZE"]))
    dist.barrier()
    dist.destroy_process_group()


def check(scenario: Scenario, rank: int, world_size: int, local_world_size: int) -> None:
    torch.manual_seed(0)  # the same model on every rank
    whole = scenario.module()
    plan = to_torchrec(
        scenario.plan(),
        whole,
        world_size=world_size,
        local_world_size=local_world_size,
        device_type="cpu",
    )
    sharded = distribute(copy.deepcopy(whole), plan)
    batches = [scenario.features(SAMPLES_PER_RANK, seed) for seed in range(world_size)]

    expected = [whole(batch) for batch in batches]
    got = sharded(batches[rank])
    assert set(got) == set(expected[rank])
    for key, output in got.items():
        torch.testing.assert_close(output, expected[rank][key], msg=lambda m, k=key: f"{k}: {m}")

    # TorchRec averages gradients over the ranks, so each rank's loss is a mean over samples
    loss_of(got).backward()
    step_copies(sharded, scenario)
    optimizer = torch.optim.SGD(whole.parameters(), LEARNING_RATE)
    (sum(map(loss_of, expected)) / world_size).backward()
    optimizer.step()
    compare_weights(sharded, whole, rank, scenario)


def loss_of(outputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Weighs every output column differently, so that swapped columns show."""
    total = torch.zeros(())
    for key in sorted(outputs):
        weights = torch.arange(1.0, outputs[key].shape[1] + 1)
        total = total + (outputs[key] * weights).mean()
    return total


def distribute(module: nn.Module, plan: object) -> nn.Module:
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.model_parallel import DistributedModelParallel
    from torchrec.distributed.types import ShardingEnv
    from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

    apply_optimizer_in_backward(torch.optim.SGD, module.parameters(), {"lr": LEARNING_RATE})
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    sharded = DistributedModelParallel(
        module,
        env=ShardingEnv.from_process_group(dist.group.WORLD),
        device=torch.device("cpu"),
        plan=plan,
        sharders=[EmbeddingBagCollectionSharder()],
    )
    for name, tensor in sharded.state_dict().items():
        # on CPUs TorchRec draws weights anew instead of taking over the module's
        if not isinstance(tensor, ShardedTensor):
            tensor.detach().copy_(weights[name])
            continue
        for shard in tensor.local_shards():
            row, column = shard.metadata.shard_offsets
            height, width = shard.metadata.shard_sizes
            piece = weights[name][row : row + height, column : column + width]
            shard.tensor.detach().copy_(piece)
    return sharded


def step_copies(sharded: nn.Module, scenario: Scenario) -> None:
    """What README tells: the fused optimizer leaves copies alone, so step them yourself."""
    names = {name for name, rows, _ in scenario.tables if scenario.copied(name)}
    copied = [p for key, p in sharded.named_parameters() if key.split(".")[-2] in names]
    assert len(copied) == len(names)
    if copied:
        torch.optim.SGD(copied, LEARNING_RATE).step()


def compare_weights(sharded: nn.Module, whole: nn.Module, rank: int, scenario: Scenario) -> None:
    """Gathers every sharded weight on rank 0 and holds it against the unsharded one."""
    expected = whole.state_dict()
    gathered = 0
    for name, weight in sharded.state_dict().items():
        if scenario.copied(name.split(".")[-2]):
            torch.testing.assert_close(weight, expected[name], msg=lambda m, n=name: f"{n}: {m}")
            gathered += 1
            continue
        assert isinstance(weight, ShardedTensor), f"{name} was left unsharded"
        full = torch.empty(weight.size()) if rank == 0 else None
        weight.gather(0, full)
        if full is not None:
            torch.testing.assert_close(full, expected[name], msg=lambda m, n=name: f"{n}: {m}")
        gathered += 1
    assert gathered == len(expected)


if __name__ == "__main__":
    main()
