from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shardwright.domain import Shard, ShardingPlan, ShardingType
from shardwright_benchmark_worker.errors import PlanFileError
from shardwright_benchmark_worker.replay.files import read_jobs

from .replay_files import MIXED_SHARDS, make_problem, make_result, write_request, write_response


@pytest.fixture
def response(tmp_path: Path) -> Path:
    write_request(tmp_path / "request.json", make_problem())
    return write_response(tmp_path / "response.json", make_result(MIXED_SHARDS))


def test_the_request_lies_beside_the_response(response: Path) -> None:
    (job,) = read_jobs([response], None)
    assert job.name == "response"
    assert job.problem == make_problem()
    assert job.result == make_result(MIXED_SHARDS)
    assert job.types["columns"] is ShardingType.COLUMN_WISE
    assert job.types["rows"] is job.types["one_row"] is ShardingType.ROW_WISE
    assert job.types["copied"] is ShardingType.DATA_PARALLEL


def test_a_named_request_goes_before_the_one_beside(response: Path, tmp_path: Path) -> None:
    other = write_request(tmp_path / "other.json", make_problem(batch_size=77))
    (job,) = read_jobs([response], other)
    assert job.problem.global_batch_size == 77


def test_plans_of_one_file_name_are_told_apart_by_their_paths(
    response: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "again"
    folder.mkdir()
    write_request(folder / "request.json", make_problem())
    second = write_response(folder / "response.json", make_result(MIXED_SHARDS))
    assert [job.name for job in read_jobs([response, second], None)] == [str(response), str(second)]


def error_of(response: Path, request: Path | None = None) -> str:
    with pytest.raises(PlanFileError) as caught:
        read_jobs([response], request)
    return str(caught.value)


def test_without_a_request_the_error_says_where_it_is_looked_for(response: Path) -> None:
    (response.parent / "request.json").unlink()
    message = error_of(response)
    assert message.startswith(f"{response}: holds no pooling factors")
    assert "--request" in message and str(response.parent / "request.json") in message


def test_a_missing_file_is_named(tmp_path: Path, response: Path) -> None:
    assert f"{tmp_path / 'no.json'}: cannot be read" in error_of(tmp_path / "no.json")
    assert f"{tmp_path / 'no.json'}: cannot be read" in error_of(response, tmp_path / "no.json")


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[]", '{"plan": 3}', '{"plam": {}}', "\x00", '{"plan": {}}']
)
def test_a_response_that_is_none_is_named(response: Path, text: str) -> None:
    response.write_text(text)
    assert error_of(response).startswith(f"{response}: ")


def test_a_request_that_is_none_is_named(response: Path) -> None:
    request = response.parent / "request.json"
    request.write_text('{"tables": []}')
    assert error_of(response).startswith(f"{request}: tables")


def test_a_response_to_another_request_is_refused(response: Path) -> None:
    write_response(response, make_result(MIXED_SHARDS, request_id="another"))
    assert "answers the request 'another'" in error_of(response)


def test_a_plan_that_does_not_cover_the_tables_is_refused(response: Path) -> None:
    write_response(response, make_result(MIXED_SHARDS[1:]))
    message = error_of(response)
    assert f"{response}: is no plan for {response.parent / 'request.json'}" in message
    assert "'columns'" in message


def test_a_plan_of_other_tables_is_refused(response: Path) -> None:
    strange = (*MIXED_SHARDS, Shard("strange", 0, 0, 1, 0, 4))
    result = replace(make_result(MIXED_SHARDS), plan=ShardingPlan(strange))
    write_response(response, result)
    assert "'strange'" in error_of(response)


def test_predictions_for_fewer_devices_are_refused(response: Path) -> None:
    result = make_result(MIXED_SHARDS)
    write_response(response, replace(result, devices=result.devices[:1]))
    assert "devices must list the 2 devices" in error_of(response)
