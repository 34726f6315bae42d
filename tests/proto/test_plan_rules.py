"""What makes a plan legal, and what it takes of the devices' memory."""

from __future__ import annotations

import dataclasses
import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import cluster, columns, fields, problem, rows, table, whole

from shardwright.domain import (
    IllegalPlanError,
    InsufficientMemoryError,
    Optimizer,
    Shard,
    ShardingPlan,
    ShardingType,
    WeightDtype,
    check_memory,
    check_plan,
    device_memory_bytes,
    merge_columns,
    sharding_type,
)

T = table(rows=10, columns=16)
CLUSTER = cluster()  # 4 devices on 2 hosts


def kind(*shards: Shard) -> ShardingType:
    return sharding_type(T, shards, CLUSTER)


def test_one_shard_is_table_wise() -> None:
    assert kind(whole(T, 3)) is ShardingType.TABLE_WISE


def test_columns_may_be_uneven_and_share_devices() -> None:
    assert kind(*columns(T, 4, 12)) is ShardingType.COLUMN_WISE
    assert kind(*columns(T, 4, 4, 4, 4, devices=(1, 1, 1, 1))) is ShardingType.COLUMN_WISE
    assert kind(*reversed(columns(T, 4, 8, 4))) is ShardingType.COLUMN_WISE


def test_merging_gives_each_device_one_shard_of_the_same_columns_in_number() -> None:
    merged = merge_columns(ShardingPlan(tuple(columns(T, 4, 8, 4, devices=(2, 0, 2)))))
    assert [(s.device, s.column_offset, s.num_columns) for s in merged.shards] == [
        (2, 0, 8),
        (0, 8, 8),
    ]
    assert kind(*merged.shards) is ShardingType.COLUMN_WISE


def test_merging_all_columns_leaves_a_whole_table() -> None:
    merged = merge_columns(ShardingPlan(tuple(columns(T, 4, 12, devices=(3, 3)))))
    assert merged.shards == (whole(T, 3),)


def test_merging_leaves_rows_alone() -> None:
    by_rows = ShardingPlan(tuple(rows(T, 4)))
    assert merge_columns(by_rows) == by_rows


def test_a_copy_on_every_device_is_data_parallel() -> None:
    copies = [whole(T, device) for device in range(4)]
    assert kind(*copies) is ShardingType.DATA_PARALLEL
    with pytest.raises(IllegalPlanError, match="without gap or overlap"):
        kind(*copies[:3])
    plan = ShardingPlan(tuple(copies))
    assert merge_columns(plan) == plan
    # weights and, for a copy, a dense gradient; a rowwise state of 4 bytes for each of 10 rows
    task = problem(T, optimizer=Optimizer.ROWWISE_ADAGRAD)
    assert device_memory_bytes(plan, task) == [10 * 16 * 4 * 2 + 10 * 4] * 4


@pytest.mark.parametrize(
    ("shards", "says"),
    [
        (columns(T, 4, 8), "must cover its 16 columns, got 12"),
        (columns(T, 8, 12), "must cover its 16 columns, got 20"),
        (columns(T, 8, 8)[1:], "expected 0, got 8"),
        ([columns(T, 4, 12)[0], columns(T, 8, 8)[1]], "expected 4, got 8"),
        ([columns(T, 12, 4)[0], columns(T, 8, 8)[1]], "expected 12, got 8"),
        (columns(T, 6, 10), "multiple of 4, got 6"),
        (columns(T, 4, 12, devices=(2, 2)), r"equally wide .* got \[4, 12\] on device 2"),
        ([whole(T, 0), whole(T, 1)], "without gap or overlap"),
        ([], "has no shard"),
        ([whole(T, 4)], r"below num_devices \(4\), got 4"),
    ],
)
def test_columns_must_cover_the_table_exactly(shards: list[Shard], says: str) -> None:
    with pytest.raises(IllegalPlanError, match=says):
        kind(*shards)


def test_rows_are_cut_in_ceilings_over_all_devices() -> None:
    assert kind(*rows(T, 3, 3, 3, 1)) is ShardingType.ROW_WISE
    assert kind(*reversed(rows(T, 3, 3, 3, 1))) is ShardingType.ROW_WISE


def test_rows_may_stay_on_one_host() -> None:
    assert kind(*rows(T, 5, 5)) is ShardingType.TABLE_ROW_WISE
    assert kind(*rows(T, 5, 5, first_device=2)) is ShardingType.TABLE_ROW_WISE


