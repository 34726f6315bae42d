"""Domain values and messages: round trips, and every mistake of a message in one error."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import domain_strategies as draw
import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st
from problems import fields, problem, table, whole

from shardwright import wire
from shardwright.domain import (
    Algorithm,
    EvaluateRequest,
    InvalidValueError,
    PlanRequest,
    SearchOptions,
    ShardingPlan,
    WeightDtype,
)
from shardwright.v1 import plan_pb2, problem_pb2
from shardwright.v1 import sharding_plan_service_pb2 as service_pb2
from shardwright.wire.results import _baseline_from_proto

PAIRS: dict[str, st.SearchStrategy[Any]] = {
    "table": draw.tables,
    "cluster": draw.clusters(),
    "options": draw.options,
    "plan_request": draw.plan_requests,
    "evaluate_request": draw.evaluate_requests,
    "plan": draw.plans,
    "cost_model": draw.cost_model_ids,
    "plan_result": draw.plan_results,
    "evaluation_result": draw.evaluation_results,
    "description": draw.descriptions,
}


def test_every_pair_of_the_wire_is_tested_here() -> None:
    public = {name for name, _ in inspect.getmembers(wire, inspect.isfunction) if name[0] != "_"}
    pairs = {name for name in public if name.endswith(("_to_proto", "_from_proto"))}
    assert pairs == {f"{pair}{way}" for pair in PAIRS for way in ("_to_proto", "_from_proto")}


@pytest.mark.parametrize("pair", PAIRS)
@given(data=st.data())
def test_a_value_survives_bytes_and_json(pair: str, data: st.DataObject) -> None:
    value = data.draw(PAIRS[pair])
    encode = getattr(wire, f"{pair}_to_proto")
    decode = getattr(wire, f"{pair}_from_proto")
    message = encode(value)
    kind = type(message)
    assert decode(kind.FromString(message.SerializeToString())) == value
    text = json_format.MessageToJson(message, preserving_proto_field_name=True)
    assert decode(json_format.Parse(text, kind())) == value


# --- what is absent -------------------------------------------------------------------------------


def test_absent_options_take_the_defaults() -> None:
    assert wire.options_from_proto(problem_pb2.SearchOptions()) == SearchOptions()


def test_options_of_zero_are_not_absent() -> None:
    assert wire.options_from_proto(problem_pb2.SearchOptions(max_column_splits=0)) == SearchOptions(
        max_column_splits=0
    )
    with pytest.raises(InvalidValueError) as caught:
        wire.options_from_proto(problem_pb2.SearchOptions(beam_width=0, grid_steps=0))
    assert fields(caught.value) == ["beam_width", "grid_steps"]
    with pytest.raises(InvalidValueError) as caught:
        wire.options_from_proto(problem_pb2.SearchOptions(time_budget=Duration()))
    assert fields(caught.value) == ["time_budget"]


def test_an_absent_dtype_is_fp32_and_an_absent_algorithm_local_search() -> None:
    message = wire.table_to_proto(table())
    message.ClearField("weight_dtype")
    assert wire.table_from_proto(message).weight_dtype is WeightDtype.FP32
    assert wire.options_from_proto(problem_pb2.SearchOptions()).algorithm is Algorithm.LOCAL_SEARCH


def test_the_optimizer_is_never_guessed() -> None:
    message = wire.plan_request_to_proto(PlanRequest(problem()))
    message.ClearField("optimizer")
    with pytest.raises(InvalidValueError, match="OPTIMIZER_SGD, .*got nothing") as caught:
        wire.plan_request_from_proto(message)
    assert fields(caught.value) == ["optimizer"]


def test_a_baseline_without_cost_is_infeasible() -> None:
    message = service_pb2.GetShardingPlanResponse()
    message.baselines.add(name="dim", cost_ms=0.0, feasible=True)
    message.baselines.add(name="size", feasible=False)
    free, infeasible = map(_baseline_from_proto, message.baselines)
    assert free.feasible and free.cost_ms == 0.0
    assert not infeasible.feasible


# --- what is wrong --------------------------------------------------------------------------------


def good_request() -> service_pb2.GetShardingPlanRequest:
    return wire.plan_request_to_proto(PlanRequest(problem(table("a"), table("b"), table("c"))))


Change = Callable[[Any], None]


def assign(path: str, value: Any) -> Change:
    """Sets `a.b[2].c` of a message."""

    def change(message: Any) -> None:
        *parents, last = path.replace("[", ".").replace("]", "").split(".")
        for name in parents:
            message = message[int(name)] if name.isdigit() else getattr(message, name)
        setattr(message, last, value)

    return change


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("tables[1].name", ""),
        ("tables[1].num_embeddings", 0),
        ("tables[1].num_embeddings", -5),
        ("tables[1].num_embeddings", 2**63 - 1),
        ("tables[2].embedding_dim", 6),
        ("tables[2].embedding_dim", -4),
        ("tables[0].pooling_factor", math.nan),
        ("tables[0].pooling_factor", math.inf),
        ("tables[0].pooling_factor", -math.inf),
        ("tables[0].pooling_factor", 0.0),
        ("tables[0].pooling_factor", 1e300),
        ("tables[0].weight_dtype", 77),
        ("tables[0].constraints.min_column_width", 6),
        ("cluster.num_devices", 0),
        ("cluster.num_devices", 2**31 - 1),
        ("cluster.devices_per_host", 3),
        ("cluster.hardware", ""),
        ("cluster.device_memory_bytes", -1),
        ("cluster.reserved_memory_bytes", 2**40),
        ("global_batch_size", 0),
        ("global_batch_size", 2**63 - 1),
        ("optimizer", 77),
        ("options.beam_width", 0),
        ("options.candidates", 2**31 - 1),
        ("options.algorithm", 77),
        ("request_id", "x" * 129),
    ],
)
def test_a_bad_field_is_named_by_its_path(path: str, value: Any) -> None:
    message = good_request()
    assign(path, value)(message)
    with pytest.raises(InvalidValueError) as caught:
        wire.plan_request_from_proto(message)
    # 2**31 devices are too many, and not divided by devices_per_host either
    assert fields(caught.value)[0] == path


@pytest.mark.parametrize(
    "histogram",
    [
        [1.0] * 16,
        [1.0] * 18,
        [math.nan] * 17,
        [-1.0] * 17,
        [0.0] * 17,
        [1e308] * 17,
        [math.inf] * 17,
    ],
)
def test_a_bad_histogram_is_named(histogram: list[float]) -> None:
    message = good_request()
    message.tables[1].reuse_histogram.extend(histogram)
    with pytest.raises(InvalidValueError) as caught:
        wire.plan_request_from_proto(message)
    assert set(fields(caught.value)) == {"tables[1].reuse_histogram"}


def test_every_mistake_of_a_request_comes_in_one_error() -> None:
    message = good_request()
    expected = []
    for path, value in [
        ("request_id", "x" * 129),
        ("tables[0].num_embeddings", 0),
        ("tables[0].pooling_factor", math.nan),
        ("tables[2].weight_dtype", 9),
        ("tables[2].constraints.min_column_width", 6),
        ("tables[2].embedding_dim", 3),
        ("global_batch_size", -1),
        ("cluster.devices_per_host", 3),
        ("cluster.hardware", ""),
        ("optimizer", 0),
        ("options.algorithm", 5),
        ("options.grid_steps", 0),
    ]:
        assign(path, value)(message)
        expected.append(path)
    with pytest.raises(InvalidValueError) as caught:
        wire.plan_request_from_proto(message)
    assert sorted(fields(caught.value)) == sorted(expected)


def test_duplicate_names_are_seen_beside_other_mistakes() -> None:
    message = good_request()
    message.tables[1].name = "a"
    message.tables[2].num_embeddings = 0
    with pytest.raises(InvalidValueError, match="must be unique, got 'a'") as caught:
        wire.plan_request_from_proto(message)
    assert "tables[2].num_embeddings" in fields(caught.value)


def test_the_batch_is_checked_though_every_table_is_wrong() -> None:
    message = good_request()
    for bad in message.tables:
        bad.num_embeddings = 0
    message.global_batch_size = 0
    with pytest.raises(InvalidValueError) as caught:
        wire.plan_request_from_proto(message)
    assert "global_batch_size" in fields(caught.value)


def test_an_empty_request_says_all_that_it_needs() -> None:
    with pytest.raises(InvalidValueError) as caught:
        wire.plan_request_from_proto(service_pb2.GetShardingPlanRequest())
    assert set(fields(caught.value)) == {
        "tables",
        "global_batch_size",
        "cluster.num_devices",
        "cluster.devices_per_host",
        "cluster.hardware",
        "cluster.device_memory_bytes",
        "optimizer",
    }


def test_an_evaluation_names_problem_and_plan() -> None:
    plan = ShardingPlan((whole(table("a")), whole(table("b"))))
    message = wire.evaluate_request_to_proto(EvaluateRequest(problem(table("a"), table("b")), plan))
    message.global_batch_size = 0
    message.plan.shards[1].device = -1
    message.plan.shards[1].num_columns = 0
    with pytest.raises(InvalidValueError) as caught:
        wire.evaluate_request_from_proto(message)
    assert fields(caught.value) == [
        "global_batch_size",
        "plan.shards[1].device",
        "plan.shards[1].num_columns",
    ]


def test_a_plan_needs_shards() -> None:
    with pytest.raises(InvalidValueError, match="at least one shard"):
        wire.plan_from_proto(plan_pb2.ShardingPlan())


def test_the_fingerprint_of_a_message_is_not_believed() -> None:
    message = wire.plan_to_proto(ShardingPlan((whole(table()),)))
    honest = message.fingerprint
    message.fingerprint = "f" * 64
    assert wire.plan_from_proto(message).fingerprint == honest


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("cost_model.source", 0),
        ("cost_model.source", 77),
        ("search.stopped_by", 77),
        ("search.algorithm", 0),
        ("search.algorithm", 77),
    ],
)
@given(result=draw.plan_results)
def test_an_answer_with_an_unknown_number_is_refused(path: str, number: int, result: Any) -> None:
    message = wire.plan_result_to_proto(result)
    assign(path, number)(message)
    with pytest.raises(InvalidValueError) as caught:
        wire.plan_result_from_proto(message)
    assert fields(caught.value)[0].split(".")[-1] == path.split(".")[-1]


@given(st.binary(max_size=200))
def test_any_message_either_decodes_or_names_what_is_wrong(data: bytes) -> None:
    from google.protobuf.message import DecodeError

    for kind, decode in (
        (service_pb2.GetShardingPlanRequest, wire.plan_request_from_proto),
        (service_pb2.EvaluateShardingPlanRequest, wire.evaluate_request_from_proto),
    ):
        try:
            message = kind.FromString(data)
        except DecodeError:
            continue
        with pytest.raises(InvalidValueError):
            decode(message)  # type: ignore[operator]
