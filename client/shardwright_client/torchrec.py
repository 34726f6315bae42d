"""From a Shardwright plan to a TorchRec plan; torch and torchrec are imported on the first call."""

from __future__ import annotations

import warnings
from collections import Counter
from types import ModuleType
from typing import TYPE_CHECKING, Literal, cast

from shardwright.domain import (
    Cluster,
    EmbeddingTable,
    IllegalPlanError,
    InvalidValueError,
    Optimizer,
    Shard,
    ShardingPlan,
    ShardingType,
    sharding_type,
)
from shardwright_client.errors import MissingDependencyError, PlanMismatchError

if TYPE_CHECKING:
    from torch import nn
    from torchrec.distributed.types import ParameterSharding
    from torchrec.distributed.types import ShardingPlan as TorchRecPlan
    from torchrec.modules.embedding_configs import EmbeddingBagConfig
    from torchrec.modules.embedding_modules import EmbeddingBagCollection

DeviceType = Literal["cpu", "cuda"]

_COMPUTE_KERNEL = "fused"


def to_torchrec(
    plan: ShardingPlan,
    module: nn.Module,
    *,
    world_size: int,
    local_world_size: int | None = None,
    device_type: DeviceType = "cuda",
    optimizer: Optimizer | None = None,
) -> TorchRecPlan:
    """Makes the plan that `DistributedModelParallel(module, plan=...)` takes.

    Tables are matched by name over all `EmbeddingBagCollection`s in `module`; every table of the
    plan must be in exactly one of them and every table of theirs in the plan. Device d of the
    plan is rank d. Other embedding modules stay as they are.

    Args:
        plan: The plan of a server, or one's own.
        module: The unsharded model, on any device (`meta` too), as it goes into
            `DistributedModelParallel`: TorchRec finds modules by their path in it.
        world_size: Ranks of the job.
        local_world_size: Ranks of each host; None: all ranks are on one host.
        device_type: `cpu` or `cuda`.
        optimizer: Optimizer of the embeddings, for a warning about the one pair that trains
            differently than unsharded; None: as found on the module's parameters.

    Warns:
        UserWarning: When a table is cut in columns under rowwise Adagrad.

    Raises:
        PlanMismatchError: Naming everything that does not fit.
        MissingDependencyError: When torchrec is not installed.
        ValueError: On a world size or device type that makes no sense.
    """
    local_world_size = world_size if local_world_size is None else local_world_size
    if device_type not in ("cpu", "cuda"):
        raise ValueError(f"device_type must be 'cpu' or 'cuda', got {device_type!r}")
    cluster = _job_cluster(world_size, local_world_size)
    types = _import_torchrec_types()
    collections = _embedding_bag_collections(module)
    configs = [c for collection in collections.values() for c in _configs(collection)]
    _check_names(plan, configs, collections, world_size)
    kinds = _sharding_types(plan, configs, cluster)
    if any(kind is ShardingType.COLUMN_WISE for kind in kinds.values()):
        _warn_of_rowwise_adagrad(collections, kinds, optimizer)
    torchrec_plan: TorchRecPlan = types.ShardingPlan(
        plan={
            path: types.EmbeddingModuleShardingPlan(
                {
                    config.name: _parameter_sharding(
                        plan.by_table[config.name],
                        kinds[config.name],
                        config.num_embeddings,
                        local_world_size,
                        device_type,
                    )
                    for config in _configs(collection)
                }
            )
            for path, collection in collections.items()
        }
    )
    return torchrec_plan


def _import_torchrec_types() -> ModuleType:
    """The module `torchrec.distributed.types`; importing it loads fbgemm's operators."""
    try:
        import torchrec  # noqa: F401  loads the operators
        from torchrec.distributed import types
    except ImportError as error:
        raise MissingDependencyError(
            f"to_torchrec needs torch, torchrec and fbgemm-gpu, and {error.name or error} cannot "
            f"be imported; install versions that fit one another (client/README.md)"
        ) from error
    return cast(ModuleType, types)