def test_with_one_host_all_rows_are_row_wise() -> None:
    one_host = cluster(num_devices=2, devices_per_host=2)
    assert sharding_type(T, tuple(rows(T, 5, 5)), one_host) is ShardingType.ROW_WISE


def test_a_table_with_fewer_rows_than_devices_leaves_some_empty() -> None:
    tiny = table(rows=2)
    shards = rows(tiny, 1, 1, 0, 0)
    assert sharding_type(tiny, tuple(shards), CLUSTER) is ShardingType.ROW_WISE
    somewhere = [*shards[:3], Shard("t", 3, 0, 0, 0, 16)]
    assert sharding_type(tiny, tuple(somewhere), CLUSTER) is ShardingType.ROW_WISE


@pytest.mark.parametrize(
    ("shards", "says"),
    [
        (rows(T, 3, 3, 2, 2), r"row shard 2 of 4 .* must hold rows 6 to 9"),
        (rows(T, 4, 6), "must hold rows 0 to 5"),
        (rows(T, 5, 5, first_device=1), "one host, once each; got devices"),
        (rows(T, 4, 4, 2), "all devices, or on all devices of one host"),
        ([*rows(T, 3, 3, 3), Shard("t", 3, 0, 1, 0, 16)], "must hold rows 9 to 10"),
        ([*rows(T, 3, 3, 3), Shard("t", 2, 9, 1, 0, 16)], "once each"),
    ],
)
def test_any_other_row_split_is_refused(shards: list[Shard], says: str) -> None:
    with pytest.raises(IllegalPlanError, match=says):
        kind(*shards)


