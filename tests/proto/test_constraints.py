"""Constraints against the problem, and plans against constraints."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from problems import cluster, columns, fields, problem, rows, table, whole

from shardwright.domain import (
    BY_ROWS,
    EmbeddingTable,
    IllegalPlanError,
    InvalidValueError,
    PoolingMode,
    SearchOptions,
    Shard,
    ShardingPlan,
    ShardingType,
    TableConstraints,
    allowed_devices,
    allowed_sharding_types,
    check_constraints,
    contradictions,
)

OPTIONS = SearchOptions()
TABLE_WISE, COLUMN_WISE = ShardingType.TABLE_WISE, ShardingType.COLUMN_WISE
ROW_WISE, TABLE_ROW_WISE = ShardingType.ROW_WISE, ShardingType.TABLE_ROW_WISE
FOUR_DEVICES = cluster(num_devices=4, devices_per_host=2)


def constrained(name: str = "t", columns: int = 16, **limits: Any) -> EmbeddingTable:
    return table(name, rows=10, columns=columns, constraints=TableConstraints(**limits))


def named(tables: list[EmbeddingTable]) -> list[str]:
    """Fields of the contradictions on 4 devices of 2 hosts."""
    return [v.field for v in contradictions(problem(*tables), OPTIONS)]


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ({"min_column_width": 6}, "min_column_width"),
        ({"devices": (-1,)}, "devices"),
        ({"devices": (1, 2), "excluded_devices": (1, 2, 3)}, "excluded_devices"),
        ({"colocation_group": "g" * 513}, "colocation_group"),
        ({"colocation_group": "g", "sharding_types": (ROW_WISE,)}, "sharding_types"),
    ],
)
def test_a_table_cannot_contradict_itself(limits: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        TableConstraints(**limits)
    assert fields(caught.value) == [field]


def test_devices_that_do_not_exist_are_named() -> None:
    with pytest.raises(InvalidValueError) as caught:
        problem(constrained("a"), constrained("b", devices=(4,), excluded_devices=(9,)))
    assert fields(caught.value) == [
        "tables[1].constraints.devices",
        "tables[1].constraints.excluded_devices",
    ]


def test_what_is_allowed() -> None:
    assert allowed_sharding_types(constrained(), OPTIONS, FOUR_DEVICES) == OPTIONS.sharding_types
    only_rows = constrained(sharding_types=(ROW_WISE,))
    assert allowed_sharding_types(only_rows, OPTIONS, FOUR_DEVICES) == (ROW_WISE,)
    grouped = constrained(colocation_group="g")
    assert allowed_sharding_types(grouped, OPTIONS, FOUR_DEVICES) == (TABLE_WISE,)
    assert allowed_devices(constrained(devices=(1, 3), excluded_devices=(3,)), 4) == (1,)
    assert allowed_devices(constrained(), 4) == (0, 1, 2, 3)


def test_a_mean_pooled_table_is_never_cut_in_rows() -> None:
    mean = replace(constrained("m"), pooling_mode=PoolingMode.MEAN)
    allowed = allowed_sharding_types(mean, OPTIONS, FOUR_DEVICES)
    assert set(OPTIONS.sharding_types) - set(allowed) == set(BY_ROWS)
    by_rows = ShardingPlan(tuple(rows(mean, 3, 3, 3, 1)))
    with pytest.raises(IllegalPlanError, match="allow .*table_wise.*, got row_wise"):
        check_constraints(by_rows, problem(mean), OPTIONS)


def test_a_mean_pooled_table_that_may_only_be_cut_in_rows_is_a_contradiction() -> None:
    limits = TableConstraints(sharding_types=BY_ROWS)
    mean = replace(constrained("m"), pooling_mode=PoolingMode.MEAN, constraints=limits)
    (violation,) = contradictions(problem(constrained("a"), mean), OPTIONS)
    assert violation.field == "tables[1].constraints.sharding_types"
    assert "'m' to be cut in rows only, and its pooling_mode is mean" in violation.description


@pytest.mark.parametrize(
    ("num_rows", "by_row", "in_host"),
    # blocks of ceil(9 / 4) = 3 rows leave none for the last of four devices
    [(9, False, True), (3, False, True), (2, False, True), (1, False, False), (10, True, True)],
)
def test_no_cut_in_rows_leaves_a_device_without_any(
    num_rows: int, by_row: bool, in_host: bool
) -> None:
    few = table("few", rows=num_rows)
    allowed = allowed_sharding_types(few, OPTIONS, FOUR_DEVICES)
    assert (ROW_WISE in allowed, TABLE_ROW_WISE in allowed) == (by_row, in_host)


def test_a_table_of_too_few_rows_that_may_only_be_cut_in_rows_is_a_contradiction() -> None:
    few = table("few", rows=9, constraints=TableConstraints(sharding_types=(ROW_WISE,)))
    (violation,) = contradictions(problem(few), OPTIONS)
    assert violation.field == "tables[0].constraints.sharding_types"
    assert "its 9 rows leave a device without any" in violation.description
    assert "allow table_wise or column_wise" in violation.description


@pytest.mark.parametrize(
    "limits",
    [
        {"sharding_types": (COLUMN_WISE,), "min_column_width": 12},
        {"sharding_types": (ROW_WISE,), "excluded_devices": (2,)},
        {"sharding_types": (TABLE_ROW_WISE,), "devices": (0, 2)},
        {"sharding_types": (ShardingType.DATA_PARALLEL,), "devices": (0, 1, 2)},
    ],
)
def test_types_that_no_cut_can_keep_are_contradictions(limits: dict[str, Any]) -> None:
    assert named([constrained("a"), constrained("b", **limits)]) == [
        "tables[1].constraints.sharding_types"
    ]


def test_no_device_left_is_a_contradiction() -> None:
    assert named([constrained(excluded_devices=(0, 1, 2, 3))]) == [
        "tables[0].constraints.excluded_devices"
    ]


def test_a_group_needs_a_device_in_common() -> None:
    apart = [
        constrained("a", colocation_group="g", devices=(0, 1)),
        constrained("b", colocation_group="g", excluded_devices=(0, 1)),
    ]
    assert named(apart) == ["tables[0].constraints.colocation_group"]
    together = [apart[0], constrained("b", colocation_group="g", excluded_devices=(0,))]
    assert named(together) == []


@pytest.mark.parametrize(
    "limits",
    [
        {"sharding_types": (COLUMN_WISE,), "min_column_width": 8},
        {"sharding_types": (TABLE_ROW_WISE,), "devices": (2, 3)},
        {"sharding_types": (ROW_WISE, TABLE_WISE), "devices": (1,)},
    ],
)
def test_what_some_cut_can_keep_is_none(limits: dict[str, Any]) -> None:
    assert named([constrained(**limits)]) == []


T = table(rows=10, columns=16)


@pytest.mark.parametrize(
    ("limits", "shards", "field"),
    [
        ({"sharding_types": (TABLE_WISE,)}, columns(T, 8, 8), "sharding_types"),
        ({"devices": (1, 2)}, [whole(T, 0)], "devices"),
        ({"excluded_devices": (3,)}, rows(T, 3, 3, 3, 1), "devices"),
        ({"min_column_width": 8}, columns(T, 4, 12), "min_column_width"),
    ],
)
def test_plans_that_break_a_constraint_are_told(
    limits: dict[str, Any], shards: list[Shard], field: str
) -> None:
    task = problem(constrained(T.name, **limits))
    with pytest.raises(IllegalPlanError) as caught:
        check_constraints(ShardingPlan(tuple(shards)), task, OPTIONS)
    assert fields(caught.value) == [f"tables[0].constraints.{field}"]
    check_constraints(ShardingPlan(tuple(shards)), problem(T), OPTIONS)


def test_a_group_that_is_apart_is_told() -> None:
    pair = [constrained(name, colocation_group="g") for name in "ab"]
    task = problem(*pair)
    check_constraints(ShardingPlan(tuple(whole(t, 2) for t in pair)), task, OPTIONS)
    apart = ShardingPlan((whole(pair[0], 1), whole(pair[1], 2)))
    with pytest.raises(IllegalPlanError, match="must lie on one device, got"):
        check_constraints(apart, task, OPTIONS)
