"""A dataset is sound, or an error names file, column and row."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardwright.domain import CostModelSource, EmbeddingTable, Optimizer, WeightDtype
from shardwright_costmodel import dataset
from shardwright_costmodel.dataset import (
    TABLE_STRUCT,
    Kind,
    PartMetadata,
    list_parts,
    write_part,
)
from shardwright_costmodel.errors import DatasetError
from shardwright_costmodel.features import ALL_REDUCE_COLUMNS, comm_features, table_features
from shardwright_costmodel.training.data import (
    MIN_COMM_ROWS,
    MIN_COMPUTE_ROWS,
    evenly,
    load,
    split_by_combination,
)
from shardwright_costmodel.training.measurements import MIN_TRANSFER_MS

Rows = list[dict[str, Any]]
Write = Callable[..., str]

METADATA = PartMetadata("test-machine", "modelled")


def fault_of(write: Write, tmp_path: Path, compute: Rows, comm: Rows) -> str:
    with pytest.raises(DatasetError) as raised:
        load(write(tmp_path, compute, comm))
    return str(raised.value)


def test_operators_become_the_features_that_the_server_computes(
    tmp_path: Path, write: Write, compute: Rows, comm: Rows
) -> None:
    data = load(write(tmp_path, compute, comm))
    assert (data.hardware, data.source) == ("test-machine", CostModelSource.MODELLED)
    assert data.compute.counts.tolist() == [len(row["tables"]) for row in compute]
    start = 0
    for i, row in enumerate(compute):
        tables = [
            EmbeddingTable(
                name="t",
                num_embeddings=t["num_embeddings"],
                embedding_dim=t["embedding_dim"],
                pooling_factor=t["pooling_factor"],
                reuse_histogram=tuple(t["reuse_histogram"]),
                weight_dtype=WeightDtype(t["weight_dtype"]),
            )
            for t in row["tables"]
        ]
        expected = table_features(tables, row["global_batch_size"], Optimizer(row["optimizer"]))
        found = data.compute.features[start : start + len(tables)]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        np.testing.assert_allclose(
            data.compute.times_ms[i], [row["forward_ms"], row["backward_ms"]], rtol=1e-6
        )
        start += len(tables)


def test_an_empty_reuse_histogram_means_unknown_as_in_a_request(
    tmp_path: Path, write: Write, compute: Rows, comm: Rows
) -> None:
    table = compute[0]["tables"][0]
    table["reuse_histogram"] = []
    found = load(write(tmp_path, compute, comm)).compute.features[0]
    unknown = EmbeddingTable(
        "t", table["num_embeddings"], table["embedding_dim"], table["pooling_factor"]
    )
    expected = table_features([unknown], compute[0]["global_batch_size"], Optimizer.SGD)[0]
    np.testing.assert_allclose(found[7:], expected[7:], rtol=1e-5, atol=1e-7)


def test_a_copy_sees_its_own_batch(tmp_path: Path, write: Write, compute: Rows, comm: Rows) -> None:
    """Null, or no such field at all, is the whole batch."""
    compute[0]["tables"] = [dict(compute[0]["tables"][0]) for _ in range(2)]
    compute[0]["tables"][1]["batch_size"] = 37
    first, second = load(write(tmp_path, compute, comm)).compute.features[:2]
    assert (first[3], second[3]) == (compute[0]["global_batch_size"], 37)
    np.testing.assert_array_equal(np.delete(first, 3), np.delete(second, 3))


def test_parts_without_the_optional_columns_are_read(
    tmp_path: Path, write: Write, compute: Rows, comm: Rows
) -> None:
    url = write(tmp_path, compute, comm)
    expected = load(url)
    for kind in Kind:
        for part in list_parts(url, kind):
            table = pq.read_table(part.removeprefix("file://"))
            pq.write_table(table.drop_columns(kind.optional_columns), part.removeprefix("file://"))
    found = load(url)
    np.testing.assert_array_equal(found.compute.times_ms, expected.compute.times_ms)
    np.testing.assert_array_equal(found.comm.times_ms, expected.comm.times_ms)


def test_parts_from_before_tables_had_batches_are_read(
    tmp_path: Path, write: Write, compute: Rows, comm: Rows
) -> None:
    url = write(tmp_path, compute, comm)
    expected = load(url).compute.features
    (path,) = (tmp_path / "compute").glob("*.parquet")
    part = pq.read_table(path)
    fields = [TABLE_STRUCT.field(i) for i in range(TABLE_STRUCT.num_fields)]
    old = pa.struct([field for field in fields if field.name != "batch_size"])
    index = part.schema.get_field_index("tables")
    tables = pa.array(part["tables"].to_pylist(), pa.list_(old))
    pq.write_table(part.set_column(index, pa.field("tables", tables.type), tables), path)
    np.testing.assert_array_equal(load(url).compute.features, expected)


def test_all_reduces_become_the_features_that_the_server_computes(
    tmp_path: Path, write: Write, compute: Rows, comm: Rows, all_reduce: Rows
) -> None:
    alone = {**all_reduce[0], "world_size": 1, "devices_per_host": 1}
    data = load(write(tmp_path, compute, comm, all_reduce=[alone, *all_reduce])).all_reduce
    expected = [[row[c] for c in ALL_REDUCE_COLUMNS] for row in all_reduce]
    np.testing.assert_array_equal(data.features, np.array(expected, np.float32))
    times_ms = [[row["time_ms"]] for row in all_reduce]
    np.testing.assert_array_equal(data.times_ms, np.array(times_ms, np.float32))
    assert len(data.select(np.array([3, 1]))) == 2
    np.testing.assert_array_equal(data.select(np.array([3])).times_ms, data.times_ms[3:4])


def test_collectives_become_the_features_that_the_server_computes(
    tmp_path: Path, write: Write, compute: Rows, comm: Rows
) -> None:
    data = load(write(tmp_path, compute, comm))
    start = 0
    for row in comm:
        end = start + row["world_size"]
        expected = comm_features([row["dims"]], row["devices_per_host"], row["global_batch_size"])
        np.testing.assert_array_equal(data.comm.features[start:end], expected[0])
        start = end
    assert start == len(data.comm.features)


def test_forward_communication_is_the_transfer_without_the_waiting(
    tmp_path: Path, write: Write, compute: Rows, comm: Rows
) -> None:
    data = load(write(tmp_path, compute, comm))
    first = comm[0]
    transfer_ms = first["backward_ms"][0] / 1.5
    np.testing.assert_allclose(data.comm.times_ms[: first["world_size"], 0], transfer_ms, rtol=1e-4)


def test_noise_never_makes_a_transfer_negative(
    tmp_path: Path, write: Write, compute: Rows, comm: Rows
) -> None:
    comm[0]["forward_ms"][0] = 0.0
    times_ms = load(write(tmp_path, compute, comm)).comm.times_ms
    assert times_ms[0, 0] == np.float32(MIN_TRANSFER_MS)


def test_collectives_of_one_device_are_left_out(
    tmp_path: Path, write: Write, compute: Rows, comm: Rows
) -> None:
    alone = {
        **comm[0],
        "world_size": 1,
        "devices_per_host": 1,
        **{c: [0] for c in ("dims", "start_skew_ms", "forward_ms", "backward_ms")},
    }
    data = load(write(tmp_path, compute, [alone, *comm]))
    assert len(data.comm) == len(comm)
    assert (data.comm.features[:, 0] > 1).all()


def test_parts_are_joined_in_order(tmp_path: Path, write: Write, compute: Rows, comm: Rows) -> None:
    url = write(tmp_path, compute[:30], comm)
    write_part(url, Kind.COMPUTE, "part-1", compute[30:], METADATA)
    other = write(tmp_path / "whole", compute, comm)
    np.testing.assert_array_equal(load(url).compute.features, load(other).compute.features)


NO_TIMES = {f"{time}_ms{p}": None for time in ("forward", "backward") for p in ("", "_p10", "_p90")}


def test_operators_that_did_not_fit_or_lay_elsewhere_are_left_out_and_counted(
    tmp_path: Path, write: Write, compute: Rows, comm: Rows
) -> None:
    usable = [*compute[:2], *compute[5:]]
    expected = load(write(tmp_path / "usable", usable, comm)).compute
    compute[2] |= {"feasible": False, **NO_TIMES}
    compute[3]["placement"] = "managed"
    compute[4]["placement"] = "managed_caching"
    compute[5] |= {"feasible": True, "placement": "device", "drift_percent": 1.0}
    url = write(tmp_path / "all", compute, comm)
    write_part(url, Kind.COMPUTE, "none-fits", [compute[2]] * 3, METADATA)
    data = load(url)
    np.testing.assert_array_equal(data.compute.features, expected.features)
    np.testing.assert_array_equal(data.compute.times_ms, expected.times_ms)
    assert data.left_out == {"infeasible": 4, "managed": 1, "managed_caching": 1}


def test_rows_after_those_left_out_are_still_named(
    tmp_path: Path, write: Write, compute: Rows, comm: Rows
) -> None:
    compute[2] |= {"feasible": False, **NO_TIMES}
    compute[7]["tables"][0]["embedding_dim"] = 0
    assert "column tables.embedding_dim, row 7: " in fault_of(write, tmp_path, compute, comm)


def test_a_feasible_operator_without_times_is_an_error(
    tmp_path: Path, write: Write, compute: Rows, comm: Rows
) -> None:
    compute[7] |= NO_TIMES
    message = fault_of(write, tmp_path, compute, comm)
    assert "column forward_ms, row 7: must be a number above 0, got nan" in message


def test_measured_waiting_is_taken_instead_of_the_skew(
    tmp_path: Path, write: Write, compute: Rows, comm: Rows
) -> None:
    expected = load(write(tmp_path / "skew", compute, comm)).comm.times_ms
    for row in comm[::2]:
        latest = max(row["start_skew_ms"])
        row["wait_ms"] = [latest - skew for skew in row["start_skew_ms"]]
        row["start_skew_ms"] = [100.0 * skew for skew in row["start_skew_ms"]]
    found = load(write(tmp_path / "wait", compute, comm)).comm.times_ms
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_reduce_scatters_are_read_where_there_are_any(
    tmp_path: Path, write: Write, compute: Rows, comm: Rows, all_reduce: Rows
) -> None:
    url = write(tmp_path, compute, comm)
    assert load(url).reduce_scatter is None
    write_part(url, Kind.REDUCE_SCATTER, "part-0", all_reduce[:7], METADATA)
    found = load(url).reduce_scatter
    assert found is not None and len(found) == 7
    assert found.times_ms[3, 0] == np.float32(all_reduce[3]["time_ms"])


def test_parts_are_read_piece_by_piece(
    tmp_path: Path,
    write: Write,
    compute: Rows,
    comm: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = write(tmp_path, compute, comm)
    whole = load(url)
    monkeypatch.setattr(dataset, "PIECE_ROWS", 7)
    (part,) = list_parts(url, Kind.COMPUTE)
    pieces = list(dataset.read_pieces(part, Kind.COMPUTE))
    assert [(piece.first_row, len(piece.table)) for piece in pieces[:2]] == [(0, 7), (7, 7)]
    assert sum(len(piece.table) for piece in pieces) == len(compute)
    progress: list[float] = []
    found = load(url, progress.append)
    for kind in ("compute", "comm", "all_reduce"):
        for name, expected in vars(getattr(whole, kind)).items():
            np.testing.assert_array_equal(vars(getattr(found, kind))[name], expected)
    assert found.digests == whole.digests
    assert len(progress) == 3 and progress[-1] == 1.0
    compute[40]["forward_ms"] = -1.0
    compute[41]["forward_ms"] = -1.0
    write(tmp_path, compute, comm)
    with pytest.raises(DatasetError, match="column forward_ms, row 40: must be a number above 0"):
        load(url)


def test_many_tables_without_a_reuse_histogram_are_read(
    tmp_path: Path, write: Write, compute: Rows, comm: Rows
) -> None:
    table = {**compute[0]["tables"][0], "reuse_histogram": []}
    compute[0]["tables"] = [{**table, "num_embeddings": 10 + i} for i in range(2100)]
    found = load(write(tmp_path, compute, comm)).compute.features
    batch = compute[0]["global_batch_size"]
    for i in (0, 1024, 2099):
        unknown = EmbeddingTable("t", 10 + i, table["embedding_dim"], table["pooling_factor"])
        expected = table_features([unknown], batch, Optimizer(compute[0]["optimizer"]))[0]
        np.testing.assert_allclose(found[i, 7:], expected[7:], rtol=1e-5, atol=1e-7)


def test_pieces_of_measurements_are_the_whole(
    tmp_path: Path, write: Write, compute: Rows, comm: Rows
) -> None:
    data = load(write(tmp_path, compute, comm)).comm
    pieces = list(data.pieces(groups=7))
    assert [len(piece) for piece in pieces] == [7, 7, 7, 7, 7, 5]
    for name, expected in vars(data).items():
        joined = np.concatenate([vars(piece)[name] for piece in pieces])
        np.testing.assert_array_equal(joined, expected)


def test_groups_are_thinned_out_evenly() -> None:
    groups = np.arange(100)
    assert evenly(groups, 100).tolist() == evenly(groups, 1000).tolist() == list(range(100))
    assert evenly(groups, 99).tolist() == list(range(0, 100, 2))
    assert len(evenly(groups, 30)) == 25


NAN = float("nan")


@pytest.mark.parametrize(
    ("column", "value", "fault"),
    [
        ("forward_ms", NAN, "column forward_ms, row 7: must be a number above 0, got nan"),
        ("forward_ms", -1.0, "column forward_ms, row 7: must be a number above 0, got -1.0"),
        ("backward_ms", 0.0, "column backward_ms, row 7: must be a number above 0, got 0.0"),
        ("backward_ms", float("inf"), "column backward_ms, row 7"),
        ("global_batch_size", 0, "column global_batch_size, row 7: must be a number above 0"),
        ("optimizer", "adamw", "column optimizer, row 7: must be one of sgd, rowwise_adagrad,"),
        ("tables", [], "column tables, row 7: must name at least one table, got 0"),
        ("placement", "host", "column placement, row 7: must be one of device, managed, managed_"),
    ],
)
def test_a_bad_operator_is_named(
    tmp_path: Path, column: str, value: Any, fault: str, write: Write, compute: Rows, comm: Rows
) -> None:
    compute[7][column] = value
    message = fault_of(write, tmp_path, compute, comm)
    assert "/compute/part-0.parquet: " in message
    assert fault in message


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("num_embeddings", 0, "column tables.num_embeddings, row 7"),
        ("embedding_dim", -4, "column tables.embedding_dim, row 7"),
        ("pooling_factor", NAN, "column tables.pooling_factor, row 7"),
        ("weight_dtype", "int8", "column tables.weight_dtype, row 7: must be one of fp32, fp16,"),
        ("batch_size", 0, "column tables.batch_size, row 7: must be above 0, or null, got 0"),
        ("reuse_histogram", [1.0] * 16, "row 7: must have 17 bins, or none when unknown, got 16"),
        ("reuse_histogram", [0.0] * 17, "row 7: must have a positive sum"),
        ("reuse_histogram", [-1.0] + [1.0] * 16, "row 7: must be 0 or more, got -1.0"),
        ("reuse_histogram", [NAN] * 17, "row 7: must be 0 or more, got nan"),
    ],
)
def test_a_bad_table_is_named(
    tmp_path: Path, field: str, value: Any, fault: str, write: Write, compute: Rows, comm: Rows
) -> None:
    compute[7]["tables"][-1][field] = value
    message = fault_of(write, tmp_path, compute, comm)
    assert "/compute/part-0.parquet: column tables." in message
    assert fault in message


@pytest.mark.parametrize(
    ("column", "value", "fault"),
    [
        ("world_size", 0, "column world_size, row 3"),
        ("devices_per_host", 11, "column devices_per_host, row 3: must divide world_size, got 11"),
        ("dims", [4], "column dims, row 3: must have one entry per device (world_size), got 1"),
        ("forward_ms", [], "column forward_ms, row 3"),
        ("wait_ms", [1.0], "column wait_ms, row 3: must have one entry per device (world_size), g"),
    ],
)
def test_a_bad_collective_is_named(
    tmp_path: Path, column: str, value: Any, fault: str, write: Write, compute: Rows, comm: Rows
) -> None:
    comm[3][column] = value
    message = fault_of(write, tmp_path, compute, comm)
    assert "/comm/part-0.parquet: " in message
    assert fault in message


@pytest.mark.parametrize(
    ("column", "value"), [("num_bytes", 0), ("world_size", 0), ("time_ms", NAN), ("time_ms", -1.0)]
)
def test_a_bad_all_reduce_is_named(
    tmp_path: Path,
    column: str,
    value: Any,
    write: Write,
    compute: Rows,
    comm: Rows,
    all_reduce: Rows,
) -> None:
    all_reduce[5][column] = value
    with pytest.raises(DatasetError) as raised:
        load(write(tmp_path, compute, comm, all_reduce=all_reduce))
    assert "/all_reduce/part-0.parquet: " in str(raised.value)
    assert f"column {column}, row 5: must be a number above 0" in str(raised.value)


@pytest.mark.parametrize(
    "column", ["dims", "start_skew_ms", "forward_ms", "backward_ms", "wait_ms"]
)
def test_a_bad_number_of_one_device_is_named(
    tmp_path: Path, column: str, write: Write, compute: Rows, comm: Rows
) -> None:
    comm[3]["wait_ms"] = [0.0] * comm[3]["world_size"]
    comm[3][column][-1] = -1
    assert f"column {column}, row 3: must be 0 or more, got -1.0" in fault_of(
        write, tmp_path, compute, comm
    )


@pytest.mark.parametrize(("field", "value"), [("hardware", "other"), ("source", "measured")])
def test_mixed_parts_are_refused(
    tmp_path: Path, field: str, value: str, write: Write, compute: Rows, comm: Rows
) -> None:
    url = write(tmp_path, compute, comm)
    metadata = PartMetadata(**{**METADATA.__dict__, field: value})
    write_part(url, Kind.COMM, "part-1", comm, metadata)
    with pytest.raises(DatasetError, match=rf"comm/part-1\.parquet: {field} is '{value}', but "):
        load(url)


def test_an_unknown_source_is_refused(
    tmp_path: Path, write: Write, compute: Rows, comm: Rows
) -> None:
    url = write(tmp_path, compute, comm, PartMetadata("test-machine", "guessed"))
    with pytest.raises(DatasetError, match=r"source must be one of .* got 'guessed'"):
        load(url)


def test_too_few_rows_say_how_many_are_needed(
    tmp_path: Path, write: Write, compute: Rows, comm: Rows
) -> None:
    few = compute[: MIN_COMPUTE_ROWS - 1]
    assert fault_of(write, tmp_path / "a", few, comm).endswith(
        "/compute: has 39 usable rows, training needs at least 40"
    )
    assert fault_of(write, tmp_path / "b", compute, comm[: MIN_COMM_ROWS - 1]).endswith(
        "/comm: has 19 usable rows, training needs at least 20"
    )


def test_an_empty_root_says_how_to_fill_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"/compute: holds no \*\.parquet part; measure some"):
        load(str(tmp_path))


def test_a_root_of_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(DatasetError, match="nonsense://bucket: Protocol not known"):
        load("nonsense://bucket")


def test_a_part_cut_off_half_way_is_named(
    tmp_path: Path, write: Write, compute: Rows, comm: Rows
) -> None:
    url = write(tmp_path, compute, comm)
    (part,) = list_parts(url, Kind.COMM)
    path = Path(part.removeprefix("file://"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DatasetError, match=r"comm/part-0\.parquet: cannot be read as Parquet"):
        load(url)


@pytest.mark.parametrize("change", ["missing", "extra", "null"])
def test_other_columns_and_nulls_are_named(
    tmp_path: Path, change: str, write: Write, compute: Rows, comm: Rows
) -> None:
    url = write(tmp_path, compute, comm)
    path = next((tmp_path / "compute").glob("*.parquet"))
    table = pq.read_table(path)
    if change == "missing":
        table = table.drop_columns(["forward_ms"])
    elif change == "extra":
        table = table.append_column("gpu", pa.array(["x"] * len(compute)))
    else:
        column = pa.array([1.0, None] * (len(compute) // 2))
        index = table.schema.get_field_index("forward_ms")
        table = table.set_column(index, pa.field("forward_ms", pa.float64()), column)
    pq.write_table(table, path)
    with pytest.raises(DatasetError) as raised:
        load(url)
    message = str(raised.value)
    assert "compute/part-0.parquet" in message
    assert {
        "missing": "missing: ['forward_ms']",
        "extra": "unknown: ['gpu']",
        "null": "forward_ms",
    }[change] in message


def test_measurements_of_one_combination_fall_on_one_side(
    tmp_path: Path, write: Write, compute: Rows, comm: Rows
) -> None:
    shuffled = copy.deepcopy(compute)
    for row in shuffled:
        row["tables"].reverse()
    data = load(write(tmp_path, compute + shuffled, comm)).compute
    split = split_by_combination(data, seed=3)
    sides = np.empty(len(data), dtype=np.int64)
    for side, groups in enumerate((split.training, split.validation, split.held_out)):
        sides[groups] = side
    np.testing.assert_array_equal(sides[: len(compute)], sides[len(compute) :])
    assert (len(split.training), len(split.validation), len(split.held_out)) == (96, 12, 12)
    other = split_by_combination(data, seed=4)
    assert other.held_out.tolist() != split.held_out.tolist()
