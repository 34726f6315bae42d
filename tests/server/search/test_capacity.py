"""What memory can never hold, `shardwright_server.search.capacity`."""

import pytest
from tests.server.search.problems import problem, table

from shardwright.domain import InsufficientMemoryError, Optimizer, TableConstraints
from shardwright_server.search.capacity import check_capacity


def test_tables_that_fill_all_memory_pass():
    check_capacity(problem([table(rows=100, dim=64)], devices=4, memory_bytes=100 * 64))


def test_too_little_memory_in_all_says_how_much_is_missing_and_how_many_devices_would_do():
    # 25600 bytes of weights and as many of state, on devices of 5000
    task = problem(
        [table(rows=100, dim=64)],
        devices=4,
        memory_bytes=6000,
        reserved_memory_bytes=1000,
        optimizer=Optimizer.ADAGRAD,
    )
    with pytest.raises(InsufficientMemoryError) as caught:
        check_capacity(task)
    assert caught.value.missing_bytes == 51200 - 20000
    message = str(caught.value)
    for part in ("51200 bytes", "20000", "31200 bytes are missing", "11 devices of 5000"):
        assert part in message


def test_different_devices_count_with_their_own_memory():
    tables = [table(rows=100, dim=64)]
    check_capacity(
        problem(tables, devices=2, memory_bytes=1, device_memory_overrides=((1, 25600),))
    )
    with pytest.raises(InsufficientMemoryError):
        check_capacity(
            problem(tables, devices=2, memory_bytes=12800, device_memory_overrides=((1, 12799),))
        )


@pytest.mark.parametrize(
    ("dim", "least", "narrowest"), [(64, 4, 4), (64, 16, 16), (64, 32, 32), (64, 36, 64), (4, 4, 4)]
)
def test_a_table_whose_narrowest_piece_fits_nowhere_is_named(dim, least, narrowest):
    tall = table("tall", rows=1000, dim=dim, constraints=TableConstraints(least))
    check_capacity(problem([tall], devices=64, memory_bytes=4000 * narrowest))
    with pytest.raises(InsufficientMemoryError) as caught:
        check_capacity(problem([tall], devices=64, memory_bytes=4000 * narrowest - 1))
    assert "'tall'" in str(caught.value)
    assert f"{narrowest} of {dim} columns, needs {4000 * narrowest} bytes" in str(caught.value)
    assert ("min_column_width" in str(caught.value)) == (least > 4)
    assert caught.value.missing_bytes == 1


def test_the_largest_tables_there_may_be_do_not_overflow():
    task = problem([table(f"t{i}", rows=10**12, dim=65536) for i in range(20)])
    with pytest.raises(InsufficientMemoryError) as caught:
        check_capacity(task)
    assert caught.value.missing_bytes == 20 * 10**12 * 65536 * 4 - 4 * 4 * 2**30
