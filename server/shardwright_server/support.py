"""Which constraints an algorithm supports."""

from __future__ import annotations

from collections.abc import Iterator

from shardwright.domain import (
    Algorithm,
    Cluster,
    EmbeddingTable,
    SearchOptions,
    ShardingProblem,
    ShardingType,
    Violation,
    allowed_sharding_types,
)


def unknown_to_neuroshard(problem: ShardingProblem, options: SearchOptions) -> Iterator[Violation]:
    """Constraints that NEUROSHARD would break: it knows memory and narrowest widths only."""
    if options.algorithm is not Algorithm.NEUROSHARD:
        return
    for i, table in enumerate(problem.tables):
        for field, why in _unknown(table, options, problem.cluster):
            yield Violation(
                f"tables[{i}].constraints.{field}",
                f"{why}, which the algorithm NEUROSHARD does not know; use LOCAL_SEARCH",
            )


def _unknown(
    table: EmbeddingTable, options: SearchOptions, cluster: Cluster
) -> Iterator[tuple[str, str]]:
    constraints = table.constraints
    types = allowed_sharding_types(table, options, cluster)
    if constraints.devices:
        yield "devices", "names devices"
    if constraints.excluded_devices:
        yield "excluded_devices", "names devices"
    if constraints.colocation_group:
        yield "colocation_group", "keeps tables together"
        return
    may_be_cut = (
        options.max_column_splits > 0 and table.embedding_dim >= 2 * constraints.min_column_width
    )
    if ShardingType.TABLE_WISE not in types:
        yield "sharding_types", "does not allow table_wise"
    elif may_be_cut and ShardingType.COLUMN_WISE not in types:
        yield "sharding_types", "does not allow column_wise, though max_column_splits is above 0"
