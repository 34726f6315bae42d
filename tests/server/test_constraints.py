"""Constraints and odd requests, through a real server."""

import grpc
import pytest
from server_bundles import plan_request
from server_harness import RunningServer

from shardwright.domain import BY_ROWS, ShardingType, check_constraints, check_plan
from shardwright.v1 import problem_pb2
from shardwright.v1 import sharding_plan_service_pb2 as service_pb2
from shardwright.wire import plan_from_proto, plan_request_from_proto

Request = service_pb2.GetShardingPlanRequest
TABLE_WISE = problem_pb2.SHARDING_TYPE_TABLE_WISE
COLUMN_WISE = problem_pb2.SHARDING_TYPE_COLUMN_WISE
ROW_WISE = problem_pb2.SHARDING_TYPE_ROW_WISE
TABLE_ROW_WISE = problem_pb2.SHARDING_TYPE_TABLE_ROW_WISE
DATA_PARALLEL = problem_pb2.SHARDING_TYPE_DATA_PARALLEL


def four_devices(num_tables: int = 6) -> Request:
    """Tables of 64 columns on two hosts of two devices."""
    request = plan_request(num_tables)
    request.cluster.num_devices, request.cluster.devices_per_host = 4, 2
    return request


def kept(server: RunningServer, request: Request) -> dict[str, ShardingType]:
    """Sharding types of a plan that keeps every constraint of the request."""
    response = server.plan(request)
    asked, plan = plan_request_from_proto(request), plan_from_proto(response.plan)
    check_constraints(plan, asked.problem, asked.options)
    assert 0 < response.lower_bound_ms <= response.cost_ms
    return check_plan(plan, asked.problem)


def refused(server: RunningServer, request: Request) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        server.plan(request)
    return caught.value.code(), caught.value.details()


def test_constraints_of_every_kind_are_kept_together(server: RunningServer) -> None:
    request = four_devices(num_tables=9)
    of = [table.constraints for table in request.tables]
    of[0].sharding_types.append(TABLE_WISE)
    of[0].devices.append(3)
    of[1].sharding_types.append(COLUMN_WISE)
    of[1].min_column_width = 16
    of[1].excluded_devices.extend([0, 1])
    of[2].sharding_types.append(ROW_WISE)
    of[3].sharding_types.append(TABLE_ROW_WISE)
    of[3].devices.extend([2, 3])
    of[4].sharding_types.append(DATA_PARALLEL)
    of[5].colocation_group = of[6].colocation_group = "pair"
    of[6].excluded_devices.append(0)
    types = kept(server, request)
    assert [types[f"t{i}"].name for i in range(5)] == [
        "TABLE_WISE",
        "COLUMN_WISE",
        "ROW_WISE",
        "TABLE_ROW_WISE",
        "DATA_PARALLEL",
    ]


@pytest.mark.parametrize("kind", [TABLE_WISE, COLUMN_WISE, ROW_WISE, TABLE_ROW_WISE, DATA_PARALLEL])
def test_a_request_may_allow_a_single_sharding_type(server: RunningServer, kind: int) -> None:
    request = four_devices()
    request.options.sharding_types.append(kind)
    name = problem_pb2.ShardingType.Name(kind).removeprefix("SHARDING_TYPE_")
    assert {found.name for found in kept(server, request).values()} == {name}


