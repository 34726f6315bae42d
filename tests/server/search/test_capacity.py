"""What memory can never hold, `shardwright_server.search.capacity`."""

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from tests.server.search.exhaustive import legal_plans
from tests.server.search.problems import problem, table
from tests.server.search.tiny_problems import sharding_options, tiny_problems

from shardwright.domain import (
    InsufficientMemoryError,
    Optimizer,
    SearchOptions,
    ShardingType,
    TableConstraints,
    contradictions,
)
from shardwright_server.search.advice import fits
from shardwright_server.search.capacity import check_capacity, no_room_error

COLUMNS = SearchOptions(sharding_types=(ShardingType.TABLE_WISE, ShardingType.COLUMN_WISE))
ANY = SearchOptions()


def refused(task, options=COLUMNS):
    with pytest.raises(InsufficientMemoryError) as caught:
        check_capacity(task, options)
    return caught.value


@settings(max_examples=150, deadline=None)
@given(task=tiny_problems(roomy=False), options=sharding_options)
def test_only_the_impossible_is_refused(task, options):
    if contradictions(task, options):
        return
    possible = any(True for _ in legal_plans(task, options))
    try:
        check_capacity(task, options)
    except InsufficientMemoryError as error:
        assert not possible
        assert error.missing_bytes > 0
    if fits(task, options):
        assert possible


def test_tables_that_fill_all_memory_pass():
    check_capacity(problem([table(rows=100, dim=64)], devices=4, memory_bytes=100 * 64), COLUMNS)


def test_too_little_memory_in_all_says_how_much_is_missing_and_how_many_devices_would_do():
    # 25600 bytes of weights and as many of state, on devices of 5000
    task = problem(
        [table(rows=100, dim=64)],
        devices=4,
        memory_bytes=6000,
        reserved_memory_bytes=1000,
        devices_per_host=1,
        optimizer=Optimizer.ADAGRAD,
    )
    error = refused(task)
    assert error.missing_bytes == 51200 - 20000
    # six columns of 800 bytes fit on a device, so four, and 16 devices are needed, not 11
    for part in ("51200 bytes", "20000", "31200 bytes are missing", "16 devices of 5000 bytes"):
        assert part in str(error)
    # row-wise, 11 devices would hold 10 rows of 512 bytes each, 12 hold 9
    assert "12 devices of 5000 bytes" in str(refused(task, ANY))


@pytest.mark.parametrize("options", [COLUMNS, ANY])
def test_so_many_devices_as_are_named_do_hold_the_tables(options):
    tables = [table(f"t{i}", rows=1000 + 37 * i, dim=4 * (1 + i % 9)) for i in range(30)]
    task = problem(tables, devices=4, memory_bytes=150_000, devices_per_host=2)
    named = int(re.search(r"(\d+) devices of 150000", str(refused(task, options))).group(1))
    assert named % 2 == 0
    assert named * 150_000 >= task.total_bytes
    assert fits(replace(task, cluster=replace(task.cluster, num_devices=named)), options)


def test_different_devices_count_with_their_own_memory():
    tables = [table(rows=100, dim=64)]
    task = problem(tables, devices=2, memory_bytes=1, device_memory_overrides=((1, 25600),))
    check_capacity(task, COLUMNS)
    refused(problem(tables, devices=2, memory_bytes=12800, device_memory_overrides=((1, 12799),)))


@pytest.mark.parametrize(
    ("dim", "least", "narrowest"), [(64, 4, 4), (64, 16, 16), (64, 32, 32), (64, 36, 64), (4, 4, 4)]
)
def test_a_table_whose_narrowest_piece_fits_nowhere_is_named(dim, least, narrowest):
    tall = table("tall", rows=1024, dim=dim, constraints=TableConstraints(least))
    check_capacity(problem([tall], devices=64, memory_bytes=4096 * narrowest), COLUMNS)
    error = refused(problem([tall], devices=64, memory_bytes=4096 * narrowest - 1))
    assert "table 'tall'" in str(error) and "fits in none of its allowed ways" in str(error)
    if narrowest < dim:
        assert f"column_wise its narrowest piece, {least} of {dim} columns" in str(error)
    assert ("with min_column_width 4" in str(error)) == (least > 4)
    assert "row_wise allowed for all tables" in str(error)


