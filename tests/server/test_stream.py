"""StreamShardingPlan: each better plan as soon as it is found, the answer last."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from server_bundles import make_bundle, plan_request
from server_harness import RunningServer, eventually, serving

from shardwright.domain import check_plan
from shardwright.v1 import plan_pb2, problem_pb2
from shardwright.v1 import sharding_plan_service_pb2 as service_pb2
from shardwright.wire import plan_from_proto, plan_request_from_proto
from shardwright_costmodel.features import FloatArray
from shardwright_costmodel.runtime import OnnxCostModel
from shardwright_server.model_store import ModelStore
from shardwright_server.outbox import MAX_UNSENT, Outbox

ALGORITHMS = (problem_pb2.ALGORITHM_NEUROSHARD, problem_pb2.ALGORITHM_LOCAL_SEARCH)
RPC = {
    "grpc_type": "server_stream",
    "grpc_service": "shardwright.v1.ShardingPlanService",
    "grpc_method": "StreamShardingPlan",
}

Request = service_pb2.GetShardingPlanRequest
Response = service_pb2.GetShardingPlanResponse


def uneven_request(algorithm: int = 0) -> Request:
    """Tables so different that the first plan is not the best."""
    request = plan_request(num_tables=24)
    for i, table in enumerate(request.tables):
        table.embedding_dim = 4 * (1 + (7 * i) % 32)
        table.pooling_factor = 1.0 + (5 * i) % 11
    request.cluster.num_devices = request.cluster.devices_per_host = 4
    request.options.algorithm = algorithm
    return request


def timeless(response: Response) -> Response:
    same = Response()
    same.CopyFrom(response)
    same.search.ClearField("duration")
    return same


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_plans_get_better_and_the_last_is_the_answer(server: RunningServer, algorithm: int) -> None:
    request = uneven_request(algorithm)
    responses = list(server.stub.StreamShardingPlan(request, timeout=60))
    *improvements, last = responses
    assert len(improvements) > 1
    assert all(after.cost_ms < before.cost_ms for before, after in pairwise(improvements))
    assert improvements[-1].plan == last.plan
    answer = server.plan(request)
    assert timeless(last) == timeless(answer), "the numbers of predictions, too"
    problem = plan_request_from_proto(request).problem
    for response in responses:
        check_plan(plan_from_proto(response.plan), problem)
        assert response.baselines == answer.baselines
        assert 0 < response.lower_bound_ms == answer.lower_bound_ms <= response.cost_ms
        assert response.gap == response.cost_ms / response.lower_bound_ms - 1
        assert response.request_id == "r-1"
    assert {r.search.stopped_by for r in improvements} == {plan_pb2.STOPPED_BY_UNSPECIFIED}
    assert last.search.stopped_by == plan_pb2.STOPPED_BY_COMPLETED


def test_a_stream_counts_as_one_rpc_and_one_search(server: RunningServer) -> None:
    search = {"hardware": "test-gpu", "outcome": "completed"}
    server.plan(uneven_request())
    before = server.metric("shardwright_search_seconds_count", **search)
    gaps = server.metric("shardwright_plan_gap_count", hardware="test-gpu")
    handled = server.metric("grpc_server_handled_total", **RPC, grpc_code="OK")
    list(server.stub.StreamShardingPlan(uneven_request(), timeout=60))
    eventually(
        lambda: server.metric("grpc_server_handled_total", **RPC, grpc_code="OK") == handled + 1
    )
    assert server.metric("shardwright_search_seconds_count", **search) == before + 1
    assert server.metric("shardwright_plan_gap_count", hardware="test-gpu") == gaps + 1


def test_mistakes_are_told_as_everywhere(server: RunningServer) -> None:
    request = uneven_request()
    request.tables[3].embedding_dim = 66
    request.optimizer = problem_pb2.OPTIMIZER_UNSPECIFIED
    with pytest.raises(grpc.RpcError) as caught:
        list(server.stub.StreamShardingPlan(request, timeout=60))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    status = rpc_status.from_call(caught.value)
    details = error_details_pb2.BadRequest()
    assert status is not None and status.details[0].Unpack(details)
    fields = [violation.field for violation in details.field_violations]
    assert fields == ["tables[3].embedding_dim", "optimizer"]


@pytest.mark.parametrize(
    ("hardware", "memory_bytes", "code"),
    [
        ("abacus", 1 << 30, grpc.StatusCode.NOT_FOUND),
        ("test-gpu", 1000, grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
def test_a_stream_without_a_plan_ends_with_its_status(
    server: RunningServer, hardware: str, memory_bytes: int, code: grpc.StatusCode
) -> None:
    request = plan_request(hardware=hardware)
    request.cluster.device_memory_bytes = memory_bytes
    with pytest.raises(grpc.RpcError) as caught:
        list(server.stub.StreamShardingPlan(request, timeout=60))
    assert caught.value.code() is code


class SteppedCostModel(OnnxCostModel):
    """A real cost model that answers the search as often as it is allowed to.

    Attributes:
        steps: Predictions of whole devices that may be made.
        calls: Those that were.
        open: Once set, all may be made.
    """

    def __init__(self) -> None:
        super().__init__(make_bundle("test-gpu", "v1"))
        self.steps = threading.Semaphore(0)
        self.open = threading.Event()
        self.calls = 0

    def compute_ms(self, encodings: FloatArray) -> FloatArray:
        while not self.open.is_set() and not self.steps.acquire(timeout=0.02):
            pass
        self.calls += 1
        return super().compute_ms(encodings)


@contextmanager
def stepped_server(*flags: str) -> Iterator[tuple[RunningServer, SteppedCostModel]]:
    model = SteppedCostModel()
    with serving(None, *flags, models=ModelStore([model])) as server:
        try:
            yield server, model
        finally:
            model.open.set()


def first_improvement(stream: Iterator[Response], model: SteppedCostModel) -> Response:
    """Lets the search go on until it has found a plan, and no further than must be."""
    arrived: list[Response] = []
    reader = threading.Thread(target=lambda: arrived.append(next(stream)))
    reader.start()

    def step() -> bool:
        model.steps.release()
        return bool(arrived)

    eventually(step)
    reader.join()
    return arrived[0]


def test_an_improvement_travels_while_the_search_goes_on() -> None:
    with stepped_server("--planner-threads", "1") as (server, model):
        stream = server.stub.StreamShardingPlan(uneven_request(), timeout=60)
        first = first_improvement(stream, model)
        assert server.metric("shardwright_searches_running") == 1
        model.open.set()
        *_, last = stream
        assert last.cost_ms < first.cost_ms


def test_a_client_that_leaves_ends_the_search_and_frees_its_place() -> None:
    request = uneven_request()
    with stepped_server("--planner-threads", "1") as (server, model):
        model.open.set()
        server.plan(request)
        calls_to_the_end, model.calls = model.calls, 0
        model.open.clear()
        stream = server.stub.StreamShardingPlan(request, timeout=60)
        first_improvement(stream, model)
        stream.cancel()
        eventually(
            lambda: server.metric("grpc_server_handled_total", **RPC, grpc_code="Canceled") == 1
        )
        model.open.set()
        eventually(lambda: server.metric("shardwright_searches_running") == 0)
        assert model.calls < calls_to_the_end
        assert server.plan(request).cost_ms > 0


def test_a_client_that_leaves_the_queue_frees_its_place() -> None:
    with stepped_server("--planner-threads", "1", "--max-queued", "1") as (server, model):
        running = server.stub.StreamShardingPlan(uneven_request(), timeout=60)
        eventually(lambda: server.metric("shardwright_searches_running") == 1)
        waiting = server.stub.StreamShardingPlan(uneven_request(), timeout=60)
        eventually(lambda: server.metric("shardwright_searches_queued") == 1)
        with pytest.raises(grpc.RpcError) as caught:
            next(server.stub.StreamShardingPlan(uneven_request(), timeout=60))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        waiting.cancel()
        eventually(lambda: server.metric("shardwright_searches_queued") == 0)
        model.open.set()
        assert list(running)[-1].cost_ms > 0


def test_time_that_is_up_ends_a_stream_with_the_best_plan(server: RunningServer) -> None:
    request = uneven_request()
    request.options.time_budget.FromNanoseconds(1)
    *_, last = server.stub.StreamShardingPlan(request, timeout=60)
    assert last.search.stopped_by == plan_pb2.STOPPED_BY_TIME_BUDGET
    assert last.cost_ms >= server.plan(uneven_request()).cost_ms


def test_a_slow_reader_misses_the_oldest_improvements_only() -> None:
    async def scenario() -> list[bytes]:
        outbox = Outbox(asyncio.get_running_loop())
        messages = [bytes([i]) for i in range(MAX_UNSENT + 3)]
        await asyncio.to_thread(lambda: [outbox.put(message) for message in messages])
        outbox.close()
        taken = []
        while (message := await outbox.get()) is not None:
            taken.append(message)
        assert taken == messages[3:]
        return taken

    assert len(asyncio.run(scenario())) == MAX_UNSENT