def test_a_mean_pooled_table_is_not_cut_in_rows(server: RunningServer) -> None:
    request = four_devices()
    table = request.tables[0]
    # in columns it does not fit into four devices, each of half of it: rows or nothing
    table.num_embeddings, table.embedding_dim = 1_000_000, 4
    memory = request.cluster.device_memory_bytes
    request.cluster.device_memory_bytes = table.num_embeddings * table.embedding_dim * 3
    assert kept(server, request)[table.name] in BY_ROWS
    table.pooling_mode = problem_pb2.POOLING_MODE_MEAN
    code, _ = refused(server, request)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    request.cluster.device_memory_bytes = memory
    assert kept(server, request)[table.name] not in BY_ROWS
    request.options.sharding_types.append(ROW_WISE)
    code, details = refused(server, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT and "pooling_mode is mean" in details


def test_somebody_elses_plan_that_cuts_a_mean_pooled_table_in_rows_is_warned_of(
    server: RunningServer,
) -> None:
    request = four_devices()
    request.options.sharding_types.append(ROW_WISE)
    plan = server.plan(request).plan
    request.tables[1].pooling_mode = problem_pb2.POOLING_MODE_MEAN
    evaluated = server.stub.EvaluateShardingPlan(
        service_pb2.EvaluateShardingPlanRequest(
            tables=request.tables,
            cluster=request.cluster,
            global_batch_size=request.global_batch_size,
            optimizer=request.optimizer,
            plan=plan,
        ),
        timeout=60,
    )
    assert any("'t1' is mean-pooled and cut in rows" in text for text in evaluated.warnings)


def test_data_parallel_is_not_chosen_unasked(server: RunningServer) -> None:
    request = four_devices()
    for table in request.tables:
        table.num_embeddings = 1
    assert ShardingType.DATA_PARALLEL not in kept(server, request).values()


def test_a_pin_to_a_device_that_does_not_exist_is_told(server: RunningServer) -> None:
    request = four_devices()
    request.tables[2].constraints.devices.extend([1, 4])
    code, text = refused(server, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "tables[2].constraints.devices: must be below num_devices (4), got 4" in text


def test_widths_that_cannot_be_reached_are_told(server: RunningServer) -> None:
    request = four_devices()
    request.tables[1].constraints.min_column_width = 36
    request.tables[1].constraints.sharding_types.append(COLUMN_WISE)
    code, text = refused(server, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "tables[1].constraints.sharding_types" in text
    assert "column_wise needs two column ranges of that width" in text
    request.tables[1].constraints.min_column_width = 32
    assert kept(server, request)["t1"] is ShardingType.COLUMN_WISE


def test_constraints_that_contradict_each_other_are_all_told(server: RunningServer) -> None:
    request = four_devices()
    of = [table.constraints for table in request.tables]
    of[0].devices.append(1)
    of[0].excluded_devices.append(1)
    of[1].colocation_group = "pair"
    of[1].sharding_types.append(ROW_WISE)
    code, text = refused(server, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text.startswith("2 violations: tables[0].constraints.excluded_devices: must leave one")
    assert "tables[1].constraints.sharding_types: must allow table_wise" in text
    # these are seen only once every table is right by itself
    request = four_devices()
    of = [table.constraints for table in request.tables]
    of[0].devices.append(1)
    of[0].sharding_types.append(ROW_WISE)
    of[1].excluded_devices.extend(range(4))
    of[2].devices.append(0)
    of[3].devices.append(1)
    of[2].colocation_group = of[3].colocation_group = "pair"
    code, text = refused(server, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text.startswith("3 violations: tables[0].constraints.sharding_types")
    assert "tables[1].constraints.excluded_devices: leave no device of 0 to 3" in text
    assert "no device is allowed for all 2 tables of group 'pair'" in text


def test_neuroshard_says_which_constraints_it_does_not_know(server: RunningServer) -> None:
    request = four_devices()
    request.options.algorithm = problem_pb2.ALGORITHM_NEUROSHARD
    request.tables[1].constraints.devices.append(1)
    code, text = refused(server, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "tables[1].constraints.devices" in text and "use LOCAL_SEARCH" in text


def test_what_does_not_fit_is_explained_with_what_would_help(server: RunningServer) -> None:
    request = four_devices(num_tables=2)
    request.tables[0].num_embeddings = 10**7
    request.tables[0].constraints.sharding_types.append(TABLE_WISE)
    code, text = refused(server, request)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    needed = 10**7 * 64 * 4
    assert f"'t0' ({needed} bytes) fits in none of its allowed ways" in text
    assert f"{needed - (1 << 30)} too many" in text
    assert "It would fit with column_wise allowed for all tables; or with row_wise" in text
    request.tables[0].constraints.sharding_types.append(ROW_WISE)
    assert kept(server, request)["t0"] is ShardingType.ROW_WISE


def test_so_many_devices_as_the_answer_names_do_hold_the_tables(server: RunningServer) -> None:
    request = four_devices()
    for table in request.tables:
        table.num_embeddings = 5 * 10**6
    code, text = refused(server, request)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    total = 6 * 5 * 10**6 * 64 * 4
    assert f"{total - 4 * (1 << 30)} bytes are missing" in text
    words = text.split()
    request.cluster.num_devices = int(words[words.index("devices", words.index("fit")) - 1])
    assert request.cluster.num_devices * (1 << 30) >= total
    kept(server, request)


@pytest.mark.parametrize("num_devices", [1, 2, 64])
def test_one_table_is_planned(server: RunningServer, num_devices: int) -> None:
    request = plan_request(num_tables=1)
    request.cluster.num_devices, request.cluster.devices_per_host = num_devices, 1
    kept(server, request)


@pytest.mark.parametrize("kind", [TABLE_WISE, COLUMN_WISE, ROW_WISE, TABLE_ROW_WISE, DATA_PARALLEL])
def test_one_device_takes_tables_cut_in_any_way(server: RunningServer, kind: int) -> None:
    request = plan_request(num_tables=5)
    request.cluster.num_devices = request.cluster.devices_per_host = 1
    request.options.sharding_types.append(kind)
    kept(server, request)


def test_identical_tables_spread_evenly(server: RunningServer) -> None:
    request = four_devices(num_tables=16)
    for table in request.tables:
        table.num_embeddings, table.pooling_factor = 1000, 3.0
    response = server.plan(request)
    compute_ms = [device.compute_ms for device in response.devices]
    assert max(compute_ms) == pytest.approx(min(compute_ms), rel=1e-4)
    assert response.gap < 0.1


def test_zero_lookups_are_an_error_that_says_what_they_mean(server: RunningServer) -> None:
    request = four_devices()
    request.tables[3].pooling_factor = 0.0
    code, text = refused(server, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "tables[3].pooling_factor: must be a number above 0" in text
    assert "mean lookups per sample" in text
