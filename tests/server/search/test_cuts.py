"""Ways to cut lots before anything is placed."""

from dataclasses import replace

import numpy as np
import pytest
from tests.server.search.fake_cost_model import FakeCostModel
from tests.server.search.problems import problem, random_task, table

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


def copied(book: LotBook) -> list[int]:
    cutter = Cutter(book)
    cutter.begin(columns_only=True, copies=True)
    assert cutter.copies == (ShardingType.DATA_PARALLEL in {cut.spread for cut in cutter.cuts})
    return [lot for lot, cut in enumerate(cutter.cuts) if cut.spread is ShardingType.DATA_PARALLEL]


def tiny_and_large(tiny: int, *, types=tuple(ShardingType), memory_bytes=2**34) -> LotBook:
    """Some tables of 100 rows behind two of a million."""
    tables = [table(f"large{i}", rows=10**6, dim=64) for i in range(2)]
    tables += [table(f"tiny{i}", rows=100, dim=64) for i in range(tiny)]
    task = problem(tables, devices=4, memory_bytes=memory_bytes)
    return LotBook(PlanEvaluator(task, FakeCostModel()), SearchOptions(sharding_types=types))


def test_tiny_tables_are_copied_and_large_ones_never() -> None:
    assert copied(tiny_and_large(8)) == [*range(2, 10)]


def test_only_what_may_be_copied_is() -> None:
    assert copied(tiny_and_large(8, types=COLUMNS)) == []


def test_copies_fit_into_the_smallest_device() -> None:
    book = tiny_and_large(8)
    one_bytes = int(book.catalog.memory_bytes[book.spread(2, ShardingType.DATA_PARALLEL).kind])
    # large tables lie on devices of their own, so it is not they that leave no room
    roomy = book.evaluator.problem
    overrides = ((3, 3 * one_bytes + 1),)
    task = replace(roomy, cluster=replace(roomy.cluster, device_memory_overrides=overrides))
    small = LotBook(
        PlanEvaluator(task, FakeCostModel()), SearchOptions(sharding_types=tuple(ShardingType))
    )
    assert copied(small) == [2, 3, 4]


def test_the_number_of_copies_is_the_best_of_all() -> None:
    for seed in range(12):
        task = random_task(seed, tables=(6, 14), devices=4, memory_gib=64)
        evaluator = PlanEvaluator(task, FakeCostModel())
        book = LotBook(evaluator, SearchOptions(sharding_types=tuple(ShardingType)))
        cutter = Cutter(book)

        def judged_ms(cuts, cutter=cutter, evaluator=evaluator):
            weights = [cutter._weight(cut) for cut in cuts]
            total = np.sum([encoding for encoding, _ in weights], axis=0)
            largest = max((cutter._largest_ms(c) for c in cuts if not c.spread), default=0.0)
            average = cutter._average_ms(total[None])[0]
            dims = cutter._transfer_ms(np.array([sum(dims for _, dims in weights)]))[0]
            num_bytes = np.array([sum(cut.all_reduce_bytes for cut in cuts)])
            return max(average, largest) + dims + evaluator.all_reduce_ms(num_bytes)[0]

        cutter.begin(columns_only=True, copies=True)
        copies = {lot: cut for lot, cut in enumerate(cutter.cuts) if cut.spread}
        chosen_ms = judged_ms(cutter.cuts)
        cutter.begin(columns_only=True)
        cuts = list(cutter.cuts)
        by_rows = sorted(range(len(cuts)), key=lambda lot: task.tables[lot].num_embeddings)
        numbers_ms = [judged_ms(cuts)]
        for lot in by_rows:
            cuts[lot] = cutter.spread(lot, ShardingType.DATA_PARALLEL)
            numbers_ms.append(judged_ms(cuts))
        assert chosen_ms == pytest.approx(min(numbers_ms))
        assert set(copies) == set(by_rows[: len(copies)])
