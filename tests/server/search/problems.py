"""Problems for tests, drawn from plain random generators."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from shardwright.domain import (
    Cluster,
    EmbeddingTable,
    Optimizer,
    ShardingProblem,
    TableConstraints,
    WeightDtype,
)

GIB = 2**30


def table(name="t", rows=1000, dim=64, pooling=10.0, **fields) -> EmbeddingTable:
    return EmbeddingTable(name, rows, dim, pooling, **fields)


def problem(
    tables, devices=4, memory_bytes=4 * GIB, batch=65536, optimizer=Optimizer.SGD, **cluster
) -> ShardingProblem:
    cluster.setdefault("devices_per_host", devices)
    return ShardingProblem(
        tuple(tables),
        Cluster(devices, hardware="fake-gpu", device_memory_bytes=memory_bytes, **cluster),
        batch,
        optimizer,
    )


def random_task(seed: int, tables=(10, 60), devices=4, memory_gib=4.0) -> ShardingProblem:
    """A task by NeuroShard's rule: tables of dims 4 to 128 that leave 1/16 of memory free."""
    draw = random.Random(seed)
    count = draw.randrange(*tables)
    while True:
        drawn = [_random_table(draw, f"t{i}") for i in range(count)]
        task = problem(
            drawn,
            devices,
            int(memory_gib * GIB),
            optimizer=draw.choice(list(Optimizer)[:2]),
        )
        if task.total_bytes <= devices * memory_gib * GIB * 15 / 16:
            return task


def _random_table(draw: random.Random, name: str) -> EmbeddingTable:
    return EmbeddingTable(
        name,
        int(10 ** draw.uniform(2, 6.8)),
        draw.choice([4, 8, 16, 32, 64, 128]),
        round(10 ** draw.uniform(0, 2.2), 2),
        reuse_histogram=tuple(draw.random() for _ in range(17)) if draw.random() < 0.7 else None,
    )


@st.composite
def problems(draw: st.DrawFn, max_tables=9, max_devices=6) -> ShardingProblem:
    """Small problems of every shape, memory from far too little to plenty."""
    tables = []
    for i in range(draw(st.integers(1, max_tables))):
        tables.append(
            EmbeddingTable(
                f"t{i}",
                draw(st.integers(1, 10**6)),
                4 * draw(st.integers(1, 40)),
                draw(st.floats(0.01, 200)),
                weight_dtype=draw(st.sampled_from(WeightDtype)),
                constraints=TableConstraints(4 * draw(st.integers(1, 12))),
            )
        )
    devices = draw(st.integers(1, max_devices))
    optimizer = draw(st.sampled_from(Optimizer))
    roomy = problem(tables, devices, optimizer=optimizer)
    fair_share = roomy.total_bytes // devices + 1
    memory = st.integers(fair_share // 2 + 1, 3 * fair_share)
    overrides = draw(st.dictionaries(st.integers(0, devices - 1), memory))
    return problem(
        tables,
        devices,
        draw(memory),
        batch=draw(st.integers(1, 10**5)),
        optimizer=optimizer,
        devices_per_host=draw(st.sampled_from([n for n in (1, devices) if devices % n == 0])),
        device_memory_overrides=tuple(overrides.items()),
    )