def _job_cluster(world_size: int, local_world_size: int) -> Cluster:
    """The ranks as a cluster; hardware and memory play no part here."""
    try:
        return Cluster(world_size, local_world_size, hardware="any", device_memory_bytes=1)
    except InvalidValueError as error:
        names = {"num_devices": "world_size", "devices_per_host": "local_world_size"}
        text = str(error)
        for field, argument in names.items():
            text = text.replace(field, argument)
        raise ValueError(text) from error


def _embedding_bag_collections(module: nn.Module) -> dict[str, EmbeddingBagCollection]:
    """The collections by their path in the module; the module itself has the path ''."""
    from torchrec.modules.embedding_modules import EmbeddingBagCollection

    return {
        path: child
        for path, child in module.named_modules()
        if isinstance(child, EmbeddingBagCollection)
    }


def _configs(collection: EmbeddingBagCollection) -> list[EmbeddingBagConfig]:
    configs: list[EmbeddingBagConfig] = collection.embedding_bag_configs()
    return configs


def _check_names(
    plan: ShardingPlan,
    configs: list[EmbeddingBagConfig],
    collections: dict[str, EmbeddingBagCollection],
    world_size: int,
) -> None:
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
                f"the module has no table {_some(missing)}; it has {_some(list(count))}. Name the "
                f"tables of the request as the EmbeddingBagConfigs are named"
            )
    unplanned = [name for name in count if name not in plan.by_table]
    if unplanned:
        problems.append(
            f"the plan lacks table {_some(unplanned)} of the module; TorchRec would leave it "
            f"unsharded. Ask for a plan of all tables"
        )
    repeated = [name for name, times in count.items() if times > 1]
    if repeated:
        problems.append(
            f"the module has table {_some(repeated)} in more than one EmbeddingBagCollection; "
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


def _some(names: list[str]) -> str:
    """At most five names, for a message."""
    shown = ", ".join(map(repr, names[:5]))
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def _sharding_types(
    plan: ShardingPlan, configs: list[EmbeddingBagConfig], cluster: Cluster
) -> dict[str, ShardingType]:
    """How each table is cut, checked against the module's real shapes."""
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


def _parameter_sharding(
    shards: tuple[Shard, ...],
    kind: ShardingType,
    num_embeddings: int,
    local_world_size: int,
    device_type: DeviceType,
) -> ParameterSharding:
    from torch.distributed._shard.metadata import ShardMetadata
    from torchrec.distributed.types import EnumerableShardingSpec, ParameterSharding

    by_rows = kind in (ShardingType.ROW_WISE, ShardingType.TABLE_ROW_WISE)
    ordered = sorted(shards, key=lambda s: s.device if by_rows else s.column_offset)
    return ParameterSharding(
        sharding_type=kind.value,
        compute_kernel=_COMPUTE_KERNEL,
        ranks=[shard.device for shard in ordered],
        sharding_spec=EnumerableShardingSpec(
            [
                ShardMetadata(
                    # an empty row shard begins where the table ends, whatever the plan says
                    shard_offsets=[
                        shard.row_offset if shard.num_rows else num_embeddings,
                        shard.column_offset,
                    ],
                    shard_sizes=[shard.num_rows, shard.num_columns],
                    placement=_placement(shard.device, local_world_size, device_type),
                )
                for shard in ordered
            ]
        ),
    )


def _placement(rank: int, local_world_size: int, device_type: DeviceType) -> str:
    """TorchRec's name of a rank's device; CUDA devices count from 0 on every host."""
    device = "cpu" if device_type == "cpu" else f"cuda:{rank % local_world_size}"
    return f"rank:{rank}/{device}"


def _warn_of_rowwise_adagrad(
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
            f"table {_some(cut)} is cut in columns under rowwise Adagrad: each slice keeps its own "
            f"state per row, so training differs slightly from the unsharded table",
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
