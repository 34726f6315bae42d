"""A real Prometheus scrapes the real server and answers queries about it."""

import json
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator

import grpc
import pytest
from server_bundles import plan_request, publish_bundle
from server_harness import SERVICE_NAME, RunningServer, eventually, server_process

PROMETHEUS = shutil.which("prometheus")
PROMTOOL = shutil.which("promtool")

pytestmark = pytest.mark.skipif(
    PROMETHEUS is None, reason="no prometheus on PATH; apt-get install prometheus"
)

CONFIG = """
global:
  scrape_interval: 250ms
  scrape_timeout: 250ms
scrape_configs:
  - job_name: shardwright-server
    static_configs:
      - targets: ["127.0.0.1:{port}"]
"""


class Prometheus:
    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def query(self, expression: str) -> dict[str, float]:
        """Samples of an instant query by their labels, as JSON, the scrape's own left out."""
        parameters = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self._url}/api/v1/query?{parameters}", timeout=10) as answer:
            payload = json.load(answer)
        assert payload["status"] == "success"
        return {
            json.dumps(
                {k: v for k, v in r["metric"].items() if k not in ("job", "instance")},
                sort_keys=True,
            ): float(r["value"][1])
            for r in payload["data"]["result"]
        }

    def value(self, expression: str) -> float | None:
        """The only sample of an instant query, or None."""
        samples = self.query(expression)
        assert len(samples) <= 1, samples
        return next(iter(samples.values()), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("server")
    publish_bundle(root / "bundles", "test-gpu", "v1")
    with server_process(root / "log", "--bundles", str(root / "bundles")) as (_, running):
        yield running


@pytest.fixture(scope="module")
def prometheus(
    server: RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    root = tmp_path_factory.mktemp("prometheus")
    (root / "prometheus.yml").write_text(CONFIG.format(port=server.metrics_port))
    port = free_port()
    with (root / "log").open("w") as log:
        process = subprocess.Popen(
            [
                str(PROMETHEUS),
                f"--config.file={root / 'prometheus.yml'}",
                f"--storage.tsdb.path={root / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        prometheus = Prometheus(port)
        eventually(prometheus.ready, lambda: (root / "log").read_text())
        eventually(lambda: prometheus.value("up") == 1, lambda: (root / "log").read_text())
        yield prometheus
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def best_ratio(server: RunningServer) -> float:
    """What is asked of the server once: 4 plans, 2 refusals; the cost ratio of the plans."""
    for _ in range(4):
        response = server.plan(plan_request(num_tables=7))
    for hardware in ("abacus", ""):
        with pytest.raises(grpc.RpcError):
            server.plan(plan_request(hardware=hardware))
    return response.cost_ms / min(b.cost_ms for b in response.baselines if b.feasible)


def test_rpcs_can_be_queried_by_method_and_code(prometheus: Prometheus, best_ratio: float) -> None:
    which = f'grpc_type="unary", grpc_service="{SERVICE_NAME}", grpc_method="GetShardingPlan"'
    handled = f"sum by (grpc_code) (grpc_server_handled_total{{{which}}}) > 0"
    eventually(
        lambda: (
            prometheus.query(handled)
            == {
                '{"grpc_code": "OK"}': 4,
                '{"grpc_code": "NotFound"}': 1,
                '{"grpc_code": "InvalidArgument"}': 1,
            }
        ),
        lambda: str(prometheus.query(handled)),
    )
    assert prometheus.value(f"grpc_server_started_total{{{which}}}") == 6


def test_a_quantile_of_handling_seconds_can_be_queried(
    prometheus: Prometheus, best_ratio: float
) -> None:
    expression = (
        "histogram_quantile(0.99, sum by (le) "
        '(grpc_server_handling_seconds_bucket{grpc_method="GetShardingPlan"}))'
    )
    eventually(lambda: 0 < (prometheus.value(expression) or 0) <= 300)


def test_search_seconds_can_be_queried_by_outcome(
    prometheus: Prometheus, best_ratio: float
) -> None:
    eventually(
        lambda: (
            prometheus.query("shardwright_search_seconds_count")
            == {
                json.dumps(
                    {
                        "__name__": "shardwright_search_seconds_count",
                        "hardware": "test-gpu",
                        "outcome": "completed",
                    }
                ): 4
            }
        )
    )


def test_the_mean_cost_against_the_best_baseline_can_be_queried(
    prometheus: Prometheus, best_ratio: float
) -> None:
    mean = "shardwright_plan_cost_ratio_sum / shardwright_plan_cost_ratio_count"
    eventually(
        lambda: (
            prometheus.value("shardwright_plan_cost_ratio_count") == 4
            and prometheus.value(mean) == pytest.approx(best_ratio)
        )
    )


def test_bundles_can_be_queried(prometheus: Prometheus) -> None:
    (labels,) = prometheus.query("shardwright_bundle_info == 1")
    assert json.loads(labels) == {
        "__name__": "shardwright_bundle_info",
        "hardware": "test-gpu",
        "name": "linear",
        "source": "modelled",
        "version": "v1",
    }


def test_the_exposition_follows_prometheus_conventions(server: RunningServer) -> None:
    assert PROMTOOL is not None, "promtool comes with prometheus"
    checked = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=server.scrape(), capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
