"""The `shardwright` command as a person or a script runs it."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from canned_server import CannedServer, any_plan, plan_result, small_problem
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from shardwright import wire
from shardwright.domain import PlanRequest, Shard, ShardingPlan
from shardwright.v1 import sharding_plan_service_pb2 as service_pb2
from shardwright_client import FileError, files

COMMAND = Path(sys.executable).parent / "shardwright"
EXAMPLE = Path(__file__).parents[2] / "client/examples/mlperf_dlrm_dcnv2.json"

Run = subprocess.CompletedProcess[str]


def shardwright(*arguments: str | Path, stdin: str = "", **environment: str) -> Run:
    """Runs the command; standard output and error are pipes."""
    return subprocess.run(
        [COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        env={**os.environ, "PYTHONUTF8": "1", **environment},
    )


def failed(run: Run, code: int) -> str:
    """The message of a run that must have failed with `code` and nothing but the message."""
    assert run.returncode == code, run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""
    return run.stderr


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    request = PlanRequest(small_problem(), request_id="from a file")
    path = tmp_path / "request.json"
    path.write_text(files.to_json(wire.plan_request_to_proto(request)))
    return path


# --- plan -----------------------------------------------------------------------------------------


def test_plan_shows_what_a_person_wants_to_know(server: CannedServer, request_file: Path) -> None:
    run = shardwright("plan", request_file, "--server", server.target)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    page = run.stdout
    assert "6 tables, 2 x test-gpu" in page
    assert "9.00 ms per iteration" in page
    assert "20.0 % less than the best baseline (lookup, 11.25 ms)" in page
    assert "at most 25.0 % above the best possible by these models" in page
    assert "no legal plan is below 7.20 ms" in " ".join(page.split())
    assert "MODELLED" in page and "MEASURED" not in page
    assert "2026.11.1" in page
    assert re.search(r"^    1 +█+▓+▒+ +6\.00 +2\.00 +1\.00 +0\.00 +9\.00$", page, re.M), page
    assert re.search(r"^    0 +█+▓+▒+·+ +5\.00 +2\.00 +1\.00 +1\.00 +9\.00$", page, re.M), page
    assert re.search(r"^  table_0 +1,000 x 64 .*columns 32\+32 +1, 0$", page, re.M), page
    assert re.search(r"^  table_1 +1,001 x 64 .*rows, 2 blocks", page, re.M), page
    assert re.search(r"^  dim +▒+ +13\.50 +\+50\.0 %$", page, re.M), page
    assert re.search(r"^  size +does not fit", page, re.M), page
    assert "Warning: table_5 lies outside the training range." in page


def test_watch_shows_each_better_plan_on_standard_error(
    server: CannedServer, request_file: Path
) -> None:
    server.improvements = (12.5, 10.0)
    quiet = shardwright("plan", request_file, "--server", server.target)
    run = shardwright("plan", request_file, "--server", server.target, "--watch")
    assert run.returncode == 0, run.stderr
    assert run.stdout == quiet.stdout, "the page is that of the last plan"
    lines = run.stderr.splitlines()
    assert lines == [
        "1.50 s  12.50 ms  at most 73.6 % above the best",
        "1.50 s  10.00 ms  at most 38.9 % above the best",
        "1.50 s  9.00 ms  at most 25.0 % above the best",
    ]
    piped = shardwright("plan", request_file, "--server", server.target, "--watch", "--json")
    assert json.loads(piped.stdout)["cost_ms"] == 9.0


def test_watch_on_a_terminal_draws_over_itself(server: CannedServer, request_file: Path) -> None:
    server.improvements = (12.5, 10.0)
    # the command as on a terminal of its own: `script` would do, pty is in the standard library
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, "plan", request_file, "--server", server.target, "--watch"],
        stdout=subprocess.PIPE,
        stderr=follower,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(follower)
    drawn = b""
    with contextlib.suppress(OSError):  # how a terminal on Linux says that all have left
        while chunk := os.read(leader, 4096):
            drawn += chunk
    page = process.communicate(timeout=60)[0].decode()
    os.close(leader)
    assert process.returncode == 0
    assert "9.00 ms per iteration" in page
    assert b"at most 38.9 % above the best" in drawn
    assert b"Planning 6 tables for 2 devices" in drawn


def test_a_plan_with_every_sharding_type_is_read_at_a_glance(
    server: CannedServer, tmp_path: Path
) -> None:
    problem = replace(
        small_problem(num_tables=5, num_devices=4),
        cluster=replace(small_problem().cluster, num_devices=4, devices_per_host=2),
    )
    tables = [table.name for table in problem.tables]
    shards = [
        *(Shard(tables[0], d, 0, 1000, 0, 64) for d in range(4)),
        *(Shard(tables[1], 2 + i, i * 501, 501 - i, 0, 64) for i in range(2)),
        *(Shard(tables[2], d, d * 251, min(251, 1002 - d * 251), 0, 64) for d in range(4)),
        *(Shard(tables[3], d, 0, 1003, 16 * i, 16) for i, d in enumerate((0, 3, 1, 2))),
        Shard(tables[4], 1, 0, 1004, 0, 64),
    ]
    plan_file, request_file = tmp_path / "plan.json", tmp_path / "request.json"
    plan_file.write_text(files.to_json(wire.plan_to_proto(ShardingPlan(tuple(shards)))))
    message = wire.plan_request_to_proto(PlanRequest(problem))
    request_file.write_text(files.to_json(message))
    run = shardwright("evaluate", request_file, plan_file, "--server", server.target)
    assert run.returncode == 0, run.stderr
    for line in (
        r"table_0 +1,000 x 64 +<0\.01 +4 whole copies +0-3",
        r"table_1 +1,001 x 64 +<0\.01 +rows, 2 blocks on host 1 +2, 3",
        r"table_2 +1,002 x 64 +<0\.01 +rows, 4 blocks +0-3",
        r"table_3 +1,003 x 64 +<0\.01 +columns 4x16 +0, 3, 1, 2",
        r"table_4 +1,004 x 64 +<0\.01 +whole +1",
    ):
        assert re.search(rf"^  {line}$", run.stdout, re.M), run.stdout


def test_a_piped_page_has_80_columns_and_no_colours(
    server: CannedServer, request_file: Path
) -> None:
    page = shardwright("plan", request_file, "--server", server.target).stdout
    assert "\x1b" not in page
    assert max(map(len, page.splitlines())) <= 80
    assert all(line == line.rstrip() for line in page.splitlines())


def test_a_terminal_without_unicode_gets_ascii(server: CannedServer, request_file: Path) -> None:
    run = shardwright(
        "plan", request_file, "--server", server.target, PYTHONUTF8="0", PYTHONIOENCODING="ascii"
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.isascii()
    assert re.search(r"^    0 +#+=+-+\.+ +5\.00", run.stdout, re.M), run.stdout


def test_json_goes_to_standard_output_with_the_names_of_the_contract(
    server: CannedServer, request_file: Path
) -> None:
    run = shardwright("plan", request_file, "--server", server.target, "--json")
    answer = json.loads(run.stdout)
    assert answer["cost_ms"] == 9.0
    assert answer["plan"]["shards"][0]["row_offset"] == "0"
    assert answer["request_id"] == "from a file"
    message = json_format.ParseDict(answer, service_pb2.GetShardingPlanResponse())
    assert wire.plan_result_from_proto(message) == plan_result(small_problem(), "from a file")


def test_the_answer_is_written_beside_the_page(
    server: CannedServer, request_file: Path, tmp_path: Path
) -> None:
    target = tmp_path / "response.json"
    target.write_text("old")
    run = shardwright("plan", request_file, "--server", server.target, "-o", target)
    assert run.stdout.endswith(f"Written to {target}\n")
    assert json.loads(target.read_text())["cost_ms"] == 9.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["request.json", "response.json"]


def test_a_failed_plan_leaves_the_old_answer_alone(
    server: CannedServer, request_file: Path, tmp_path: Path
) -> None:
    target = tmp_path / "response.json"
    target.write_text("old")
    server.fail(grpc.StatusCode.INTERNAL, "boom")
    failed(shardwright("plan", request_file, "--server", server.target, "-o", target), 4)
    assert target.read_text() == "old"


def test_output_may_be_a_device(server: CannedServer, request_file: Path) -> None:
    run = shardwright("plan", request_file, "--server", server.target, "-o", "/dev/null", "--json")
    assert run.returncode == 0, run.stderr
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("how", [(), ("--json",)])
def test_output_that_nobody_takes_ends_the_command(
    server: CannedServer, request_file: Path, how: tuple[str, ...]
) -> None:
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [COMMAND, "plan", request_file, "--server", server.target, *how],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert run.returncode == 1
    assert run.stderr == ("shardwright: the output cannot be written: No space left on device\n")


def test_the_request_comes_from_standard_input(server: CannedServer, request_file: Path) -> None:
    run = shardwright("plan", "-", "--server", server.target, stdin=request_file.read_text())
    assert run.returncode == 0, run.stderr
    assert server.requests[0].request_id == "from a file"


def test_the_server_may_come_from_the_environment(server: CannedServer, request_file: Path) -> None:
    run = shardwright("plan", request_file, SHARDWRIGHT_SERVER=server.target)
    assert run.returncode == 0, run.stderr


def test_requests_in_camel_case_are_read_too(server: CannedServer, tmp_path: Path) -> None:
    message = wire.plan_request_to_proto(PlanRequest(small_problem()))
    path = tmp_path / "camel.json"
    path.write_text(json_format.MessageToJson(message), encoding="utf-8-sig")
    assert "numEmbeddings" in path.read_text()
    run = shardwright("plan", path, "--server", server.target, "--json")
    assert run.returncode == 0, run.stderr
    assert wire.plan_request_from_proto(server.requests[0]).problem == small_problem()


def test_the_shipped_example_is_a_good_request() -> None:
    request = files.read_request(str(EXAMPLE))
    problem = request.problem
    assert len(problem.tables) == 26
    assert sum(t.num_embeddings for t in problem.tables) == 204_184_588
    assert sum(t.weight_bytes for t in problem.tables) == 104_542_509_056
    assert sum(t.pooling_factor for t in problem.tables) == 214
    assert {t.embedding_dim for t in problem.tables} == {128}
    assert problem.global_batch_size == 65_536
    assert problem.cluster.num_devices == problem.cluster.devices_per_host == 8
    assert problem.cluster.device_memory_bytes == 80 * 2**30


# --- evaluate and models --------------------------------------------------------------------------


def test_evaluate_takes_a_response_or_a_bare_plan(
    server: CannedServer, request_file: Path, tmp_path: Path
) -> None:
    response = tmp_path / "response.json"
    shardwright("plan", request_file, "--server", server.target, "-o", response)
    bare = tmp_path / "plan.json"
    bare.write_text(json.dumps(json.loads(response.read_text())["plan"]))
    for plan_file in (response, bare):
        run = shardwright("evaluate", request_file, plan_file, "--server", server.target)
        assert run.returncode == 0, run.stderr
        assert "9.00 ms per iteration" in run.stdout
        assert any_plan(small_problem()).fingerprint[:16] in run.stdout
        given = wire.evaluate_request_from_proto(server.requests[-1])
        assert given.plan == any_plan(small_problem())
        assert given.problem == small_problem()


def test_evaluate_prints_and_writes_json(
    server: CannedServer, request_file: Path, tmp_path: Path
) -> None:
    plan_file = tmp_path / "plan.json"
    plan_file.write_text(files.to_json(wire.plan_to_proto(any_plan(small_problem()))))
    target = tmp_path / "cost.json"
    run = shardwright(
        *("evaluate", request_file, "-", "--server", server.target, "--json", "-o", target),
        stdin=plan_file.read_text(),
    )
    assert json.loads(run.stdout)["cost_ms"] == 9.0
    assert target.read_text() == run.stdout


def test_models_lists_provenance_and_accuracy(server: CannedServer) -> None:
    run = shardwright("models", "--server", server.target, "--hardware", "test-gpu")
    assert run.returncode == 0, run.stderr
    assert server.requests[0].hardware == "test-gpu"
    for text in ("test-gpu", "2026.11.1", "(default)", "MODELLED", "10,000", "3.25", "0.987"):
        assert text in run.stdout
    assert "MEASURED" not in run.stdout


def test_models_as_json(server: CannedServer) -> None:
    run = shardwright("models", "--server", server.target, "--json")
    model = json.loads(run.stdout)["cost_models"][0]
    assert model["cost_model"]["source"] == "COST_MODEL_SOURCE_MODELLED"
    assert model["is_default"] is True


def test_no_models_is_said_in_words(server: CannedServer) -> None:
    server.handler = lambda request, context: service_pb2.ListCostModelsResponse()
    run = shardwright("models", "--server", server.target)
    assert run.returncode == 0
    assert "no such cost model" in run.stdout


# --- bad files ------------------------------------------------------------------------------------


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ('{"tables": [\n  {"name": "a",,}\n]}', "line 2, column 16"),
        ('{"tables": [', "not JSON"),
        ("[]", r"the file: must be an object \{\.\.\.\}, got a list"),
        ("3", "must be an object"),
        ('{"tabels": []}', "tabels: is no field of GetShardingPlanRequest; did you mean tables?"),
        ('{"zzz": []}', "zzz: is no field .* its fields are request_id, tables, cluster"),
        ('{"tables": [{"rows": 4}]}', r"tables\[0\]\.rows: is no field of Table"),
        ('{"tables": {"name": "a"}}', r"tables: must be a list \[\.\.\.\], got an object"),
        ('{"tables": [3]}', r"tables\[0\]: must be an object \{\.\.\.\}, got 3"),
        ('{"tables": [{"name": 3}]}', r"tables\[0\]\.name: must be a text, got 3"),
        (
            '{"tables": [{"num_embeddings": "many"}]}',
            r"tables\[0\]\.num_embeddings: must be a whole number of 64 bits, got 'many'",
        ),
        ('{"tables": [{"embedding_dim": 99999999999}]}', "embedding_dim: must be a whole number"),
        ('{"tables": [{"embedding_dim": 1.5}]}', "embedding_dim: must be a whole number"),
        ('{"tables": [{"pooling_factor": "NaN"}]}', "pooling_factor: must be .* got nan"),
        ('{"tables": [{"pooling_factor": 1e999}]}', "pooling_factor"),
        ('{"optimizer": "SGD"}', "optimizer: must be one of OPTIMIZER_SGD, .* got 'SGD'"),
        ('{"optimizer": 99}', "optimizer: must be one of OPTIMIZER_SGD, .* got 99"),
        ('{"options": {"time_budget": 5}}', 'time_budget: must be a duration such as "10s", got 5'),
        ('{"tables": [{"reuse_histogram": [1, "x"]}]}', r"reuse_histogram\[1\]: must be a number"),
        ('{"request_id": "a", "request_id": "b"}', "'request_id' stands twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"global_batch_size": ' + "9" * 5000 + "}", "digits"),
        ('{"request_id": "\\ud800"}', "request_id: must be a text"),
    ],
)
def test_a_bad_request_names_the_place(text: str, says: str, tmp_path: Path) -> None:
    path = write(tmp_path / "request.json", text)
    with pytest.raises(FileError) as caught:
        files.read_request(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert re.search(says, message), message


def test_standard_input_is_named_too() -> None:
    message = failed(shardwright("plan", "-", stdin='{"tables": [,]}'), 2)
    assert message == (
        "shardwright: standard input: is not JSON: Expecting value at line 1, column 13\n"
    )


def test_all_mistakes_of_a_file_are_named_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path / "r.json",
        json.dumps(
            {
                "tables": [
                    {"name": "a", "num_embeddings": 0, "embedding_dim": 6, "pooling_factor": 1},
                    {"name": "b", "num_embeddings": 10, "embedding_dim": 8, "pooling_factor": -1},
                ],
                "cluster": {"num_devices": 3, "devices_per_host": 2, "device_memory_bytes": 1},
            }
        ),
    )
    message = failed(shardwright("plan", path), 2)
    for field in (
        "tables[0].num_embeddings",
        "tables[0].embedding_dim",
        "tables[1].pooling_factor",
        "global_batch_size",
        "cluster.devices_per_host",
        "cluster.hardware",
        "optimizer",
    ):
        assert f"\n  {field}: " in message
    assert "7 things to change" in message


def test_very_many_mistakes_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "r.json", json.dumps({"tables": [{"x": 1}] * 500}))
    message = failed(shardwright("plan", path), 2)
    assert "500 things to change" in message and "... and 480 more" in message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "No such file" in failed(shardwright("plan", tmp_path / "missing.json"), 2)
    assert "cannot be read" in failed(shardwright("plan", tmp_path), 2)
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\x80\x81")
    assert "not UTF-8" in failed(shardwright("plan", binary), 2)


def test_bad_plans_name_the_place(tmp_path: Path, request_file: Path) -> None:
    empty = write(tmp_path / "empty.json", "{}")
    message = failed(shardwright("evaluate", request_file, empty), 2)
    assert "shards: must name at least one shard" in message
    response = write(tmp_path / "bad.json", '{"plan": {"shards": [{"table": "a", "device": -1}]}}')
    message = failed(shardwright("evaluate", request_file, response), 2)
    assert "plan.shards[0].device: must be" in message
    assert "plan.shards[0].num_columns: must be" in message


def test_only_one_file_can_be_standard_input() -> None:
    message = failed(shardwright("evaluate", "-", "-"), 2)
    assert "only one" in message


def test_the_output_folder_is_checked_before_the_server_is_asked(
    server: CannedServer, request_file: Path, tmp_path: Path
) -> None:
    arguments = ("plan", request_file, "--server", server.target, "-o")
    message = failed(shardwright(*arguments, tmp_path / "no/such/out.json"), 2)
    assert "there is no folder" in message
    assert "is a folder" in failed(shardwright(*arguments, tmp_path), 2)
    assert not server.requests


# --- server errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "exit_code", "says"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 2, "what the server says"),
        (grpc.StatusCode.NOT_FOUND, 2, "what the server says"),
        (grpc.StatusCode.FAILED_PRECONDITION, 3, "what the server says"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 4, "try again"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 4, "allow more time"),
        (grpc.StatusCode.INTERNAL, 4, "its log says more"),
        (grpc.StatusCode.UNIMPLEMENTED, 4, "not older than this client"),
        (grpc.StatusCode.UNAUTHENTICATED, 4, "credentials"),
    ],
)
def test_a_server_error_is_one_paragraph_and_an_exit_code(
    server: CannedServer, request_file: Path, code: grpc.StatusCode, exit_code: int, says: str
) -> None:
    server.fail(code, "what the server says")
    message = failed(shardwright("plan", request_file, "--server", server.target), exit_code)
    assert message.startswith("shardwright: ")
    assert "what the server says" in message and says in message
    assert message.count("\n") == 1


def test_violations_of_the_server_are_listed(server: CannedServer, request_file: Path) -> None:
    details = error_details_pb2.BadRequest()
    for i in range(5):
        details.field_violations.add(field=f"tables[{i}].name", description="must be other")
    server.fail(grpc.StatusCode.INVALID_ARGUMENT, "5 violations: ...; and 2 more", [details])
    message = failed(shardwright("plan", request_file, "--server", server.target), 2)
    assert all(f"\n  tables[{i}].name: must be other" in message for i in range(5))


def test_a_busy_server_says_when(server: CannedServer, request_file: Path) -> None:
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=7))
    server.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", [retry])
    message = failed(shardwright("plan", request_file, "--server", server.target), 4)
    assert "try again in 7 s" in message


def test_nobody_listening(request_file: Path) -> None:
    message = failed(shardwright("plan", request_file, "--server", "127.0.0.1:1"), 4)
    assert "no Shardwright server answers at 127.0.0.1:1" in message


def test_an_answer_in_time_or_none(server: CannedServer, request_file: Path) -> None:
    def wait(request: Any, context: grpc.ServicerContext) -> None:
        gone = threading.Event()
        context.add_callback(gone.set)
        gone.wait(30)

    server.handler = wait
    run = shardwright("plan", request_file, "--server", server.target, "--timeout", "0.3")
    assert "within 0.3 s" in failed(run, 4)


# --- the command line itself ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("plan",), "Missing argument"),
        (("plan", "x", "--timeout", "0"), "above 0"),
        (("plan", "x", "--timeout", "nan"), "above 0"),
        (("plan", "x", "--timeout", "soon"), "--timeout"),
        (("plan", "x", "--server", ""), "host:port"),
        (("plan", "x", "--colour"), "No such option"),
        (("paln",), "No such command"),
    ],
)
def test_bad_arguments_exit_with_2(arguments: tuple[str, ...], says: str) -> None:
    run = shardwright(*arguments, COLUMNS="200", NO_COLOR="1")
    assert says in failed(run, 2)


def test_help_and_version() -> None:
    for arguments in (
        ("--help",),
        ("plan", "--help"),
        ("evaluate", "--help"),
        ("models", "--help"),
    ):
        run = shardwright(*arguments)
        assert run.returncode == 0
        assert "Usage: shardwright" in run.stdout
    assert "Exit codes: 2 bad input, 3 no plan fits" in " ".join(
        shardwright("--help", COLUMNS="200").stdout.split()
    )
    assert shardwright("--version").stdout == "shardwright 0.1.0\n"


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_the_command_says_how_to_get_it(missing: str) -> None:
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.modules[{missing!r}] = None\n"
            "from shardwright_client.cli import main; main()",
        ],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr == (
        f"The shardwright command needs the package {missing!r}: "
        "pip install 'shardwright-client[cli]'\n"
    )


def test_the_package_runs_as_a_module() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "shardwright_client", "--version"], capture_output=True, text=True
    )
    assert run.stdout == "shardwright 0.1.0\n"
