"""Every domain value checks itself, and names everything that is wrong with it in one error."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
from problems import cluster, fields, problem, table

from shardwright.domain import (
    REUSE_BINS,
    Cluster,
    EmbeddingTable,
    InvalidValueError,
    SearchOptions,
    Shard,
    TableConstraints,
    Violation,
)

NAN, INF = math.nan, math.inf
HUGE = 10**400  # too large for a float

NUMBERS_THAT_ARE_NONE = [0, -1, NAN, INF, -INF, "4", None, True, [4], HUGE]


def violations_of(make: Callable[[], Any]) -> tuple[Violation, ...]:
    with pytest.raises(InvalidValueError) as caught:
        make()
    return caught.value.violations


@pytest.mark.parametrize("value", [*NUMBERS_THAT_ARE_NONE, 1.0, 10**12 + 1])
def test_rows_are_a_positive_whole_number(value: Any) -> None:
    (violation,) = violations_of(lambda: table(rows=value))
    assert violation.field == "num_embeddings"
    assert repr(value)[:60] in violation.description


@pytest.mark.parametrize("value", [*NUMBERS_THAT_ARE_NONE, 2**16 + 4])
def test_columns_are_a_positive_whole_number(value: Any) -> None:
    (violation,) = violations_of(lambda: table(columns=value))
    assert violation.field == "embedding_dim"


@pytest.mark.parametrize(("value", "padded"), [(1, 4), (6, 8), (127, 128), (130, 132)])
def test_columns_are_a_multiple_of_4(value: int, padded: int) -> None:
    (violation,) = violations_of(lambda: table(columns=value))
    assert violation.field == "embedding_dim"
    assert f"got {value}; pad it to {padded}" in violation.description


@pytest.mark.parametrize("value", [*NUMBERS_THAT_ARE_NONE, 1e6 + 1])
def test_pooling_is_a_positive_number(value: Any) -> None:
    (violation,) = violations_of(lambda: table(pooling_factor=value))
    assert violation.field == "pooling_factor"


@pytest.mark.parametrize("value", [1, 0.5, 1e-300, 1_000_000])
def test_pooling_may_be_any_number_in_range(value: float) -> None:
    assert table(pooling_factor=value).pooling_factor == value


@pytest.mark.parametrize("name", ["", "x" * 513, None, 3])
def test_names_are_texts_of_1_to_512_characters(name: Any) -> None:
    (violation,) = violations_of(lambda: table(name))
    assert violation.field == "name"
    assert len(violation.description) < 200


@pytest.mark.parametrize("length", [0, 1, REUSE_BINS - 1, REUSE_BINS + 1])
def test_histograms_have_17_bins(length: int) -> None:
    (violation,) = violations_of(lambda: table(reuse_histogram=(1.0,) * length))
    assert violation.field == "reuse_histogram"
    assert f"17 bins, got {length}" in violation.description


@pytest.mark.parametrize("bad", [-0.1, NAN, INF, "1", None, HUGE])
def test_shares_of_a_histogram_are_non_negative_numbers(bad: Any) -> None:
    histogram = (1.0,) * 3 + (bad,) + (1.0,) * 13
    (violation,) = violations_of(lambda: table(reuse_histogram=histogram))
    assert violation.field == "reuse_histogram"
    assert "[3] = " in violation.description
    assert len(violation.description) < 200


@pytest.mark.parametrize("histogram", [(0.0,) * 17, (1.7e308,) * 17])
def test_a_histogram_needs_a_positive_finite_sum(histogram: tuple[float, ...]) -> None:
    (violation,) = violations_of(lambda: table(reuse_histogram=histogram))
    assert "positive, finite sum" in violation.description


def test_histograms_may_be_counts() -> None:
    assert table(reuse_histogram=(5,) + (0,) * 16).reuse_histogram == (5,) + (0,) * 16


@pytest.mark.parametrize("width", [0, 2, 6, -4, 2**16 + 4, 4.0])
def test_the_narrowest_column_shard_is_a_multiple_of_4(width: Any) -> None:
    (violation,) = violations_of(lambda: TableConstraints(width))
    assert violation.field == "min_column_width"


def test_all_mistakes_of_a_table_come_at_once() -> None:
    violations = violations_of(lambda: EmbeddingTable("", 0, 6, NAN, reuse_histogram=(1.0,) * 3))
    assert [v.field for v in violations] == [
        "name",
        "num_embeddings",
        "embedding_dim",
        "pooling_factor",
        "reuse_histogram",
    ]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"num_devices": 0}, "num_devices"),
        ({"num_devices": 65_537, "devices_per_host": 1}, "num_devices"),
        ({"num_devices": NAN}, "num_devices"),
        ({"devices_per_host": 0}, "devices_per_host"),
        ({"devices_per_host": 3}, "devices_per_host"),
        ({"devices_per_host": 8}, "devices_per_host"),
        ({"hardware": ""}, "hardware"),
        ({"hardware": "x" * 129}, "hardware"),
        ({"device_memory_bytes": 0}, "device_memory_bytes"),
        ({"device_memory_bytes": 2**50 + 1}, "device_memory_bytes"),
        ({"reserved_memory_bytes": -1}, "reserved_memory_bytes"),
        ({"reserved_memory_bytes": 10**9}, "reserved_memory_bytes"),
        ({"device_memory_overrides": ((4, 1),)}, "device_memory_overrides[0].device"),
        ({"device_memory_overrides": ((0, 1), (-1, 1))}, "device_memory_overrides[1].device"),
        ({"device_memory_overrides": ((0, 1), (0, 2))}, "device_memory_overrides[1].device"),
        ({"device_memory_overrides": ((0, -1),)}, "device_memory_overrides[0].memory_bytes"),
    ],
)
def test_a_cluster_makes_sense(change: dict[str, Any], field: str) -> None:
    violations = violations_of(lambda: dataclasses.replace(cluster(), **change))
    assert [v.field for v in violations] == [field]


def test_all_mistakes_of_a_cluster_come_at_once() -> None:
    with pytest.raises(InvalidValueError) as caught:
        Cluster(0, -1, "", 0, -1)
    assert fields(caught.value) == [
        "num_devices",
        "devices_per_host",
        "hardware",
        "device_memory_bytes",
        "reserved_memory_bytes",
    ]


def test_shard_memory_is_memory_without_the_reservation() -> None:
    made = cluster(reserved_memory_bytes=100, device_memory_overrides=((1, 5000), (2, 50)))
    assert [made.shard_memory_bytes(d) for d in range(4)] == [10**9 - 100, 4900, 0, 10**9 - 100]


def test_devices_count_through_the_hosts() -> None:
    assert [cluster().host_of(d) for d in range(4)] == [0, 0, 1, 1]
    assert cluster().num_hosts == 2


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"max_column_splits": -1}, "max_column_splits"),
        ({"beam_width": 0}, "beam_width"),
        ({"candidates": 0}, "candidates"),
        ({"grid_steps": 0}, "grid_steps"),
        ({"grid_steps": 2.5}, "grid_steps"),
        ({"time_budget_s": 0.0}, "time_budget"),
        ({"time_budget_s": NAN}, "time_budget"),
        ({"time_budget_s": 86_401}, "time_budget"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
    ],
)
def test_search_options_make_sense(change: dict[str, Any], field: str) -> None:
    violations = violations_of(lambda: SearchOptions(**change))
    assert [v.field for v in violations] == [field]


def test_the_defaults_of_a_search_are_neuroshards() -> None:
    options = SearchOptions()
    assert (options.candidates, options.beam_width) == (10, 3)
    assert (options.max_column_splits, options.grid_steps) == (10, 11)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"device": -1}, "device"),
        ({"device": 2**40}, "device"),
        ({"row_offset": -1}, "row_offset"),
        ({"num_rows": -1}, "num_rows"),
        ({"num_rows": 1.0}, "num_rows"),
        ({"column_offset": -4}, "column_offset"),
        ({"column_offset": 2**31}, "column_offset"),
        ({"num_columns": 0}, "num_columns"),
        ({"num_columns": 2**31}, "num_columns"),
    ],
)
def test_a_shard_is_a_rectangle_that_the_wire_can_carry(change: dict[str, Any], field: str) -> None:
    good = Shard("t", 0, 0, 10, 0, 4)
    violations = violations_of(lambda: dataclasses.replace(good, **change))
    assert [v.field for v in violations] == [field]


def test_a_problem_needs_tables_with_unique_names() -> None:
    with pytest.raises(InvalidValueError, match="1 to 100000 tables, got 0"):
        dataclasses.replace(problem(), tables=())
    with pytest.raises(InvalidValueError, match=r"must be unique, got 'b' 2 times"):
        problem(table("a"), table("b"), table("b"))


@pytest.mark.parametrize("batch", [*NUMBERS_THAT_ARE_NONE, 2**31 + 1])
def test_a_batch_is_a_positive_whole_number(batch: Any) -> None:
    with pytest.raises(InvalidValueError) as caught:
        problem(global_batch_size=batch)
    assert fields(caught.value) == ["global_batch_size"]


def test_an_error_reads_as_all_its_violations() -> None:
    with pytest.raises(InvalidValueError) as caught:
        SearchOptions(beam_width=0, candidates=0)
    assert str(caught.value) == (
        "beam_width: must be a whole number from 1 to 100, got 0; "
        "candidates: must be a whole number from 1 to 1000, got 0"
    )


def test_a_violation_is_seen_from_outside_by_its_path() -> None:
    inner = Violation("embedding_dim", "is wrong")
    assert str(inner.under("tables[3]")) == "tables[3].embedding_dim: is wrong"
    assert str(Violation("", "is wrong").under("plan")) == "plan: is wrong"
