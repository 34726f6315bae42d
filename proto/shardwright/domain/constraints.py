"""Constraints against the rest of a problem, and plans against constraints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from shardwright.domain.errors import Checks, IllegalPlanError, Violation
from shardwright.domain.options import SearchOptions
from shardwright.domain.plan import ShardingPlan, sharding_type
from shardwright.domain.problem import ShardingProblem
from shardwright.domain.sharding_type import BY_ROWS, ShardingType
from shardwright.domain.table import EmbeddingTable, PoolingMode
from shardwright.domain.topology import Cluster


def allowed_sharding_types(
    table: EmbeddingTable, options: SearchOptions, cluster: Cluster
) -> tuple[ShardingType, ...]:
    """Ways to cut a table for a job: its constraints', else the options'.

    A table of a colocation group stays whole; one with mean pooling is not cut in rows; no cut in
    rows leaves a device without any. TorchRec makes such empty shards, but where the last table of
    a rank is one, the backward pass of fbgemm 1.8 on CPUs reads behind its tables.
    """
    if table.constraints.colocation_group:
        return (ShardingType.TABLE_WISE,)
    types = table.constraints.sharding_types or options.sharding_types
    may_cut_rows = table.pooling_mode is not PoolingMode.MEAN
    everywhere = may_cut_rows and _each_gets_a_row(table.num_embeddings, cluster.num_devices)
    on_host = may_cut_rows and _each_gets_a_row(table.num_embeddings, cluster.devices_per_host)
    if everywhere and on_host:
        return types
    possible = {ShardingType.ROW_WISE: everywhere, ShardingType.TABLE_ROW_WISE: on_host}
    return tuple([kind for kind in types if possible.get(kind, True)])


def _each_gets_a_row(num_rows: int, parts: int) -> bool:
    """Whether each of so many equal blocks of rows."""
    return (parts - 1) * -(-num_rows // parts) < num_rows


def allowed_devices(table: EmbeddingTable, num_devices: int) -> tuple[int, ...]:
    """Devices that a table's shards may lie on, rising."""
    if not table.constraints.devices and not table.constraints.excluded_devices:
        return tuple(range(num_devices))
    return tuple(d for d in range(num_devices) if table.constraints.allows_device(d))


def contradictions(problem: ShardingProblem, options: SearchOptions) -> list[Violation]:
    """Why no plan at all can keep the constraints, by field path; empty when nothing is found."""
    found: list[Violation] = []
    for i, table in enumerate(problem.tables):
        checks = Checks()
        _check_types(checks, table, problem, options)
        found += [violation.under(f"tables[{i}].constraints") for violation in checks.violations]
    found += _group_contradictions(problem)
    return found


def _check_types(
    checks: Checks, table: EmbeddingTable, problem: ShardingProblem, options: SearchOptions
) -> None:
    cluster = problem.cluster
    types = allowed_sharding_types(table, options, cluster)
    if not types:
        checks.require(
            False,
            "sharding_types",
            f"allow table {table.name!r} to be cut in rows only, and {_why_not_by_rows(table)}; "
            "allow table_wise or column_wise",
        )
        return
    named = table.constraints.devices or table.constraints.excluded_devices
    if not named and ShardingType.TABLE_WISE in types:
        return  # whole, anywhere: so for nearly all of 100,000 tables on 4,096 devices
    devices = allowed_devices(table, cluster.num_devices)
    if not checks.require(
        bool(devices),
        "excluded_devices" if table.constraints.excluded_devices else "devices",
        f"leave no device of 0 to {cluster.num_devices - 1} for table {table.name!r}",
    ):
        return
    hosts = {cluster.host_of(device) for device in devices}
    whole_host = any(
        all(d in devices for d in range(cluster.num_devices) if cluster.host_of(d) == host)
        for host in hosts
    )
    reachable = {
        ShardingType.TABLE_WISE: True,
        ShardingType.COLUMN_WISE: table.embedding_dim >= 2 * table.constraints.min_column_width
        and (len(devices) > 1 or cluster.num_devices == 1),
        ShardingType.ROW_WISE: len(devices) == cluster.num_devices,
        ShardingType.TABLE_ROW_WISE: whole_host,
        ShardingType.DATA_PARALLEL: len(devices) == cluster.num_devices,
    }
    checks.require(
        any(reachable[kind] for kind in types),
        "sharding_types",
        f"{[kind.value for kind in types]} cannot be kept together with embedding_dim "
        f"{table.embedding_dim}, min_column_width {table.constraints.min_column_width} and the "
        f"{len(devices)} allowed of {cluster.num_devices} devices: column_wise needs two column "
        "ranges of that width and two devices, row_wise and data_parallel need all devices, "
        "table_row_wise a host; cut in rows, every device gets one",
    )


