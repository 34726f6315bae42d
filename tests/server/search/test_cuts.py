"""Ways to cut lots before anything is placed."""

import numpy as np
from tests.server.search.fake_cost_model import FakeCostModel
from tests.server.search.problems import random_task

from shardwright.domain import SearchOptions, ShardingType
from shardwright_server.search.cost import PlanEvaluator
from shardwright_server.search.cuts import Cutter
from shardwright_server.search.lots import LotBook

COLUMNS = (ShardingType.TABLE_WISE, ShardingType.COLUMN_WISE)


def book_of(seed: int) -> LotBook:
    task = random_task(seed, tables=(8, 9), devices=4, memory_gib=64)
    return LotBook(PlanEvaluator(task, FakeCostModel()), SearchOptions(sharding_types=COLUMNS))


def parts(cuts) -> list[int]:
    return [len(cut.kinds) for cut in cuts]


def test_no_halving_leaves_the_coarsest_cuts() -> None:
    book = book_of(0)
    cutter = Cutter(book)
    assert cutter.halvings(1, 1) == [cutter.cuts]


def test_the_largest_in_memory_and_the_dearest_are_halved() -> None:
    for seed in range(6):
        book = book_of(seed)
        cutter = Cutter(book)
        wholes = [cut.kinds[0] for cut in cutter.cuts]
        can = np.array([lot.columns >= 2 * lot.min_width for lot in book.lots])
        for weights, times in (
            (book.catalog.memory_bytes, (2, 1)),
            (book.catalog.compute_ms, (1, 2)),
        ):
            weight = np.where(can, weights[wholes], -1)
            # a lot that cannot be halved uses up its turn
            if can[int(weights[wholes].argmax())]:
                expected = [1] * len(book.lots)
                expected[int(weight.argmax())] = 2
                coarsest, halved = cutter.halvings(*times)
                assert coarsest == cutter.cuts
                assert parts(halved) == expected


def test_each_number_of_the_one_comes_with_each_of_the_other() -> None:
    cutter = Cutter(book_of(2))
    all_ways = cutter.halvings(3, 4)
    assert len(all_ways) == 12
    for largest in range(3):
        for dearest in range(4):
            way = all_ways[4 * largest + dearest]
            assert sum(parts(way)) >= sum(parts(all_ways[4 * largest]))
            assert way == cutter.halvings(largest + 1, dearest + 1)[-1]


def test_halvings_go_on_until_nothing_can_be_halved() -> None:
    book = book_of(1)
    cuts = Cutter(book).halvings(1000, 1)[-1]
    for lot, cut in zip(book.lots, cuts, strict=True):
        columns = book.catalog.num_columns[list(cut.kinds)]
        assert columns.sum() == lot.columns
        finer = 2 * len(cut.kinds)
        assert finer > book.num_devices or lot.columns // finer < lot.min_width


def test_beginning_anew_forgets_what_was_refined() -> None:
    book = LotBook(book_of(3).evaluator, SearchOptions(sharding_types=tuple(ShardingType)))
    cutter = Cutter(book)
    coarsest = list(cutter.cuts)
    refined = []
    for columns_only in (False, True, False):
        cutter.begin(columns_only=columns_only)
        assert cutter.cuts == coarsest
        refined.append(cutter.refine(0.6, 100))
    assert refined[0] == refined[2] != refined[1]
    assert refined[0][-1] != coarsest
    assert all(cut.spread is None for cuts in refined[1] for cut in cuts)
