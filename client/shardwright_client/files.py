"""Request, plan and response files: proto JSON in and out."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from shardwright import wire
from shardwright.domain import InvalidValueError, PlanRequest, ShardingPlan
from shardwright.v1 import plan_pb2
from shardwright.v1 import sharding_plan_service_pb2 as service_pb2
from shardwright_client.errors import FileError
from shardwright_client.json_checks import find_problems

STDIN = "-"

M = TypeVar("M", bound=Message)

_MAX_PROBLEMS_SHOWN = 20


def read_request(path: str) -> PlanRequest:
    """Reads a `GetShardingPlanRequest`; `-` is standard input.

    Raises:
        FileError: With everything that is wrong in the file.
    """
    data = _read_json(path)
    message = _to_message(data, service_pb2.GetShardingPlanRequest(), path)
    try:
        return wire.plan_request_from_proto(message)
    except InvalidValueError as error:
        raise _file_error(path, [str(v) for v in error.violations]) from error


def read_plan(path: str) -> ShardingPlan:
    """Reads a `ShardingPlan`, or the plan of a `GetShardingPlanResponse`; `-` is standard input.

    Raises:
        FileError: With everything that is wrong in the file.
    """
    data = _read_json(path)
    is_response = isinstance(data, dict) and "plan" in data
    if is_response:
        plan = _to_message(data, service_pb2.GetShardingPlanResponse(), path).plan
    else:
        plan = _to_message(data, plan_pb2.ShardingPlan(), path)
    try:
        return wire.plan_from_proto(plan)
    except InvalidValueError as error:
        prefix = "plan." if is_response else ""
        raise _file_error(path, [f"{prefix}{v}" for v in error.violations]) from error


def to_json(message: Message) -> str:
    """Proto JSON with the field names of the .proto files, zeros included."""
    # protobuf 5.26 renamed the option
    options: dict[str, Any] = {"always_print_fields_with_no_presence": True}
    try:
        text = json_format.MessageToJson(message, preserving_proto_field_name=True, **options)
    except TypeError:
        options = {"including_default_value_fields": True}
        text = json_format.MessageToJson(message, preserving_proto_field_name=True, **options)
    return f"{text}\n"


def write_text(path: str, text: str) -> None:
    """Writes a file whole or not at all.

    Raises:
        FileError: When it cannot be written.
    """
    target = Path(path)
    try:
        if target.exists() and not target.is_file():
            # a pipe or a device such as /dev/null cannot be replaced
            target.write_text(text, encoding="utf-8")
            return
        target = target.resolve()
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror or error}") from error


def check_writable(path: str) -> None:
    """Finds out before a long search that its answer could not be written.

    Raises:
        FileError: When the folder does not exist or takes no files, or the path is a folder.
    """
    folder = Path(path).resolve().parent
    if Path(path).is_dir():
        raise FileError(f"{path}: is a folder; name a file in it")
    if not folder.is_dir():
        raise FileError(f"{path}: cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise FileError(f"{path}: cannot be written: no permission to write in {folder}")


def _name(path: str) -> str:
    return "standard input" if path == STDIN else path


def _file_error(path: str, problems: list[str]) -> FileError:
    if len(problems) == 1:
        return FileError(f"{_name(path)}: {problems[0]}")
    shown = "".join(f"\n  {problem}" for problem in problems[:_MAX_PROBLEMS_SHOWN])
    hidden = len(problems) - _MAX_PROBLEMS_SHOWN
    more = f"\n  ... and {hidden} more" if hidden > 0 else ""
    return FileError(f"{_name(path)}: {len(problems)} things to change:{shown}{more}")


def _read_text(path: str) -> str:
    try:
        raw = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"{_name(path)}: cannot be read: {reason}") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"{_name(path)}: is not UTF-8 text (byte {error.start})") from error


def _read_json(path: str) -> Any:
    text = _read_text(path)
    if not text.strip():
        raise FileError(f"{_name(path)}: is empty; it must hold a request or plan in proto JSON")
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        raise FileError(
            f"{_name(path)}: is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except RecursionError as error:
        raise FileError(f"{_name(path)}: is nested too deeply to be a request or plan") from error
    except ValueError as error:
        raise FileError(f"{_name(path)}: {error}") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object; keep one of them")
    return unique


def _to_message(data: Any, message: M, path: str) -> M:
    try:
        if not isinstance(data, dict):
            raise TypeError("must be an object")
        json_format.ParseDict(data, message)
    except (json_format.Error, ValueError, TypeError, AttributeError) as error:
        problems = list(find_problems(data, message.DESCRIPTOR)) or [str(error)]
        raise _file_error(path, problems) from error
    return message
