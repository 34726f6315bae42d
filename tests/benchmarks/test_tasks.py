"""The rules that tasks keep, `tests.benchmarks.tasks` and `tests.benchmarks.tight`."""

import json

import pytest
from tests.benchmarks.tasks import (
    DIMS,
    FILLED_SHARE,
    GIB,
    ROWS,
    WORKLOADS,
    draw_task,
    sized_task,
    workload,
    workload_names,
)
from tests.benchmarks.tight import DEVICE_BYTES, NUM_TASKS, tight_task
from tests.benchmarks.truth import true_cost

from shardwright.domain import check_plan
from shardwright_benchmark_worker.pool import read_pool


@pytest.mark.parametrize("name", ["10-60x4", "20-120x8", "400x32"])
def test_tasks_keep_neuroshards_rule(name):
    row, pool = ROWS[name], read_pool()
    known = set(zip(pool.num_embeddings.tolist(), pool.pooling_factor.tolist(), strict=True))
    for index in range(10):
        task = draw_task(row, index)
        assert row.min_tables <= len(task.tables) < row.end_tables
        assert {t.embedding_dim for t in task.tables} <= set(DIMS)
        assert {(t.num_embeddings, t.pooling_factor) for t in task.tables} <= known
        memory = row.num_devices * row.device_gib * GIB
        assert sum(t.weight_bytes for t in task.tables) <= FILLED_SHARE * memory
        assert task.total_bytes == sum(t.weight_bytes for t in task.tables)


def test_a_task_is_the_same_every_time_and_no_other_is_like_it():
    row = ROWS["10-60x4"]
    assert draw_task(row, 3) == draw_task(row, 3)
    assert len({draw_task(row, index).tables for index in range(20)}) == 20
    assert draw_task(ROWS["20-120x8"], 3).tables != draw_task(row, 3).tables


def test_numbers_of_tables_vary_though_many_tables_fit_seldom():
    counts = [len(draw_task(ROWS["10-60x4"], index).tables) for index in range(100)]
    assert min(counts) <= 12
    assert max(counts) >= 30


def test_a_sized_task_fills_its_devices_to_seventy_percent():
    task = sized_task(30, 16, seed=1)
    assert len(task.tables) == 30
    assert task.cluster.num_hosts == 2
    memory = 16 * task.cluster.device_memory_bytes
    assert task.total_bytes / memory == pytest.approx(0.7, rel=1e-6)


@pytest.mark.parametrize("index", range(0, NUM_TASKS, 9))
def test_a_tight_task_was_cut_from_a_packing_that_fits(index):
    task = tight_task(index)
    check_plan(task.packing, task.problem)
    memory = task.problem.cluster.num_devices * DEVICE_BYTES
    assert 0.01 <= 1 - task.problem.total_bytes / memory <= 0.051
    assert any(t.weight_bytes > DEVICE_BYTES for t in task.problem.tables)
    assert true_cost(task.packing, task.problem).cost_ms > 0
    assert tight_task(index) == task


def test_tight_tasks_come_in_mixed_shapes():
    tasks = [tight_task(index).problem for index in range(40)]
    assert len({task.cluster.num_devices for task in tasks}) >= 5
    assert len({t.embedding_dim for task in tasks for t in task.tables}) >= 20


@pytest.mark.parametrize("name", sorted(workload_names()))
def test_a_published_workload_has_the_size_that_was_published(name):
    facts = json.loads((WORKLOADS / f"{name}.json").read_text())
    task = workload(name)
    assert len(task.tables) == facts["num_tables"]
    assert sum(t.weight_bytes for t in task.tables) == facts["total_param_bytes"]
    assert facts["source"] and f"{name.split('_')[0]}" in (WORKLOADS / "README.md").read_text()
