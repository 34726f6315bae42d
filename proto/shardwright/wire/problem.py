"""Tables, clusters and search options."""

from __future__ import annotations

from collections.abc import Iterable

from shardwright.domain import (
    Cluster,
    EmbeddingTable,
    PoolingMode,
    SearchOptions,
    ShardingType,
    TableConstraints,
    WeightDtype,
)
from shardwright.v1 import problem_pb2
from shardwright.wire.codecs import (
    ALGORITHMS,
    DTYPES,
    POOLING_MODES,
    SHARDING_TYPES,
    Reader,
    duration_of,
    seconds_of,
)


def table_to_proto(table: EmbeddingTable) -> problem_pb2.Table:
    """Encodes a table."""
    message = problem_pb2.Table(
        name=table.name,
        num_embeddings=table.num_embeddings,
        embedding_dim=table.embedding_dim,
        pooling_factor=table.pooling_factor,
        reuse_histogram=table.reuse_histogram or (),
        weight_dtype=DTYPES.encode(table.weight_dtype),  # type: ignore[arg-type]
        feature_names=table.feature_names,
        pooling_mode=POOLING_MODES.encode(table.pooling_mode),  # type: ignore[arg-type]
    )
    if table.constraints != TableConstraints():
        message.constraints.CopyFrom(_constraints_to_proto(table.constraints))
    return message


def _constraints_to_proto(constraints: TableConstraints) -> problem_pb2.TableConstraints:
    return problem_pb2.TableConstraints(
        min_column_width=constraints.min_column_width,
        sharding_types=map(SHARDING_TYPES.encode, constraints.sharding_types),  # type: ignore[arg-type]
        devices=constraints.devices,
        excluded_devices=constraints.excluded_devices,
        colocation_group=constraints.colocation_group,
    )


def _constraints_from_proto(message: problem_pb2.TableConstraints) -> TableConstraints:
    return TableConstraints(
        min_column_width=message.min_column_width or TableConstraints().min_column_width,
        sharding_types=_sharding_types_from_proto(message.sharding_types),
        devices=tuple(message.devices),
        excluded_devices=tuple(message.excluded_devices),
        colocation_group=message.colocation_group,
    )


def _sharding_types_from_proto(numbers: Iterable[int]) -> tuple[ShardingType, ...]:
    return tuple(SHARDING_TYPES.decode(number, "sharding_types") for number in numbers)


def table_from_proto(message: problem_pb2.Table) -> EmbeddingTable:
    """Decodes a table.

    Raises:
        InvalidValueError: With every violation in it.
    """
    reader = Reader()
    dtype = reader.build(
        "", lambda: DTYPES.decode(message.weight_dtype, "weight_dtype", WeightDtype.FP32)
    )
    pooling_mode = reader.build(
        "", lambda: POOLING_MODES.decode(message.pooling_mode, "pooling_mode", PoolingMode.SUM)
    )
    constraints = reader.build(
        "constraints",
        lambda: _constraints_from_proto(message.constraints),
    )
    table = reader.build(
        "",
        lambda: EmbeddingTable(
            name=message.name,
            num_embeddings=message.num_embeddings,
            embedding_dim=message.embedding_dim,
            pooling_factor=message.pooling_factor,
            reuse_histogram=tuple(message.reuse_histogram) or None,
            weight_dtype=dtype or WeightDtype.FP32,
            feature_names=tuple(message.feature_names),
            constraints=constraints or TableConstraints(),
            pooling_mode=pooling_mode or PoolingMode.SUM,
        ),
    )
    reader.checks.raise_if_any()
    assert table is not None
    return table


def cluster_to_proto(cluster: Cluster) -> problem_pb2.Cluster:
    """Encodes a cluster."""
    return problem_pb2.Cluster(
        num_devices=cluster.num_devices,
        devices_per_host=cluster.devices_per_host,
        hardware=cluster.hardware,
        device_memory_bytes=cluster.device_memory_bytes,
        reserved_memory_bytes=cluster.reserved_memory_bytes,
        device_memory_overrides=[
            problem_pb2.DeviceMemoryOverride(device=device, memory_bytes=memory_bytes)
            for device, memory_bytes in cluster.device_memory_overrides
        ],
    )


def cluster_from_proto(message: problem_pb2.Cluster) -> Cluster:
    """Decodes a cluster.

    Raises:
        InvalidValueError: With every violation in it.
    """
    return Cluster(
        num_devices=message.num_devices,
        devices_per_host=message.devices_per_host,
        hardware=message.hardware,
        device_memory_bytes=message.device_memory_bytes,
        reserved_memory_bytes=message.reserved_memory_bytes,
        device_memory_overrides=tuple(
            (o.device, o.memory_bytes) for o in message.device_memory_overrides
        ),
    )


def options_to_proto(options: SearchOptions) -> problem_pb2.SearchOptions:
    """Encodes search options."""
    message = problem_pb2.SearchOptions(
        max_column_splits=options.max_column_splits,
        beam_width=options.beam_width,
        candidates=options.candidates,
        grid_steps=options.grid_steps,
        algorithm=ALGORITHMS.encode(options.algorithm),  # type: ignore[arg-type]
        seed=options.seed,
        sharding_types=map(SHARDING_TYPES.encode, options.sharding_types),  # type: ignore[arg-type]
    )
    if options.time_budget_s is not None:
        message.time_budget.CopyFrom(duration_of(options.time_budget_s))
    return message


def options_from_proto(message: problem_pb2.SearchOptions) -> SearchOptions:
    """Decodes search options; absent ones take their defaults.

    Raises:
        InvalidValueError: With every violation in it.
    """
    reader = Reader()
    defaults = SearchOptions()
    algorithm = reader.build(
        "", lambda: ALGORITHMS.decode(message.algorithm, "algorithm", defaults.algorithm)
    )
    numbers = {
        name: getattr(message, name)
        for name in ("max_column_splits", "beam_width", "candidates", "grid_steps")
        if message.HasField(name)
    }
    sharding_types = reader.build("", lambda: _sharding_types_from_proto(message.sharding_types))
    budget = message.time_budget if message.HasField("time_budget") else None
    options = reader.build(
        "",
        lambda: SearchOptions(
            **numbers,
            time_budget_s=None if budget is None else seconds_of(budget),
            algorithm=algorithm or defaults.algorithm,
            seed=message.seed,
            sharding_types=sharding_types or defaults.sharding_types,
        ),
    )
    reader.checks.raise_if_any()
    assert options is not None
    return options