def _why_not_by_rows(table: EmbeddingTable) -> str:
    if table.pooling_mode is PoolingMode.MEAN:
        return "its pooling_mode is mean: TorchRec computes tables beside such a one wrongly"
    return (
        f"equal blocks of its {table.num_embeddings} rows leave a device without any: "
        "training on such shards may crash"
    )


def _group_contradictions(problem: ShardingProblem) -> Iterator[Violation]:
    num_devices = problem.cluster.num_devices
    for group, members in colocation_groups(problem.tables).items():
        common = set(range(num_devices))
        for i in members:
            common &= set(allowed_devices(problem.tables[i], num_devices))
        if not common:
            yield Violation(
                f"tables[{members[0]}].constraints.colocation_group",
                f"no device is allowed for all {len(members)} tables of group {group!r:.80}",
            )


def _alike(kind: ShardingType, problem: ShardingProblem) -> set[ShardingType]:
    """The sharding types whose shards are the same as these on a cluster of this shape."""
    cluster = problem.cluster
    if cluster.num_devices == 1 and kind is ShardingType.TABLE_WISE:
        return set(ShardingType)
    if cluster.devices_per_host == 1 and kind is ShardingType.TABLE_WISE:
        return {kind, ShardingType.TABLE_ROW_WISE}
    return set(BY_ROWS) if cluster.num_hosts == 1 and kind in BY_ROWS else {kind}


def colocation_groups(tables: Sequence[EmbeddingTable]) -> dict[str, list[int]]:
    """Indices of the tables of each colocation group, groups in order of first appearance."""
    groups: dict[str, list[int]] = {}
    for i, table in enumerate(tables):
        if table.constraints.colocation_group:
            groups.setdefault(table.constraints.colocation_group, []).append(i)
    return groups


def check_constraints(
    plan: ShardingPlan,
    problem: ShardingProblem,
    options: SearchOptions,
    types: Mapping[str, ShardingType] | None = None,
) -> None:
    """Checks that a legal plan keeps every constraint.

    Args:
        plan: The plan.
        problem: The problem.
        options: Name the sharding types that tables without constraints may have.
        types: What `check_plan` returned; None: not known.

    Raises:
        IllegalPlanError: With every constraint that is broken.
    """
    checks = Checks()
    for i, table in enumerate(problem.tables):
        shards = plan.by_table[table.name]
        kind = types[table.name] if types else sharding_type(table, shards, problem.cluster)
        allowed = allowed_sharding_types(table, options, problem.cluster)
        field = f"tables[{i}].constraints"
        if kind not in allowed and _alike(kind, problem).isdisjoint(allowed):
            checks.require(
                False,
                f"{field}.sharding_types",
                f"allow {[other.value for other in allowed]}, got {kind.value}",
            )
        least = table.constraints.min_column_width if kind is ShardingType.COLUMN_WISE else 0
        for shard in shards:
            if not table.constraints.allows_device(shard.device):
                checks.require(False, f"{field}.devices", f"do not allow device {shard.device}")
            if shard.num_columns < least:
                checks.require(
                    False, f"{field}.min_column_width", f"is {least}, got {shard.num_columns}"
                )
    for group, members in colocation_groups(problem.tables).items():
        devices = {plan.by_table[problem.tables[i].name][0].device for i in members}
        checks.require(
            len(devices) == 1,
            f"tables[{members[0]}].constraints.colocation_group",
            f"group {group!r:.80} must lie on one device, got {sorted(devices)}",
        )
    checks.raise_if_any(IllegalPlanError)
