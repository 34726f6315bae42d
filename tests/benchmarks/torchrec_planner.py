"""TorchRec's own planner, EmbeddingShardingPlanner, on meta tensors.

It runs in a process of its own, which is killed after `LIMIT_CPU_S` of processor time, so that
other work on the machine does not decide whether it answers. It is told what the roofline knows:
the profile's bandwidths, pooling factors, the batch. Memory counts as ours does, weights and
optimizer state only: its own estimator adds buffers for inputs and outputs, which would forbid it
plans that all other sides may take. Column pieces have a quarter of a table's columns (it tries one
width a table, 128 where it is not told).
"""

from __future__ import annotations

import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version as installed
from typing import TYPE_CHECKING, Any

from tests.benchmarks.answers import Answer
from tests.benchmarks.row_shards import row_shards

from shardwright.domain import Shard, ShardingPlan, ShardingProblem, ShardingType
from shardwright_benchmark_worker.roofline import get_profile

if TYPE_CHECKING:
    from torchrec.distributed.planner.types import ShardingOption

LIMIT_CPU_S = 300
_REVISION = 1
_IN_ROWS = (ShardingType.ROW_WISE.value, ShardingType.TABLE_ROW_WISE.value)


def version() -> str:
    """What an answer depends on."""
    return f"torchrec {installed('torchrec')}, revision {_REVISION}"


def answer(types: tuple[ShardingType, ...]) -> Callable[[Any], Answer]:
    """A side that answers within these sharding types; see `sides`."""
    return lambda task: plan_apart(task.problem, types)


def plan_apart(
    problem: ShardingProblem, types: tuple[ShardingType, ...], limit_cpu_s: int = LIMIT_CPU_S
) -> Answer:
    """Plans in a process of its own; time is that of the process, imports included."""
    used_s = _children_cpu_s()
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.torchrec_planner", str(limit_cpu_s)],
        input=pickle.dumps((problem, types)),
        capture_output=True,
        check=False,
    )
    cpu_s = _children_cpu_s() - used_s
    if done.returncode == -signal.SIGXCPU:
        return Answer(None, cpu_s, note=f"killed after {limit_cpu_s} s of processor time")
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        return Answer(None, cpu_s, note=lines[-1] if lines else f"exit {done.returncode}")
    plan, note = pickle.loads(done.stdout)
    return Answer(plan, cpu_s, note=note)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def plan_here(
    problem: ShardingProblem, types: tuple[ShardingType, ...]
) -> tuple[ShardingPlan | None, str]:
    """Plans in this process: the plan, or None and why not."""
    import torch
    from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.planner import EmbeddingShardingPlanner
    from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
    from torchrec.distributed.planner.shard_estimators import EmbeddingPerfEstimator
    from torchrec.distributed.planner.storage_reservations import (
        FixedPercentageStorageReservation,
    )
    from torchrec.distributed.planner.types import PlannerError

    configs = [
        EmbeddingBagConfig(
            name=table.name,
            num_embeddings=table.num_embeddings,
            embedding_dim=table.embedding_dim,
            feature_names=[table.name],
        )
        for table in problem.tables
    ]
    module = EmbeddingBagCollection(tables=configs, device=torch.device("meta"))
    topology, constraints = _topology(problem), _constraints(problem, types)
    batch_size = problem.global_batch_size // problem.cluster.num_devices
    estimators = [EmbeddingPerfEstimator(topology, constraints), _Memory(problem)]
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=batch_size,
        enumerator=EmbeddingEnumerator(topology, batch_size, constraints, estimators),
        storage_reservation=FixedPercentageStorageReservation(0.0),
        constraints=constraints,
        stats=[],
        debug=False,
    )
    try:
        planner.plan(module, [EmbeddingBagCollectionSharder()])
    except PlannerError as error:
        return None, f"{error.error_type.value}"
    return to_plan(planner._best_plan or [], problem), ""


def to_plan(options: list[ShardingOption], problem: ShardingProblem) -> ShardingPlan:
    """TorchRec's choices as a plan of ours.

    Its planner cuts n row ranges of floor(rows / n) with the remainder in the last, its runtime
    looks rows up in ranges of ceil(rows / n): here they are the runtime's.
    """
    by_name = {option.name: option for option in options}
    shards: list[Shard] = []
    for index, table in enumerate(problem.tables):
        option = by_name[table.name]
        ranks = [shard.rank for shard in option.shards]
        if option.sharding_type in _IN_ROWS:
            shards += row_shards(problem, index, range(min(ranks), max(ranks) + 1))
            continue
        for shard in option.shards:
            (rows, columns), (_, column_offset) = shard.size, shard.offset
            shards.append(Shard(table.name, shard.rank, 0, rows, column_offset, columns))
    return ShardingPlan(tuple(shards))


class _Memory:
    """A storage estimator of TorchRec's that counts weights and optimizer state."""

    def __init__(self, problem: ShardingProblem) -> None:
        self._problem = problem
        self._tables = {table.name: table for table in problem.tables}

    def estimate(self, sharding_options: list[ShardingOption], sharder_data_map: Any) -> None:
        from torchrec.distributed.planner.types import Storage

        for option in sharding_options:
            for shard in option.shards:
                rows, columns = shard.size
                num_bytes = self._problem.shard_bytes(self._tables[option.name], rows, columns)
                shard.storage = Storage(hbm=num_bytes, ddr=0)


def _topology(problem: ShardingProblem) -> Any:
    from torchrec.distributed.planner.types import CustomTopologyData, Topology

    cluster, profile = problem.cluster, get_profile(problem.cluster.hardware)
    memory = [cluster.shard_memory_bytes(d) for d in range(cluster.num_devices)]
    return Topology(
        world_size=cluster.num_devices,
        local_world_size=cluster.devices_per_host,
        compute_device="cuda",
        custom_topology_data=CustomTopologyData({"hbm_cap": memory}, cluster.num_devices),
        hbm_mem_bw=profile.dram_gb_per_s * 1e6,  # bytes/ms, and so are the others
        intra_host_bw=profile.nvlink_gb_per_s * 1e6,
        inter_host_bw=profile.nic_gb_per_s * 1e6,
    )


def _constraints(problem: ShardingProblem, types: tuple[ShardingType, ...]) -> dict[str, Any]:
    from torchrec.distributed.planner.types import ParameterConstraints

    names = [kind.value for kind in types]
    return {
        table.name: ParameterConstraints(
            sharding_types=names,
            compute_kernels=["fused"],
            min_partition=max(4, table.embedding_dim // 16 * 4),
            pooling_factors=[table.pooling_factor],
        )
        for table in problem.tables
    }


def main() -> None:
    """The process apart: a pickled question on stdin, a pickled answer on stdout."""
    limit_cpu_s = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CPU, (limit_cpu_s, limit_cpu_s + 1))
    question = pickle.loads(sys.stdin.buffer.read())
    out, sys.stdout = sys.stdout, sys.stderr  # libraries print
    out.buffer.write(pickle.dumps(plan_here(*question)))


if __name__ == "__main__":
    main()
