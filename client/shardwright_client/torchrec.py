"""Plans to and from TorchRec; torch and torchrec are imported on the first call."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Literal, cast

from shardwright.domain import (
    BY_ROWS,
    Cluster,
    InvalidValueError,
    Optimizer,
    Shard,
    ShardingPlan,
    ShardingType,
)
from shardwright_client.errors import MissingDependencyError, PlanMismatchError
from shardwright_client.torchrec_checks import (
    check_mean_pooling,
    check_names,
    configs_of,
    sharding_types,
    some,
    warn_of_kernels,
    warn_of_rowwise_adagrad,
)

if TYPE_CHECKING:
    from torch import nn
    from torchrec.distributed.types import ParameterSharding
    from torchrec.distributed.types import ShardingPlan as TorchRecPlan
    from torchrec.modules.embedding_configs import EmbeddingBagConfig
    from torchrec.modules.embedding_modules import EmbeddingBagCollection

DeviceType = Literal["cpu", "cuda"]

_FUSED_KERNEL = "fused"
_DENSE_KERNEL = "dense"


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

    Data-parallel tables take TorchRec's dense kernel, which no fused optimizer trains, also not one
    given by `apply_optimizer_in_backward`: after each backward pass, step an optimizer of your own
    over their parameters, `sharded.named_parameters()` of the tables' names (client/README.md).

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
    configs = [c for collection in collections.values() for c in configs_of(collection)]
    check_names(plan, configs, collections, world_size)
    kinds = sharding_types(plan, configs, cluster)
    check_mean_pooling(collections, kinds)
    if any(kind is ShardingType.COLUMN_WISE for kind in kinds.values()):
        warn_of_rowwise_adagrad(collections, kinds, optimizer)
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
                    for config in configs_of(collection)
                }
            )
            for path, collection in collections.items()
        }
    )
    return torchrec_plan


def from_torchrec(torchrec_plan: TorchRecPlan, module: nn.Module) -> ShardingPlan:
    """Makes a Shardwright plan of anybody's TorchRec plan, so that a server can score it.

    Args:
        torchrec_plan: Of TorchRec's own planner, say.
        module: The unsharded model that the plan is for. Its `EmbeddingBagCollection`s are read;
            what the plan says of other modules is left out.

    Returns:
        Rank r as device r. Whether the shards are legal is the server's question, or
        `shardwright.domain.check_plan`'s.

    Warns:
        UserWarning: When a table has a compute kernel whose cost is not predicted (UVM, SSD).

    Raises:
        PlanMismatchError: When the plan lacks a table of the module.
        MissingDependencyError: When torchrec is not installed.
    """
    _import_torchrec_types()
    shards: list[Shard] = []
    kernels: dict[str, str] = {}
    missing: list[str] = []
    for path, collection in _embedding_bag_collections(module).items():
        planned = torchrec_plan.plan.get(path, {})
        for config in configs_of(collection):
            if config.name not in planned:
                missing.append(config.name)
                continue
            kernels[config.name] = planned[config.name].compute_kernel
            shards += _shards_of(planned[config.name], config)
    if missing:
        raise PlanMismatchError(
            [f"the TorchRec plan lacks table {some(missing)}; pass the module that it was made for"]
        )
    warn_of_kernels(kernels)
    return ShardingPlan(tuple(shards))


def _shards_of(sharding: ParameterSharding, config: EmbeddingBagConfig) -> list[Shard]:
    if sharding.sharding_type == ShardingType.DATA_PARALLEL.value:
        return [
            Shard(config.name, rank, 0, config.num_embeddings, 0, config.embedding_dim)
            for rank in sharding.ranks
        ]
    shards = []
    for metadata in sharding.sharding_spec.shards:
        (row, column), (height, width) = metadata.shard_offsets, metadata.shard_sizes
        shards.append(Shard(config.name, metadata.placement.rank(), row, height, column, width))
    return shards


def _import_torchrec_types() -> ModuleType:
    """The module `torchrec.distributed.types`; fbgemm's operators are loaded too."""
    try:
        import fbgemm_gpu  # noqa: F401  registers the operators that torchrec calls
        from torchrec.distributed import types
    except ImportError as error:
        raise MissingDependencyError(
            f"TorchRec plans need torch, torchrec and fbgemm-gpu, and {error.name or error} cannot "
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


def _parameter_sharding(
    shards: tuple[Shard, ...],
    kind: ShardingType,
    num_embeddings: int,
    local_world_size: int,
    device_type: DeviceType,
) -> ParameterSharding:
    from torch.distributed._shard.metadata import ShardMetadata
    from torchrec.distributed.types import EnumerableShardingSpec, ParameterSharding

    if kind is ShardingType.DATA_PARALLEL:
        return ParameterSharding(
            sharding_type=kind.value,
            compute_kernel=_DENSE_KERNEL,
            ranks=[shard.device for shard in shards],
        )
    by_rows = kind in BY_ROWS
    ordered = sorted(shards, key=lambda s: s.device if by_rows else s.column_offset)
    return ParameterSharding(
        sharding_type=kind.value,
        compute_kernel=_FUSED_KERNEL,
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
