"""Sharding tasks, the same on every machine: drawn by NeuroShard's rule, and published models.

The rule (MLSys 2023, section 4.1 and the authors' code): a uniform number of tables, drawn with
replacement from Meta's public dlrm_datasets (the 820 of the 856 that have lookups), each with a dim
from {4, 8, 16, 32, 64, 128}; a draw whose fp32 weights exceed 15/16 of all memory is thrown away.
Batch 65536, plain SGD (no state beside the weights, as the rule counts memory).

Devices have 4 GiB there, with 4 and 8 of them: of the 10 to 60 tables that are drawn, mostly draws
of less than 30 fit (19 on average), of the 20 to 120 on 8 devices less than 60 (35). A table has
0.67 GiB on average, so that 400 on 32 and 1000 on 128 such devices would hardly ever fit; there
they have 12 and 7 GiB, which the tables fill to 70 and 75 % on average.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shardwright.domain import Cluster, EmbeddingTable, Optimizer, ShardingProblem
from shardwright_benchmark_worker.pool import read_pool

GIB = 2**30
HARDWARE = "nvidia-h100-sxm5-80gb"
BATCH_SIZE = 65_536
DIMS = (4, 8, 16, 32, 64, 128)
FILLED_SHARE = 15 / 16
WORKLOADS = Path(__file__).parent / "workloads"


@dataclass(frozen=True)
class Row:
    """A row of tasks: task i is drawn from the seed sequence (`seed`, i).

    Attributes:
        name: Short, a folder name.
        min_tables: Fewest tables.
        end_tables: One more than the most tables.
        num_devices: Devices.
        devices_per_host: Devices of a host.
        device_gib: Memory of a device.
        seed: Ours; no other row has it.
    """

    name: str
    min_tables: int
    end_tables: int
    num_devices: int
    devices_per_host: int
    device_gib: int
    seed: int


ROWS = {
    row.name: row
    for row in (
        Row("10-60x4", 10, 60, 4, 4, 4, 20261104),
        Row("20-120x8", 20, 120, 8, 8, 4, 20261108),
        Row("400x32", 400, 401, 32, 8, 12, 20261132),
        Row("1000x128", 1000, 1001, 128, 8, 7, 202611128),
    )
}


def draw_task(row: Row, index: int) -> ShardingProblem:
    """Task `index` of a row."""
    rng = np.random.default_rng(np.random.SeedSequence((row.seed, index)))
    limit_bytes = FILLED_SHARE * row.num_devices * row.device_gib * GIB
    while True:
        tables = _draw_tables(rng, int(rng.integers(row.min_tables, row.end_tables)))
        if sum(table.weight_bytes for table in tables) <= limit_bytes:
            break
    cluster = Cluster(row.num_devices, row.devices_per_host, HARDWARE, row.device_gib * GIB)
    return ShardingProblem(tables, cluster, BATCH_SIZE, Optimizer.SGD)


def sized_task(num_tables: int, num_devices: int, seed: int) -> ShardingProblem:
    """A task of any size: as the rule draws it, on devices that it fills to 70 %."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, num_tables, num_devices)))
    tables = _draw_tables(rng, num_tables)
    total_bytes = sum(table.weight_bytes for table in tables)
    cluster = Cluster(
        num_devices, min(8, num_devices), HARDWARE, int(total_bytes / (0.7 * num_devices))
    )
    return ShardingProblem(tables, cluster, BATCH_SIZE, Optimizer.SGD)


def _draw_tables(rng: np.random.Generator, count: int) -> tuple[EmbeddingTable, ...]:
    pool = read_pool()
    picks = rng.integers(len(pool), size=count)
    dims = rng.choice(DIMS, size=count)
    return tuple(
        EmbeddingTable(
            name=f"t{i}",
            num_embeddings=int(pool.num_embeddings[pick]),
            embedding_dim=int(dim),
            pooling_factor=float(pool.pooling_factor[pick]),
            reuse_histogram=tuple(pool.reuse_histogram[pick].tolist()),
        )
        for i, (pick, dim) in enumerate(zip(picks, dims, strict=True))
    )


def workload(name: str) -> ShardingProblem:
    """A published model on one host of 8 H100 of 80 GB, with rowwise Adagrad."""
    facts = json.loads((WORKLOADS / f"{name}.json").read_text())
    tables = tuple(
        EmbeddingTable(t["name"], t["rows"], t["dim"], float(t["pooling_factor"]))
        for t in facts["tables"]
    )
    cluster = Cluster(8, 8, HARDWARE, 80 * GIB)
    return ShardingProblem(tables, cluster, facts["batch_size"], Optimizer.ROWWISE_ADAGRAD)


def workload_names() -> Iterator[str]:
    """The published models there are, in order."""
    return (path.stem for path in sorted(WORKLOADS.glob("*.json")))
