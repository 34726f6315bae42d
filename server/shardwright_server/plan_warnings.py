"""Warnings: what a user should know before trusting a plan and its numbers."""

from __future__ import annotations

from shardwright.domain import (
    BY_ROWS,
    CostModelId,
    CostModelSource,
    Optimizer,
    PoolingMode,
    ShardingProblem,
    ShardingType,
)

_NAMES_SHOWN = 3


def provenance_warnings(cost_model: CostModelId) -> list[str]:
    """Says that costs are modelled, if they are."""
    if cost_model.source is not CostModelSource.MODELLED:
        return []
    return [
        f"costs are MODELLED: cost model {cost_model.version} of {cost_model.hardware} was "
        "trained on an analytic model of the hardware, not on measurements; measure your own to be "
        "sure of the milliseconds"
    ]


def type_warnings(types: dict[str, ShardingType], problem: ShardingProblem) -> list[str]:
    """Says what the ways in which tables are cut mean for training and for the numbers."""
    warnings = []
    cut = [name for name, kind in types.items() if kind is ShardingType.COLUMN_WISE]
    if cut and problem.optimizer is Optimizer.ROWWISE_ADAGRAD:
        warnings.append(
            f"{_tables(cut)} cut in columns: with rowwise Adagrad each column shard keeps row "
            "state of its own, so training differs slightly from the uncut table"
        )
    cut = [name for name, kind in types.items() if kind in BY_ROWS]
    if cut:
        warnings.append(
            f"{_tables(cut)} cut in rows: costed as if lookups spread evenly over the row shards, "
            "and partial sums of full width travelled in the all-to-all; a table whose hot rows "
            "lie together loads their shard more"
        )
    means = {t.name for t in problem.tables if t.pooling_mode is PoolingMode.MEAN}
    wrong = [name for name in cut if name in means]
    if wrong:
        warnings.append(
            f"{_tables(wrong)} mean-pooled and cut in rows: TorchRec 1.8 then computes tables of "
            "the same collection that are not cut in rows wrongly; no plan of this server does that"
        )
    copied = [name for name, kind in types.items() if kind is ShardingType.DATA_PARALLEL]
    if copied:
        warnings.append(
            f"{_tables(copied)} copied to every device: the fused optimizer does not train copies, "
            "so give their dense parameters an optimizer step of their own; backward_comm_ms "
            "holds the all-reduce of their gradients"
        )
    return warnings


def _tables(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_NAMES_SHOWN])
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"table {shown} is" if len(names) == 1 else f"tables {shown}{more} are"