def test_rows_and_columns_at_once_are_refused() -> None:
    quarters = [Shard("t", d, 5 * (d // 2), 5, 8 * (d % 2), 8) for d in range(4)]
    with pytest.raises(IllegalPlanError, match="rows and columns at once"):
        kind(*quarters)


def test_check_plan_names_every_table_that_is_wrong() -> None:
    tables = [table("good"), table("missing"), table("short"), table("far")]
    plan = ShardingPlan(
        (
            whole(tables[0]),
            *columns(tables[2], 4, 8),
            whole(tables[3], 7),
            whole(table("stranger")),
        )
    )
    with pytest.raises(IllegalPlanError) as caught:
        check_plan(plan, problem(*tables))
    text = str(caught.value)
    for name in ("'stranger'", "'missing'", "'short'", "got 7"):
        assert name in text
    assert "'good'" not in text
    assert all(field.startswith("plan.shards") for field in fields(caught.value))


def test_check_plan_returns_how_each_table_is_cut() -> None:
    tables = [table("a"), table("b"), table("c", rows=10)]
    plan = ShardingPlan((whole(tables[0]), *columns(tables[1], 8, 8), *rows(tables[2], 3, 3, 3, 1)))
    assert check_plan(plan, problem(*tables)) == {
        "a": ShardingType.TABLE_WISE,
        "b": ShardingType.COLUMN_WISE,
        "c": ShardingType.ROW_WISE,
    }


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "whole_bytes", "half_bytes"),
    [
        (Optimizer.SGD, 10 * 16 * 4, 10 * 8 * 4),
        # 4 bytes a row of every column shard: two halves hold the state twice
        (Optimizer.ROWWISE_ADAGRAD, 10 * (16 * 4 + 4), 10 * (8 * 4 + 4)),
        (Optimizer.ADAGRAD, 10 * 16 * (4 + 4), 10 * 8 * (4 + 4)),
        (Optimizer.ADAM, 10 * 16 * (4 + 8), 10 * 8 * (4 + 8)),
    ],
)
def test_memory_counts_weights_and_optimizer_state(
    optimizer: Optimizer, whole_bytes: int, half_bytes: int
) -> None:
    given_problem = problem(T, optimizer=optimizer)
    assert given_problem.total_bytes == whole_bytes
    assert device_memory_bytes(ShardingPlan((whole(T, 2),)), given_problem) == [
        *(0, 0),
        whole_bytes,
        0,
    ]
    halves = ShardingPlan(tuple(columns(T, 8, 8, devices=(1, 3))))
    assert device_memory_bytes(halves, given_problem) == [0, half_bytes, 0, half_bytes]


@pytest.mark.parametrize("dtype", [WeightDtype.FP16, WeightDtype.BF16])
def test_half_precision_halves_the_weights_but_not_the_state(dtype: WeightDtype) -> None:
    half = table(rows=10, columns=16, weight_dtype=dtype)
    assert problem(half).total_bytes == 10 * 16 * 2
    assert problem(half, optimizer=Optimizer.ADAM).total_bytes == 10 * 16 * (2 + 8)


def test_a_plan_may_fill_a_device_to_the_last_byte() -> None:
    exact = 10 * 16 * 4
    full = cluster(device_memory_bytes=exact + 7, reserved_memory_bytes=7)
    check_memory(ShardingPlan((whole(T),)), problem(T, cluster=full))
    short = cluster(device_memory_bytes=exact + 7, reserved_memory_bytes=8)
    with pytest.raises(InsufficientMemoryError, match="1 bytes are missing") as caught:
        check_memory(ShardingPlan((whole(T),)), problem(T, cluster=short))
    assert caught.value.missing_bytes == 1


def test_a_device_with_less_memory_counts_as_such() -> None:
    less = cluster(device_memory_overrides=((1, 100),))
    check_plan(ShardingPlan((whole(T, 0),)), problem(T, cluster=less))
    with pytest.raises(InsufficientMemoryError, match="device 1 needs 640 bytes .* has 100"):
        check_plan(ShardingPlan((whole(T, 1),)), problem(T, cluster=less))


# --- fingerprint ----------------------------------------------------------------------------------


def many_shards() -> list[Shard]:
    tables = [table(f"table {i}", rows=50 + i) for i in range(6)]
    shards = [shard for t in tables[:3] for shard in columns(t, 4, 8, 4)]
    shards += [whole(t, i) for i, t in enumerate(tables[3:5])]
    return shards + rows(tables[5], 14, 14, 14, 13)


@given(st.integers(0, 2**32))
def test_fingerprints_do_not_depend_on_the_order_of_shards(seed: int) -> None:
    shuffled = many_shards()
    random.Random(seed).shuffle(shuffled)
    assert (
        ShardingPlan(tuple(shuffled)).fingerprint == ShardingPlan(tuple(many_shards())).fingerprint
    )


@given(st.integers(0, 2**32))
def test_shards_of_a_table_stand_in_canonical_order(seed: int) -> None:
    shuffled = many_shards()
    random.Random(seed).shuffle(shuffled)
    for shards in ShardingPlan(tuple(shuffled)).by_table.values():
        places = [(s.column_offset, s.row_offset, s.device) for s in shards]
        assert places == sorted(places)


@pytest.mark.parametrize(
    "change",
    [
        {"device": 3},
        {"row_offset": 1},
        {"num_rows": 9},
        {"column_offset": 4},
        {"num_columns": 12},
        {"table": "u"},
    ],
)
def test_fingerprints_depend_on_everything_in_a_shard(change: dict[str, object]) -> None:
    before = ShardingPlan((whole(T),))
    after = ShardingPlan((dataclasses.replace(whole(T), **change),))  # type: ignore[arg-type]
    assert before.fingerprint != after.fingerprint


def test_names_cannot_imitate_other_shards() -> None:
    one = ShardingPlan((Shard("a' 0 0 1 0 4\n'b", 0, 0, 1, 0, 4),))
    two = ShardingPlan((Shard("a", 0, 0, 1, 0, 4), Shard("b", 0, 0, 1, 0, 4)))
    assert one.fingerprint != two.fingerprint


def test_fingerprints_are_sha_256_of_the_sorted_shards() -> None:
    plan = ShardingPlan((*columns(table("caf\u00e9", rows=7), 12, 4), whole(table("b"), 3)))
    lines = ["'b' 3 0 100 0 16", r"'caf\xe9' 0 0 7 0 12", r"'caf\xe9' 1 0 7 12 4"]
    text = "".join(f"{line}\n" for line in lines)
    assert plan.fingerprint == hashlib.sha256(text.encode()).hexdigest()


def test_fingerprints_stay_the_same_between_releases() -> None:
    plan = ShardingPlan((*columns(table("caf\u00e9", rows=7), 12, 4), whole(table("b"), 3)))
    assert plan.fingerprint == "8afffbe0af04f475e24d9c183d10e802388f82298d7f1f497df730b1f8fd1e2f"
