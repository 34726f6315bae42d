"""Whether a plan and a module fit one another, and what TorchRec would silently get wrong."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import TYPE_CHECKING

from shardwright.domain import (
    BY_ROWS,
    Cluster,
    EmbeddingTable,
    IllegalPlanError,
    InvalidValueError,
    Optimizer,
    ShardingPlan,
    ShardingType,
    sharding_type,
)
from shardwright_client.errors import PlanMismatchError

if TYPE_CHECKING:
    from torchrec.modules.embedding_configs import EmbeddingBagConfig
    from torchrec.modules.embedding_modules import EmbeddingBagCollection


def configs_of(collection: EmbeddingBagCollection) -> list[EmbeddingBagConfig]:
    """The tables of a collection."""
    configs: list[EmbeddingBagConfig] = collection.embedding_bag_configs()
    return configs


def check_names(
    plan: ShardingPlan,
    configs: list[EmbeddingBagConfig],
    collections: dict[str, EmbeddingBagCollection],
    world_size: int,
) -> None:
    """Holds the plan's tables and devices against the module's and the job's.

    Raises:
        PlanMismatchError: Naming every table that one side lacks, and more.
    """
    problems = []
    if not collections:
        problems.append(
            "the module holds no EmbeddingBagCollection; pass the unsharded model that goes into "
            "DistributedModelParallel"
        )
    count = Counter(config.name for config in configs)
    if collections:
        missing = [name for name in plan.by_table if name not in count]
        if missing:
            problems.append(
                f"the module has no table {some(missing)}; it has {some(list(count))}. Name the "
                f"tables of the request as the EmbeddingBagConfigs are named"
            )
    unplanned = [name for name in count if name not in plan.by_table]
    if unplanned:
        problems.append(
            f"the plan lacks table {some(unplanned)} of the module; TorchRec would leave it "
            f"unsharded. Ask for a plan of all tables"
        )
    repeated = [name for name, times in count.items() if times > 1]
    if repeated:
        problems.append(
            f"the module has table {some(repeated)} in more than one EmbeddingBagCollection; "
            f"names must be unique"
        )
    num_devices = 1 + max((shard.device for shard in plan.shards), default=0)
    if num_devices > world_size:
        problems.append(
            f"the plan uses {num_devices} devices and the job has world_size {world_size}; ask "
            f"for a plan with cluster.num_devices = {world_size}"
        )
    if problems:
        raise PlanMismatchError(problems)


def some(names: list[str]) -> str:
    """At most five names, for a message."""
    shown = ", ".join(map(repr, names[:5]))
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def sharding_types(
    plan: ShardingPlan, configs: list[EmbeddingBagConfig], cluster: Cluster
) -> dict[str, ShardingType]:
    """How each table is cut, checked against the module's real shapes.

    Raises:
        PlanMismatchError: Naming every table that TorchRec could not run, or would run wrongly.
    """
    kinds: dict[str, ShardingType] = {}
    problems = []
    for config in configs:
        try:
            table = EmbeddingTable(
                config.name, config.num_embeddings, config.embedding_dim, pooling_factor=1.0
            )
            kinds[config.name] = sharding_type(table, plan.by_table[config.name], cluster)
        except IllegalPlanError as error:
            problems += [f"table {config.name!r} ({_shape(config)}): {v}" for v in error.violations]
        except InvalidValueError as error:
            problems += [f"table {config.name!r} of the module: {v}" for v in error.violations]
    if problems:
        raise PlanMismatchError(problems)
    return kinds


def _shape(config: EmbeddingBagConfig) -> str:
    return f"{config.num_embeddings} x {config.embedding_dim} in the module"


def check_mean_pooling(
    collections: dict[str, EmbeddingBagCollection], kinds: dict[str, ShardingType]
) -> None:
    """Refuses a mixture that TorchRec 1.8 computes wrongly without a word.

    Where a table with mean pooling is cut in rows, it divides the output of the whole collection
    by the lengths of the bags and leaves out tables with sum pooling cut in rows only
    (`_create_mean_pooling_divisor`): every table that is not cut in rows comes out too small.

    Raises:
        PlanMismatchError: Naming the tables.
    """
    from torchrec.modules.embedding_configs import PoolingType

    problems = []
    for path, collection in collections.items():
        tables = configs_of(collection)
        rows = [
            c.name for c in tables if c.pooling is PoolingType.MEAN and kinds[c.name] in BY_ROWS
        ]
        others = [c.name for c in tables if kinds[c.name] not in BY_ROWS]
        if rows and others:
            problems.append(
                f"collection {path!r} has table {some(rows)} with mean pooling cut in rows beside "
                f"table {some(others)} not cut in rows, which TorchRec computes wrongly; move the "
                f"mean-pooled tables to an EmbeddingBagCollection of their own"
            )
    if problems:
        raise PlanMismatchError(problems)


def warn_of_rowwise_adagrad(
    collections: dict[str, EmbeddingBagCollection],
    kinds: dict[str, ShardingType],
    optimizer: Optimizer | None,
) -> None:
    """Warns of tables cut in columns whose optimizer keeps one state per row of each slice."""
    cut = [name for name, kind in kinds.items() if kind is ShardingType.COLUMN_WISE]
    if optimizer is None:
        cut = [name for name in cut if _is_rowwise_adagrad(collections, name)]
    elif optimizer is not Optimizer.ROWWISE_ADAGRAD:
        cut = []
    if cut:
        warnings.warn(
            f"table {some(cut)} is cut in columns under rowwise Adagrad: each slice keeps its own "
            f"state per row, so training differs slightly from the unsharded table",
            stacklevel=3,
        )


def warn_of_kernels(kernels: dict[str, str]) -> None:
    """Warns of tables whose compute kernel does not keep them in device memory."""
    others = [name for name, kernel in kernels.items() if kernel not in ("fused", "dense")]
    if others:
        found = sorted({kernels[name] for name in others})
        warnings.warn(
            f"table {some(others)} has compute kernel {', '.join(found)}; costs are predicted as "
            f"if all weights lay in device memory",
            stacklevel=3,
        )


def _is_rowwise_adagrad(collections: dict[str, EmbeddingBagCollection], name: str) -> bool:
    """Whether `apply_optimizer_in_backward` gave the table's weight a rowwise Adagrad."""
    for collection in collections.values():
        if name in collection.embedding_bags:
            weight = collection.embedding_bags[name].weight
            classes = getattr(weight, "_optimizer_classes", ())
            return any(kind.__name__.lower() == "rowwiseadagrad" for kind in classes)
    return False
