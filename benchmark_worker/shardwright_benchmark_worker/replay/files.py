"""Plans to replay: a response, and the request that it answers.

A `GetShardingPlanResponse` holds the plan and what is predicted of it, but neither pooling factors
nor histograms, batch or optimizer: those stand in the `GetShardingPlanRequest`. Unless it is named
it is looked for as `request.json` in the folder of the response.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from shardwright import wire
from shardwright.domain import (
    DomainError,
    InvalidValueError,
    PlanRequest,
    PlanResult,
    ShardingProblem,
    ShardingType,
    check_plan,
)
from shardwright.v1 import sharding_plan_service_pb2 as service_pb2
from shardwright_benchmark_worker.errors import PlanFileError

REQUEST_NAME = "request.json"

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class PlannedJob:
    """A training job's tables and the plan for them.

    Attributes:
        name: Of the response's file, to tell plans apart.
        problem: Tables, devices, batch and optimizer.
        result: The plan, and what is predicted of it.
        types: How the plan cuts each table.
    """

    name: str
    problem: ShardingProblem
    result: PlanResult
    types: Mapping[str, ShardingType]


def read_jobs(responses: list[Path], request: Path | None) -> list[PlannedJob]:
    """Reads responses, each with its request.

    Args:
        responses: Proto JSON of `GetShardingPlanResponse`, at least one.
        request: Proto JSON of the `GetShardingPlanRequest` that all of them answer; None:
            `request.json` beside each.

    Raises:
        PlanFileError: Naming the file and what is wrong in it, or why the two do not fit.
    """
    names = _names(responses)
    return [
        _read_job(name, path, request or path.parent / REQUEST_NAME, named=request is not None)
        for name, path in zip(names, responses, strict=True)
    ]


def _names(paths: list[Path]) -> list[str]:
    """File names where they differ, else whole paths."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def _read_job(name: str, response_path: Path, request_path: Path, *, named: bool) -> PlannedJob:
    result = _read_response(response_path)
    if not (named or request_path.exists()):
        raise PlanFileError(
            f"{response_path}: holds no pooling factors, batch or optimizer, those stand in its "
            f"request: name it by --request, or put it beside the response as {request_path}"
        )
    request = _read_request(request_path)
    if result.request_id and request.request_id and result.request_id != request.request_id:
        raise PlanFileError(
            f"{response_path}: answers the request {result.request_id!r:.140}, but {request_path} "
            f"is {request.request_id!r:.140}; name the right one by --request"
        )
    problem = request.problem
    try:
        types = check_plan(result.plan, problem)
    except DomainError as error:
        raise PlanFileError(f"{response_path}: is no plan for {request_path}: {error}") from error
    if len(result.devices) != problem.cluster.num_devices:
        raise PlanFileError(
            f"{response_path}: devices must list the {problem.cluster.num_devices} devices of "
            f"{request_path}, got {len(result.devices)}"
        )
    return PlannedJob(name, problem, result, types)


def _read_response(path: Path) -> PlanResult:
    message = _read(path, service_pb2.GetShardingPlanResponse(), "a GetShardingPlanResponse")
    try:
        return wire.plan_result_from_proto(message)
    except InvalidValueError as error:
        raise PlanFileError(f"{path}: {error}") from error


def _read_request(path: Path) -> PlanRequest:
    message = _read(path, service_pb2.GetShardingPlanRequest(), "a GetShardingPlanRequest")
    try:
        return wire.plan_request_from_proto(message)
    except InvalidValueError as error:
        raise PlanFileError(f"{path}: {error}") from error


def _read(path: Path, message: M, what: str) -> M:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PlanFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise PlanFileError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    try:
        json_format.Parse(text, message)
    except (json_format.Error, RecursionError) as error:
        raise PlanFileError(f"{path}: is not {what} in proto JSON: {error}") from error
    return message
