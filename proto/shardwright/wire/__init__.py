"""Translation between domain types and protobuf; the only package that knows both.

Every pair `x_to_proto` / `x_from_proto` is a round trip. Reading a request collects every
violation, by field path, before it raises: a user sees all mistakes in one answer.
"""

from shardwright.wire.cost_models import (
    cost_model_from_proto,
    cost_model_to_proto,
    description_from_proto,
    description_to_proto,
)
from shardwright.wire.plan import plan_from_proto, plan_to_proto
from shardwright.wire.problem import (
    cluster_from_proto,
    cluster_to_proto,
    options_from_proto,
    options_to_proto,
    table_from_proto,
    table_to_proto,
)
from shardwright.wire.requests import (
    MAX_REQUEST_ID_LENGTH,
    evaluate_request_from_proto,
    evaluate_request_to_proto,
    plan_request_from_proto,
    plan_request_to_proto,
)
from shardwright.wire.results import (
    evaluation_result_from_proto,
    evaluation_result_to_proto,
    plan_result_from_proto,
    plan_result_to_proto,
)

__all__ = [
    "MAX_REQUEST_ID_LENGTH",
    "cluster_from_proto",
    "cluster_to_proto",
    "cost_model_from_proto",
    "cost_model_to_proto",
    "description_from_proto",
    "description_to_proto",
    "evaluate_request_from_proto",
    "evaluate_request_to_proto",
    "evaluation_result_from_proto",
    "evaluation_result_to_proto",
    "options_from_proto",
    "options_to_proto",
    "plan_from_proto",
    "plan_request_from_proto",
    "plan_request_to_proto",
    "plan_result_from_proto",
    "plan_result_to_proto",
    "plan_to_proto",
    "table_from_proto",
    "table_to_proto",
]
