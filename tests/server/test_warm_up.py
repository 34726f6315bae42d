"""What a server compiles before its first request."""

import pytest
from tests.server.search.fake_cost_model import FakeCostModel
from tests.server.search.problems import random_task

from shardwright.domain import PlanRequest, SearchOptions, ShardingType
from shardwright_costmodel.registry import DEFAULT_BUNDLES_URL, Registry
from shardwright_costmodel.runtime import OnnxCostModel
from shardwright_server import planning
from shardwright_server.search import (
    annealing,
    baselines,
    local_search,
    objective,
    placing,
    proposals,
    repack,
    sums,
    swarm,
    transfer_curves,
    ways,
)
from shardwright_server.warm_up import warm_up

ENTRIES = (
    annealing._walk,
    baselines.place_at_random,
    baselines.place_by_score,
    local_search._cheapest,
    objective.costs_ms,
    placing._place,
    proposals.propose,
    repack._repack,
    sums.device_sums,
    sums.sum_up,
    swarm._advance,
    transfer_curves._interpolate,
    ways._cut_rods,
    ways.least_from,
)
"""Loops that Python calls; they bring the others."""


def compiled():
    return [list(loop.signatures) for loop in ENTRIES]


def test_no_request_waits_for_a_compiler(monkeypatch):
    bundle = Registry(DEFAULT_BUNDLES_URL).load("nvidia-h100-sxm5-80gb")
    warm_up(OnnxCostModel.from_bundle(bundle))
    before = compiled()
    assert all(before), "a loop that warming up does not reach"
    options = SearchOptions(sharding_types=tuple(ShardingType))
    for seed in range(3):
        task = random_task(seed, tables=(5, 30), devices=4, memory_gib=64)
        planning.plan(PlanRequest(task, options), FakeCostModel(), deadline_s=None)
    monkeypatch.setattr(local_search, "_SEVERAL", 100)  # climbs: all problems count as large
    planning.plan(PlanRequest(task, options), FakeCostModel(), deadline_s=None)
    assert compiled() == before


@pytest.mark.parametrize("devices", [1, 3])
def test_other_numbers_of_devices_need_no_other_loops(devices):
    warm_up(FakeCostModel())
    before = compiled()
    task = random_task(1, tables=(5, 9), devices=devices, memory_gib=256)
    planning.plan(PlanRequest(task), FakeCostModel(), deadline_s=None)
    assert compiled() == before
