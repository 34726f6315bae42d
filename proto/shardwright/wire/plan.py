"""Plans."""

from __future__ import annotations

from shardwright.domain import Shard, ShardingPlan
from shardwright.v1 import plan_pb2
from shardwright.wire.codecs import Reader


def plan_to_proto(plan: ShardingPlan) -> plan_pb2.ShardingPlan:
    """Encodes a plan, with its fingerprint."""
    return plan_pb2.ShardingPlan(
        shards=[
            plan_pb2.Shard(
                table=s.table,
                device=s.device,
                row_offset=s.row_offset,
                num_rows=s.num_rows,
                column_offset=s.column_offset,
                num_columns=s.num_columns,
            )
            for s in plan.shards
        ],
        fingerprint=plan.fingerprint,
    )


def plan_from_proto(message: plan_pb2.ShardingPlan) -> ShardingPlan:
    """Decodes a plan; its fingerprint is computed anew.

    Raises:
        InvalidValueError: With every bad shard.
    """
    reader = Reader()
    shards = [
        reader.build(
            f"shards[{i}]",
            lambda s=s: Shard(  # type: ignore[misc]
                s.table, s.device, s.row_offset, s.num_rows, s.column_offset, s.num_columns
            ),
        )
        for i, s in enumerate(message.shards)
    ]
    reader.checks.require(bool(shards), "shards", "must name at least one shard, got none")
    reader.checks.raise_if_any()
    return ShardingPlan(tuple(shard for shard in shards if shard is not None))
