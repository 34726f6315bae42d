"""Cost models: which one it is, and what is known of it."""

from __future__ import annotations

from datetime import timezone

from google.protobuf.timestamp_pb2 import Timestamp

from shardwright.domain import CostModelAccuracy, CostModelDescription, CostModelId
from shardwright.v1 import plan_pb2
from shardwright.wire.codecs import SOURCES


def cost_model_to_proto(cost_model: CostModelId) -> plan_pb2.CostModel:
    """Encodes a cost model's identity."""
    return plan_pb2.CostModel(
        name=cost_model.name,
        version=cost_model.version,
        hardware=cost_model.hardware,
        source=SOURCES.encode(cost_model.source),  # type: ignore[arg-type]
    )


def cost_model_from_proto(message: plan_pb2.CostModel) -> CostModelId:
    """Decodes a cost model's identity.

    Raises:
        InvalidValueError: When the source is unknown.
    """
    source = SOURCES.decode(message.source, "source")
    return CostModelId(message.name, message.version, message.hardware, source)


def description_to_proto(description: CostModelDescription) -> plan_pb2.CostModelDescription:
    """Encodes a cost model's description."""
    create_time = Timestamp()
    create_time.FromDatetime(description.create_time)
    return plan_pb2.CostModelDescription(
        cost_model=cost_model_to_proto(description.cost_model),
        create_time=create_time,
        num_compute_measurements=description.num_compute_measurements,
        num_comm_measurements=description.num_comm_measurements,
        accuracy=[
            plan_pb2.CostModelAccuracy(
                quantity=a.quantity,
                mape_percent=a.mape_percent,
                kendall_tau=a.kendall_tau,
                num_measurements=a.num_measurements,
            )
            for a in description.accuracy
        ],
        software=description.software,
        is_default=description.is_default,
    )


def description_from_proto(message: plan_pb2.CostModelDescription) -> CostModelDescription:
    """Decodes a cost model's description.

    Raises:
        InvalidValueError: When the source is unknown.
    """
    return CostModelDescription(
        cost_model=cost_model_from_proto(message.cost_model),
        create_time=message.create_time.ToDatetime(tzinfo=timezone.utc),
        num_compute_measurements=message.num_compute_measurements,
        num_comm_measurements=message.num_comm_measurements,
        accuracy=tuple(
            CostModelAccuracy(a.quantity, a.mape_percent, a.kendall_tau, a.num_measurements)
            for a in message.accuracy
        ),
        software=dict(message.software),
        is_default=message.is_default,
    )
