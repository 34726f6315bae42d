"""The real command: flags, variables, exit codes, log lines, draining."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from server_bundles import plan_request, publish_bundle
from server_harness import (
    COMMAND,
    LOOPBACK,
    SERVICE_NAME,
    ServerProcess,
    eventually,
    server_process,
)

from shardwright.v1 import sharding_plan_service_pb2 as service_pb2


def run(*flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(COMMAND), *flags],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | variables,
    )


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_help_shows_every_setting() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    for flag in (
        *("--bundles", "--host", "--port", "--metrics-port", "--planner-threads", "--max-queued"),
        *("--max-search-seconds", "--max-tables", "--max-devices", "--max-message-mib"),
        *("--grace-seconds", "--log-format", "--refresh-seconds"),
    ):
        assert flag in shown.stdout


@pytest.mark.parametrize(
    ("flags", "variables", "told"),
    [
        (("--port", "70000"), {}, "--port (or SHARDWRIGHT_PORT)"),
        (("--port", "http"), {}, "got 'http'"),
        (("--planner-threads", "0"), {}, "--planner-threads (or SHARDWRIGHT_PLANNER_THREADS)"),
        ((), {"SHARDWRIGHT_LOG_FORMAT": "xml"}, "--log-format (or SHARDWRIGHT_LOG_FORMAT)"),
        (("--prot", "1"), {}, "--help lists the flags"),
        (("extra",), {}, "extra"),
        (("--port",), {}, "--port"),
    ],
)
def test_bad_settings_are_told_in_one_line_with_status_2(
    flags: tuple[str, ...], variables: dict[str, str], told: str
) -> None:
    refused = run(*flags, **variables)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert line.startswith("shardwright-server: ") and told in line
    assert refused.stdout == ""


def test_all_bad_settings_are_told_at_once() -> None:
    refused = run("--port", "70000", "--max-queued", "-1")
    assert "--port" in refused.stderr and "--max-queued" in refused.stderr


def test_a_grpc_port_in_use_is_told_in_one_line_with_status_2(
    bundles: Path, taken_port: int
) -> None:
    flags = ("--host", "127.0.0.1", "--metrics-port", "0", "--bundles", str(bundles))
    refused = run(*flags, "--port", str(taken_port))
    assert refused.returncode == 2
    told = refused.stderr.splitlines()[-1]
    assert told.startswith(f"shardwright-server: cannot listen on 127.0.0.1:{taken_port} for gRPC")
    assert "Traceback" not in refused.stderr


def test_a_metrics_port_in_use_is_told_in_one_line_with_status_2(
    bundles: Path, taken_port: int
) -> None:
    flags = ("--host", "127.0.0.1", "--port", "0", "--bundles", str(bundles))
    refused = run(*flags, "--metrics-port", str(taken_port))
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert line.startswith(
        f"shardwright-server: cannot listen on 127.0.0.1:{taken_port} for metrics"
    )


def test_no_readable_bundle_is_told_in_one_line_with_status_2(tmp_path: Path) -> None:
    refused = run(*LOOPBACK, "--bundles", str(tmp_path / "nowhere"))
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert f"no readable bundle under {tmp_path / 'nowhere'}" in line


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_an_idle_server_with_status_0(
    bundles: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    with server_process(tmp_path / "log", "--bundles", str(bundles)) as (process, server):
        assert server.plan(plan_request()).cost_ms > 0
        assert process.stop(stop) == 0
        assert process.wait_for("stopped")["drained"] is True


def test_the_serving_line_names_the_ports_that_were_picked(bundles: Path, tmp_path: Path) -> None:
    with server_process(tmp_path / "log", "--bundles", str(bundles)) as (process, server):
        line = next(
            line for line in (tmp_path / "log").read_text().splitlines() if "serving" in line
        )
        assert line.startswith('{"event": "serving", "host": "127.0.0.1", "port": ')
        assert server.port > 0 and server.metrics_port > 0
        assert "grpc_server_started_total" in server.scrape()
        assert process.stop() == 0


def test_console_lines_can_be_read_by_people_and_scripts(bundles: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    flags = ("--bundles", str(bundles), "--log-format", "console")
    process = ServerProcess(log, *flags)
    try:
        eventually(lambda: "serving" in log.read_text())
        *_, line = log.read_text().splitlines()  # on a slow machine it tells of compiling first
        assert re.search(r"serving .*metrics_port=\d+ port=\d+$", line)
        assert process.stop() == 0
    finally:
        process.process.kill()


def test_each_rpc_is_one_line_with_id_method_code_and_seconds(
    bundles: Path, tmp_path: Path
) -> None:
    with server_process(tmp_path / "log", "--bundles", str(bundles)) as (process, server):
        server.plan(plan_request(request_id="first"))
        bad = plan_request(request_id="second\n{}")
        bad.tables[0].embedding_dim = 66
        with pytest.raises(grpc.RpcError):
            server.plan(bad)
        server.stub.ListCostModels(service_pb2.ListCostModelsRequest(), timeout=60)
        health_pb2_grpc.HealthStub(server.channel).Check(health_pb2.HealthCheckRequest())
        assert process.stop() == 0
        rpcs = [event for event in process.events() if event["event"] == "rpc"]
    assert [(e.get("request_id"), e["method"], e["code"]) for e in rpcs] == [
        ("first", f"/{SERVICE_NAME}/GetShardingPlan", "OK"),
        ("second\n{}", f"/{SERVICE_NAME}/GetShardingPlan", "INVALID_ARGUMENT"),
        (None, f"/{SERVICE_NAME}/ListCostModels", "OK"),
    ]
    assert all(e["seconds"] > 0 for e in rpcs)


def long_request() -> service_pb2.GetShardingPlanRequest:
    """A search of many levels, wide enough to be still running when a signal comes."""
    request = plan_request(num_tables=120)
    for table in request.tables:
        table.embedding_dim = 512
    request.cluster.num_devices = 64
    request.cluster.devices_per_host = 8
    request.options.max_column_splits = 1000
    request.options.beam_width = 10
    return request


def test_a_signal_lets_the_rpc_in_flight_finish_and_refuses_new_ones(
    bundles: Path, tmp_path: Path
) -> None:
    flags = ("--bundles", str(bundles), "--max-search-seconds", "6", "--grace-seconds", "60")
    with server_process(tmp_path / "log", *flags) as (process, server):
        watch = health_pb2_grpc.HealthStub(server.channel).Watch(
            health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        )
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        search = server.stub.GetShardingPlan.future(long_request())
        while server.metric("shardwright_searches_running") == 0:
            assert not search.done()
        process.process.send_signal(signal.SIGTERM)
        assert [w.status for w in watch] == [health_pb2.HealthCheckResponse.NOT_SERVING]
        process.wait_for("draining")
        newcomer = grpc.insecure_channel(f"127.0.0.1:{server.port}")
        with pytest.raises(grpc.RpcError) as caught:
            newcomer.unary_unary(f"/{SERVICE_NAME}/ListCostModels")(b"", timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert search.result(timeout=60).cost_ms > 0
        assert process.process.wait(timeout=60) == 0


def test_a_search_longer_than_the_grace_time_does_not_hold_up_the_exit(
    bundles: Path, tmp_path: Path
) -> None:
    flags = ("--bundles", str(bundles), "--grace-seconds", "0")
    with server_process(tmp_path / "log", *flags) as (process, server):
        search = server.stub.GetShardingPlan.future(long_request())
        while server.metric("shardwright_searches_running") == 0:
            assert not search.done()
        assert process.stop() == 0
        assert search.exception(timeout=60) is not None
        assert process.wait_for("stopped")["drained"] is False


def test_a_damaged_bundle_is_named_in_the_log_and_the_others_serve(
    bundles: Path, tmp_path: Path
) -> None:
    root = tmp_path / "bundles"
    publish_bundle(root, "test-gpu", "v1")
    bad = publish_bundle(root, "bad-gpu", "v1")
    (bad / "backward_comm.onnx").write_bytes(b"junk")
    with server_process(tmp_path / "log", "--bundles", str(root)) as (process, server):
        event = process.wait_for("bundle left out")
        assert "backward_comm.onnx" in event["fault"] and "damaged" in event["fault"]
        assert server.plan(plan_request()).cost_ms > 0
        with pytest.raises(grpc.RpcError) as caught:
            server.plan(plan_request(hardware="bad-gpu"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert process.stop() == 0


def test_settings_come_from_the_environment_and_flags_win(bundles: Path, tmp_path: Path) -> None:
    refused = run(*LOOPBACK, SHARDWRIGHT_BUNDLES=str(tmp_path))
    assert f"no readable bundle under {tmp_path}" in refused.stderr
    refused = run(*LOOPBACK, "--bundles", str(tmp_path / "flag"), SHARDWRIGHT_BUNDLES=str(bundles))
    assert f"no readable bundle under {tmp_path / 'flag'}" in refused.stderr
