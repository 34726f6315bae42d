"""Tasks small enough to be replayed on the cores of this machine, and eight plans for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from tests.benchmarks.greedy import SCORES, place_greedily, place_randomly

from shardwright.domain import (
    Algorithm,
    Cluster,
    EmbeddingTable,
    EvaluateRequest,
    Optimizer,
    PlanRequest,
    PlanResult,
    SearchOptions,
    SearchSummary,
    ShardingPlan,
    ShardingProblem,
    StoppedBy,
)
from shardwright_benchmark_worker.pool import POOL_BATCH_SIZE, read_pool
from shardwright_benchmark_worker.sampling.reuse import rescale
from shardwright_costmodel.runtime import OnnxCostModel
from shardwright_server import planning

SEED = 20261205
DIMS = (16, 32, 48, 64, 96, 128)
BATCH_SIZE = 4096
MAX_TABLE_BYTES = 256 * 2**20
MIN_TABLE_LOOKUPS, MAX_TABLE_LOOKUPS = 2_000, 120_000
MAX_LOOKUPS = 450_000
MEMORY_SLACK = 2.2
"""Memory of both devices over what the tables need: enough that all rules of thumb find a plan."""

OURS, BASELINES = "local_search", ("neuroshard", *SCORES)


@dataclass(frozen=True)
class ReplayTask:
    """A problem with a name.

    Attributes:
        name: A folder name.
        num_tables: Tables.
        optimizer: Of the job.
    """

    name: str
    num_tables: int
    optimizer: Optimizer


TASKS = tuple(
    ReplayTask(f"task{i}-{count}-tables-{optimizer.value}", count, optimizer)
    for i, (count, optimizer) in enumerate(
        (
            (10, Optimizer.SGD),
            (15, Optimizer.ROWWISE_ADAGRAD),
            (20, Optimizer.SGD),
            (25, Optimizer.ROWWISE_ADAGRAD),
            (30, Optimizer.SGD),
        )
    )
)


def draw_problem(task: ReplayTask, hardware: str, num_devices: int) -> ShardingProblem:
    """Tables of the pool, with replacement, that have work for a core but not too much.

    Their pooling factors span three decades, so that plans by rules of thumb differ. Those of tasks
    with more lookups than `MAX_LOOKUPS` are scaled down together.
    """
    pool = read_pool()
    rng = np.random.default_rng(np.random.SeedSequence((SEED, TASKS.index(task))))
    picks, dims = [], []
    while len(picks) < task.num_tables:
        pick, dim = int(rng.integers(len(pool))), int(rng.choice(DIMS))
        lookups = pool.pooling_factor[pick] * BATCH_SIZE
        fits = pool.num_embeddings[pick] * dim * 4 <= MAX_TABLE_BYTES
        if fits and MIN_TABLE_LOOKUPS <= lookups <= MAX_TABLE_LOOKUPS:
            picks.append(pick)
            dims.append(dim)
    scale = min(1.0, MAX_LOOKUPS / (pool.pooling_factor[picks].sum() * BATCH_SIZE))
    popularity = np.full(len(picks), scale * BATCH_SIZE / POOL_BATCH_SIZE)
    reuse = rescale(pool.reuse_histogram[picks], popularity)
    tables = tuple(
        EmbeddingTable(
            name=f"t{i}",
            num_embeddings=int(pool.num_embeddings[pick]),
            embedding_dim=dim,
            pooling_factor=float(pool.pooling_factor[pick] * scale),
            reuse_histogram=tuple(reuse[i].tolist()),
        )
        for i, (pick, dim) in enumerate(zip(picks, dims, strict=True))
    )
    memory_bytes = int(MEMORY_SLACK * sum(table.weight_bytes for table in tables) / num_devices)
    cluster = Cluster(num_devices, num_devices, hardware, memory_bytes)
    return ShardingProblem(tables, cluster, BATCH_SIZE, task.optimizer)


def make_plans(problem: ShardingProblem, model: OnnxCostModel) -> Mapping[str, PlanResult]:
    """Eight plans and what the model predicts of them: two searches, four rules, two by chance.

    Raises:
        ValueError: When one of them finds no plan.
    """
    searched = {
        OURS: _search(problem, model, Algorithm.LOCAL_SEARCH),
        "neuroshard": _search(problem, model, Algorithm.NEUROSHARD),
    }
    placed = {score: partial(place_greedily, problem, score) for score in SCORES}
    placed |= {f"random{seed}": partial(place_randomly, problem, seed) for seed in (1, 2)}
    scored = {}
    for name, place in placed.items():
        plan = place()
        if plan is None:
            raise ValueError(f"{name} finds no plan: give the devices more memory")
        scored[name] = _score(problem, plan, model)
    return searched | scored


def _search(problem: ShardingProblem, model: OnnxCostModel, algorithm: Algorithm) -> PlanResult:
    request = PlanRequest(problem, SearchOptions(algorithm=algorithm))
    return planning.plan(request, model, deadline_s=None)


def _score(problem: ShardingProblem, plan: ShardingPlan, model: OnnxCostModel) -> PlanResult:
    """A plan that no search of ours made, with its predicted costs, as a response holds them."""
    scored = planning.evaluate(EvaluateRequest(problem, plan), model)
    return PlanResult(
        plan=plan,
        cost_ms=scored.cost_ms,
        lower_bound_ms=None,
        devices=scored.devices,
        baselines=(),
        cost_model=scored.cost_model,
        search=SearchSummary(0.0, 1, 0, StoppedBy.COMPLETED, Algorithm.NEUROSHARD),
    )