def test_where_neither_a_type_nor_devices_alone_help_both_are_named():
    tables = [table(f"t{i}", rows=1000, dim=8) for i in range(4)]
    task = problem(tables, devices=2, memory_bytes=20_000, devices_per_host=1)
    error = refused(task, SearchOptions(sharding_types=(ShardingType.TABLE_WISE,)))
    assert "with column_wise allowed for all tables and 8 devices of 20000 bytes" in str(error)
    cluster = replace(task.cluster, num_devices=8)
    assert fits(replace(task, cluster=cluster), COLUMNS)


def test_columns_that_cannot_be_shared_out_are_counted():
    # a device holds 7 columns, so 4; 2 devices hold 8 of 12
    tall = table("tall", rows=1000, dim=12)
    error = refused(problem([tall], devices=2, memory_bytes=28_000))
    assert "column_wise its devices hold 8 of 12 columns, 16000 too many" in str(error)
    assert error.missing_bytes == 16000


def test_a_table_too_large_in_columns_may_fit_in_rows():
    tall = table("tall", rows=1000, dim=4)
    task = problem([tall], devices=4, memory_bytes=4000)
    error = refused(task)
    assert error.missing_bytes == 12000
    assert "It would fit with row_wise allowed for all tables" in str(error)
    check_capacity(task, ANY)


def test_pins_that_crowd_a_device_are_named():
    pinned = TableConstraints(devices=(1,))
    tables = [table(f"t{i}", rows=1000, constraints=pinned) for i in range(3)]
    error = refused(problem(tables, devices=4, memory_bytes=2 * 256_000), ANY)
    assert "pinned to the same devices need 768000 bytes" in str(error)
    assert "devices that they may use (1) have 512000" in str(error)
    assert error.missing_bytes == 256_000
    assert "It would fit with no table pinned to devices" in str(error)


def test_copies_need_room_on_every_device():
    copied = TableConstraints(sharding_types=(ShardingType.DATA_PARALLEL,))
    tables = [table("copied", rows=1000, constraints=copied), table("other", rows=1000)]
    # a copy is 256000 bytes and as much of dense gradient
    task = problem(tables, devices=2, memory_bytes=500_000)
    error = refused(task, ANY)
    assert "no table data_parallel" in str(error)
    error = refused(problem(tables[:1], devices=2, memory_bytes=511_999), ANY)
    assert error.missing_bytes in (1, 2)
    check_capacity(problem(tables[:1], devices=2, memory_bytes=512_000), ANY)


def test_on_a_single_device_a_data_parallel_table_is_no_copy():
    task = problem([table(rows=100, dim=64)], devices=1, memory_bytes=4 * 100 * 64)
    check_capacity(task, SearchOptions(sharding_types=(ShardingType.DATA_PARALLEL,)))


def test_a_group_must_fit_on_one_device():
    together = TableConstraints(colocation_group="pair")
    tables = [table(f"t{i}", rows=1000, constraints=together) for i in range(2)]
    error = refused(problem(tables, devices=4, memory_bytes=500_000), ANY)
    assert "2 tables of colocation group 'pair' need 512000 bytes on one device" in str(error)
    assert error.missing_bytes == 12_000
    assert "no colocation_group" in str(error)


def test_a_search_that_found_no_room_says_for_what():
    task = problem([table("a"), table("b", rows=10)], devices=2, memory_bytes=200_000)
    error = no_room_error(task, COLUMNS, (0,), 32)
    assert "32 of 64 columns of table 'a' need 128000 bytes" in str(error)
    assert "no device had so much left of 200000 bytes" in str(error)
    assert error.missing_bytes == 0


def test_the_largest_tables_there_may_be_do_not_overflow():
    task = problem([table(f"t{i}", rows=10**12, dim=65536) for i in range(20)])
    assert refused(task).missing_bytes == 20 * 10**12 * 65536 * 4 - 4 * 4 * 2**30
