"""Decoding: bytes that would blow up are counted before anything is decoded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server_bundles import plan_request

from shardwright.domain import InvalidValueError
from shardwright.v1 import plan_pb2, problem_pb2
from shardwright.v1 import sharding_plan_service_pb2 as service_pb2
from shardwright_server.decoding import MAX_PARTS, count_parts, decode

PLAN = service_pb2.GetShardingPlanRequest
EVALUATE = service_pb2.EvaluateShardingPlanRequest


def evaluate_request(tables: int, shards: int, overrides: int) -> EVALUATE:
    return EVALUATE(
        request_id="x" * 300,
        tables=[problem_pb2.Table(reuse_histogram=[1.0] * 17, feature_names=["f"])] * tables,
        cluster=problem_pb2.Cluster(
            num_devices=2**31 - 1,
            device_memory_overrides=[problem_pb2.DeviceMemoryOverride(device=1)] * overrides,
        ),
        plan=plan_pb2.ShardingPlan(shards=[plan_pb2.Shard(table="t")] * shards),
        cost_model=problem_pb2.CostModelSelector(version="v"),
    )


@given(*[st.integers(0, 300)] * 3)
def test_parts_are_counted_wherever_they_are(tables: int, shards: int, overrides: int) -> None:
    data = evaluate_request(tables, shards, overrides).SerializeToString()
    assert count_parts(data, EVALUATE.DESCRIPTOR, most=10_000) == tables + shards + overrides


@given(st.binary(max_size=200))
def test_counting_survives_any_bytes(data: bytes) -> None:
    assert 0 <= count_parts(data, EVALUATE.DESCRIPTOR, most=100) <= len(data)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (PLAN, b"\x12\x00" * (MAX_PARTS + 1)),
        (PLAN, b"\x1a\x86\xa4\xe8\x03" + b"\x32\x00" * 4_000_003),
        (EVALUATE, b"\x32\x86\xa4\xe8\x03" + b"\x0a\x00" * 4_000_003),
        # an unknown group, an unknown number and unknown fixed-width fields do not hide them
        (PLAN, b"\x7b\x7c\x78\x01\x79" + bytes(8) + b"\x7d" + bytes(4) + b"\x12\x00" * 2_000_000),
    ],
    ids=["tables", "overrides", "shards", "behind unknown fields"],
)
def test_a_message_of_too_many_parts_is_refused(kind: type, data: bytes) -> None:
    with pytest.raises(InvalidValueError, match="more than 1200000 tables, shards and overrides"):
        decode(kind, data)


def test_a_message_of_as_many_parts_as_allowed_is_decoded() -> None:
    data = plan_request().SerializeToString() + b"\x32\x04" + b"\x08\x01" * 2 + b"\x12\x00" * 20
    assert len(decode(PLAN, data).tables) == 24
    assert len(decode(PLAN, b"\x12\x00" * MAX_PARTS + b"\x0a\x04name").tables) == MAX_PARTS
