"""Warming up: the search's compiled loops are made ready before the first request comes.

numba compiles them when they are first called, which takes up to a minute, and keeps the result
on disk, beside the package or where `NUMBA_CACHE_DIR` says, so that the next start takes one.
"""

from __future__ import annotations

import time

import numpy as np
import structlog

from shardwright.domain import (
    Cluster,
    EmbeddingTable,
    Optimizer,
    PlanRequest,
    SearchOptions,
    ShardingProblem,
)
from shardwright_server import planning
from shardwright_server.search.annealing import Annealer
from shardwright_server.search.cost import PlanEvaluator
from shardwright_server.search.cost_model import CostModel
from shardwright_server.search.lane_book import LaneBook
from shardwright_server.search.lanes import Slots
from shardwright_server.search.lots import LotBook

_LOG = structlog.get_logger(__name__)
_TOLD_AFTER_S = 3.0
_TABLES, _DEVICES, _DEVICE_BYTES, _BATCH_SIZE = 6, 2, 2**30, 1024
_MOVES = 100


def warm_up(cost_model: CostModel) -> None:
    """Plans a small problem, any one: the loops are the same for all; and anneals a plan of it."""
    begin_s = time.monotonic()
    tables = tuple(
        EmbeddingTable(f"t{i}", num_embeddings=1000, embedding_dim=16, pooling_factor=4.0 + i / 10)
        for i in range(_TABLES)
    )
    cluster = Cluster(_DEVICES, _DEVICES, cost_model.id.hardware, _DEVICE_BYTES)
    problem = ShardingProblem(tables, cluster, _BATCH_SIZE, Optimizer.SGD)
    planning.plan(PlanRequest(problem), cost_model, deadline_s=None)
    _anneal(problem, cost_model)
    seconds = time.monotonic() - begin_s
    if seconds > _TOLD_AFTER_S:
        _LOG.info("search compiled, for later starts too", seconds=round(seconds, 1))


def _anneal(problem: ShardingProblem, cost_model: CostModel) -> None:
    """The search anneals large problems only, which would take longer."""
    book = LotBook(PlanEvaluator(problem, cost_model), SearchOptions())
    lane_book, slots = LaneBook(book), Slots.empty(1, _TABLES, _TABLES)
    slots.lots[0], slots.kinds[0] = np.arange(_TABLES), book.wholes
    slots.devices[0] = np.arange(_TABLES) % _DEVICES
    Annealer(lane_book, seed=0).anneal(lane_book.lanes(slots), _MOVES, lambda: None)
