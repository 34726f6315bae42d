"""Plans where memory is tight, `shardwright_server.search.packing`."""

import random
from dataclasses import replace

import pytest
from tests.server.search.fake_cost_model import FakeCostModel
from tests.server.search.problems import problem, table

from shardwright.domain import (
    Optimizer,
    SearchOptions,
    ShardingType,
    TableConstraints,
    check_constraints,
    check_plan,
)
from shardwright_server.search.cost import PlanEvaluator
from shardwright_server.search.lots import LotBook
from shardwright_server.search.packing import Misfit, pack

COLUMNS = SearchOptions(sharding_types=(ShardingType.TABLE_WISE, ShardingType.COLUMN_WISE))
WHOLE = TableConstraints(sharding_types=(ShardingType.TABLE_WISE,))


def packed(task, options=COLUMNS):
    """The plan, checked; or the misfit."""
    found = pack(LotBook(PlanEvaluator(task, FakeCostModel()), options), 0, lambda: None)
    if isinstance(found, Misfit):
        return found
    plan = found.to_plan()
    check_plan(plan, task)
    check_constraints(plan, task, options)
    return plan


def tight_task(seed):
    """Up to 5 % of all memory is free, and one table may be larger than a device."""
    draw = random.Random(seed)
    devices = draw.choice([2, 4, 8])
    count = draw.randrange(3 * devices, 60)
    tables = [
        table(f"t{i}", int(10 ** draw.uniform(4, 6.8)), 4 * draw.randrange(1, 33))
        for i in range(count)
    ]
    if draw.random() < 0.5:
        tables[0] = replace(tables[0], num_embeddings=10**7, embedding_dim=128)
    optimizer = draw.choice(list(Optimizer))
    total = problem(tables, devices, optimizer=optimizer).total_bytes
    share = total * draw.uniform(1.01, 1.05) / devices
    uneven = [draw.uniform(0.8, 1.2) for _ in range(devices)] if seed % 3 == 0 else [1.0] * devices
    memory = tuple((d, int(share * u * devices / sum(uneven))) for d, u in enumerate(uneven))
    return problem(tables, devices, optimizer=optimizer, device_memory_overrides=memory)


@pytest.mark.parametrize("options", [COLUMNS, SearchOptions()], ids=["columns", "all types"])
def test_nearly_all_memory_can_be_filled(options):
    without = [seed for seed in range(100) if isinstance(packed(tight_task(seed), options), Misfit)]
    assert without == []


def test_a_device_is_filled_by_pieces_of_uneven_width():
    # 21 columns' worth of devices: 8 + 8 + 5 units of 4 columns
    rows = 2**16
    task = problem(
        [table("t", rows, 84)],
        devices=3,
        device_memory_overrides=tuple(enumerate(rows * 16 * n for n in (8, 8, 5))),
    )
    assert sorted(s.num_columns for s in packed(task).shards) == [20, 32, 32]


def test_the_narrowest_width_is_kept_by_every_piece():
    rows = 2**16
    constraints = TableConstraints(min_column_width=24)
    tables = [table("t", rows, 64, constraints=constraints)]
    # 60 columns would fit on the first device, but leave 4
    memory = tuple(enumerate((rows * 4 * 60, rows * 4 * 24)))
    task = problem(tables, devices=2, device_memory_overrides=memory)
    assert sorted(s.num_columns for s in packed(task).shards) == [24, 40]


def test_a_whole_table_makes_room_by_moving_another():
    mib = 2**18  # rows of 4 bytes
    tables = [
        table("a", 3 * mib, 4, constraints=WHOLE),
        table("b", 3 * mib, 4, constraints=WHOLE),
        table("c", 2 * mib, 4, constraints=WHOLE),
        table("d", 2 * mib, 4, constraints=WHOLE),
        table("e", 2 * mib, 4, constraints=WHOLE),
    ]
    plan = packed(problem(tables, devices=2, memory_bytes=6 * 16 * mib))
    together = {s.table for s in plan.shards if s.device == plan.by_table["a"][0].device}
    assert together == {"a", "b"}


def test_where_columns_cannot_fit_rows_do():
    # the narrowest piece, 4 columns of 10 million rows, is larger than a device
    task = problem([table("long", 10**7, 8)], devices=4, memory_bytes=81 * 10**6)
    assert isinstance(packed(task), Misfit)
    plan = packed(task, SearchOptions())
    assert len(plan.by_table["long"]) == 4


def test_pinned_tables_go_before_those_that_may_lie_anywhere():
    here = TableConstraints(devices=(0,))
    rows = 2**16
    tables = [table("free", rows, 64), table("pinned", rows, 32, constraints=here)]
    memory = tuple(enumerate((rows * 4 * 40, rows * 4 * 60)))
    plan = packed(problem(tables, devices=2, device_memory_overrides=memory))
    assert [s.device for s in plan.by_table["pinned"]] == [0]


def test_what_does_not_fit_is_named_with_its_columns():
    found = packed(problem([table("t", 2**16, 64)], devices=2, memory_bytes=2**16 * 4 * 28))
    assert found == Misfit(lot=0, columns=8)


def test_attempts_are_the_same_every_time():
    task = tight_task(7)
    assert packed(task) == packed(task)
