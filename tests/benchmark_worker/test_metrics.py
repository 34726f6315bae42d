"""Real workers, scraped as Prometheus scrapes them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from shardwright_benchmark_worker.metrics import WorkerMetrics
from shardwright_benchmark_worker.recorder import Recording
from shardwright_costmodel.dataset import Kind

from .conftest import RunWorker
from .fleet_processes import ON_CPU, environment, events, eventually, worker_process

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
needs_prometheus = pytest.mark.skipif(
    PROMETHEUS is None, reason="no prometheus on PATH; apt-get install prometheus"
)
CONFIG = """
global: {{scrape_interval: 250ms, scrape_timeout: 250ms}}
scrape_configs:
  - job_name: worker
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def forever(out: Path) -> tuple[str, ...]:
    sizes = ("--samples", "1000000", "--part-size", "10", "--metrics-port", "0")
    return ("compute", *ON_CPU, "--out", str(out), *sizes)


def port_of(log: Path) -> int:
    eventually(lambda: any("port" in event for event in events(log)), log)
    return next(int(event["port"]) for event in events(log) if "port" in event)


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def ask(port: int, expression: str) -> float | None:
    query = urllib.parse.urlencode({"query": expression})
    url = f"http://127.0.0.1:{port}/api/v1/query?{query}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            samples = json.load(answer)["data"]["result"]
    except OSError:
        return None
    return float(samples[0]["value"][1]) if samples else None


@needs_prometheus
def test_a_real_prometheus_scrapes_a_worker(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with worker_process(*forever(tmp_path / "out"), log=log):
        port = port_of(log)
        (tmp_path / "prometheus.yml").write_text(CONFIG.format(port=port))
        listen = 20_000 + port % 10_000
        with subprocess.Popen(
            [
                str(PROMETHEUS),
                f"--config.file={tmp_path / 'prometheus.yml'}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address=127.0.0.1:{listen}",
            ],
            stderr=subprocess.DEVNULL,
        ) as prometheus:
            try:
                parts = "shardwright_worker_parts_written_total"
                eventually(lambda: (ask(listen, parts) or 0) >= 2, log)
                count = ask(listen, "shardwright_worker_measurement_seconds_count") or 0
                assert count >= 20
                measuring = "shardwright_worker_measurement_seconds_sum"
                share = ask(listen, f"{measuring} / on() shardwright_worker_running_seconds") or 0
                assert 0 < share <= 1
                info = 'shardwright_worker_hardware_info{hardware="this-cpu",source="measured"}'
                assert ask(listen, info) == 1
                assert ask(listen, 'shardwright_worker_failures_total{reason="infeasible"}') == 0
                todo = ask(listen, "shardwright_worker_samples_todo") or 0
                assert todo + count == pytest.approx(1_000_000, abs=1000)
            finally:
                prometheus.kill()
        checked = subprocess.run(
            [str(PROMTOOL), "check", "metrics"], input=scrape(port), capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_rank_0_serves_the_metrics_of_a_torchrun_job(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "shardwright_benchmark_worker", "comm", "--device", "cpu", "--hardware", "x"),
        *("--out", str(tmp_path / "out"), "--samples", "1000000", "--part-size", "10"),
        *("--max-batch-size", "512", "--max-skew-ms", "0", "--metrics-port", "0"),
        *("--repetitions", "2", "--max-repetitions", "2", "--max-drift-percent", "1000"),
    ]
    with (
        log.open("wb") as stderr,
        subprocess.Popen(command, env=environment(), stderr=stderr) as job,
    ):
        try:
            port = port_of(log)
            name = 'shardwright_worker_measurement_seconds_count{kind="comm"}'

            def measured() -> float:
                lines = [line for line in scrape(port).splitlines() if line.startswith(name)]
                return float(lines[0].split()[-1]) if lines else 0.0

            eventually(lambda: measured() > 0, log)
            assert len([event for event in events(log) if "port" in event]) == 1
            # SIGTERM, as Kubernetes sends it: all ranks are gone within seconds
            began_s = time.monotonic()
            job.terminate()
            assert job.wait(timeout=60) != 0
            assert time.monotonic() - began_s < 20
        finally:
            job.kill()
    assert "Traceback" not in "".join(
        line for line in log.read_text().splitlines() if "shardwright" in line
    )


def test_a_port_in_use_is_a_mistake(worker: RunWorker, tmp_path: Path) -> None:
    port = WorkerMetrics().serve(0)
    command = ("compute", *ON_CPU, "--out", str(tmp_path), "--samples", "1")
    done = worker(*command, "--metrics-port", str(port))
    assert done.returncode == 2
    assert f"error: --metrics-port {port} cannot be opened" in done.stderr


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(
        out_url=str(tmp_path),
        kind=Kind.COMPUTE,
        hardware="x",
        source="measured",
        seed=0,
        start_index=0,
        num_samples=20,
        part_size=10,
    )


def test_what_went_wrong_is_counted_by_reason(recording: Recording) -> None:
    metrics = WorkerMetrics()
    value: Callable[..., float | None] = metrics.registry.get_sample_value
    metrics.started(recording, recording.parts())
    metrics.measured(recording, {"feasible": False}, 0.2)
    metrics.measured(recording, {"forward_ms": 1.0}, 0.3)
    metrics.written(recording, range(10), {"drifted": "3", "rows": "10"})
    metrics.ended(recording, OSError("gone"))
    failures = "shardwright_worker_failures_total"
    assert value(failures, {"kind": "compute", "reason": "infeasible"}) == 1
    assert value(failures, {"kind": "compute", "reason": "OSError"}) == 1
    kind = {"kind": "compute"}
    assert value("shardwright_worker_drifted_measurements_total", kind) == 3
    assert value("shardwright_worker_measurement_seconds_sum", kind) == pytest.approx(0.5)
    assert value("shardwright_worker_samples_todo", kind) == 18
