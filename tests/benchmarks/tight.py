"""Tasks made to be tight: tables larger than a device, 1 to 5 % of all memory left, a plan exists.

A packing is made first, then cut into tables. Large tables are spread over random devices in pieces
of 4 to 64 columns; whole tables of mixed shapes follow; in the end one table a device fills what is
still free but for the device's slack. Forgetting where everything lay makes the task: the packing
is a column-wise plan that fits, so whoever finds none has missed one. Pooling factors are those of
real tables; reuse histograms are left out, since none of the pool's would fit the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tests.benchmarks.tasks import BATCH_SIZE, GIB, HARDWARE

from shardwright.domain import (
    Cluster,
    EmbeddingTable,
    Optimizer,
    Shard,
    ShardingPlan,
    ShardingProblem,
)
from shardwright_benchmark_worker.pool import read_pool

NUM_TASKS = 200
SEED = 20261101
DEVICES = (2, 3, 4, 6, 8, 16)
DEVICE_BYTES = 4 * GIB


@dataclass(frozen=True)
class TightTask:
    """A task and the packing that it was cut from."""

    problem: ShardingProblem
    packing: ShardingPlan


class _Packing:
    """Devices being filled: each table's rows and `(device, columns)` of its pieces."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.num_devices = int(rng.choice(DEVICES))
        # not all devices are equally tight
        share = rng.uniform(0.01, 0.05)
        slack = share * rng.dirichlet(np.full(self.num_devices, 4.0)) * self.num_devices
        self.free = ((1.0 - slack) * DEVICE_BYTES).astype(np.int64)
        self.tables: list[tuple[int, list[tuple[int, int]]]] = []

    def put(self, rows: int, pieces: list[tuple[int, int]]) -> bool:
        """Puts a table down if all its pieces fit."""
        after = self.free.copy()
        for device, columns in pieces:
            after[device] -= 4 * rows * columns
        if after.min() < 0:
            return False
        self.free = after
        self.tables.append((rows, pieces))
        return True

    def put_large(self) -> bool:
        """A table larger than a device, spread over at least two."""
        spread = int(self.rng.integers(2, self.num_devices + 1))
        devices = self.rng.permutation(self.num_devices)[:spread].tolist()
        columns = [4 * int(c) for c in self.rng.integers(1, 17, size=spread)]
        total = sum(columns)
        rows = int(self.rng.uniform(1.02, 0.8 * spread) * DEVICE_BYTES / (4 * total))
        if 4 * rows * total <= DEVICE_BYTES:
            return False
        return self.put(rows, list(zip(devices, columns, strict=True)))

    def put_whole(self) -> None:
        """A table of any size, where there is room for it."""
        columns = 4 * int(self.rng.choice((1, 2, 4, 8, 16, 32)))
        rows = int(10.0 ** self.rng.uniform(3.0, 7.3))
        fits = np.flatnonzero(self.free >= 4 * rows * columns)
        if len(fits):
            self.put(rows, [(int(self.rng.choice(fits)), columns)])

    def fill(self) -> None:
        """One table a device takes the rest, up to a row."""
        for device, left in enumerate(self.free.tolist()):
            columns = 4 * int(self.rng.choice((1, 2, 4, 8, 16, 32)))
            if left >= 4 * columns:
                self.put(left // (4 * columns), [(device, columns)])


def tight_task(index: int) -> TightTask:
    """Task `index` of `NUM_TASKS`."""
    rng = np.random.default_rng(np.random.SeedSequence((SEED, index)))
    packing = _Packing(rng)
    while not packing.put_large():
        pass
    for _ in range(int(rng.integers(0, packing.num_devices + 1))):
        packing.put_large()
    for _ in range(int(rng.integers(1, 12)) * packing.num_devices):
        packing.put_whole()
    packing.fill()
    return _cut(packing)


def _cut(packing: _Packing) -> TightTask:
    pool = read_pool()
    order = packing.rng.permutation(len(packing.tables))
    tables, shards = [], []
    for place, at in enumerate(order.tolist()):
        rows, pieces = packing.tables[at]
        like = int(packing.rng.integers(len(pool)))
        table = EmbeddingTable(
            name=f"t{place}",
            num_embeddings=rows,
            embedding_dim=sum(columns for _, columns in pieces),
            pooling_factor=float(pool.pooling_factor[like]),
        )
        offset = 0
        for device, columns in pieces:
            shards.append(Shard(table.name, device, 0, rows, offset, columns))
            offset += columns
        tables.append(table)
    cluster = Cluster(packing.num_devices, packing.num_devices, HARDWARE, DEVICE_BYTES)
    problem = ShardingProblem(tuple(tables), cluster, BATCH_SIZE, Optimizer.SGD)
    return TightTask(problem, ShardingPlan(tuple(shards)))
