"""Hypothesis strategies over every domain type that goes over the wire."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import strategies as st

from shardwright.domain import (
    Algorithm,
    Baseline,
    Cluster,
    CostModelAccuracy,
    CostModelDescription,
    CostModelId,
    CostModelSource,
    DeviceCost,
    EmbeddingTable,
    EvaluateRequest,
    EvaluationResult,
    Optimizer,
    PlanRequest,
    PlanResult,
    PoolingMode,
    SearchOptions,
    SearchSummary,
    Shard,
    ShardingPlan,
    ShardingProblem,
    ShardingType,
    StoppedBy,
    TableConstraints,
    WeightDtype,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
request_ids = st.text(st.characters(exclude_categories=["Cs"]), max_size=128)
costs = st.floats(0, 1e9)
counts = st.integers(0, 2**63 - 1)
# what a Duration holds exactly: whole nanoseconds
durations = st.integers(1, 86_400 * 10**9).map(lambda ns: ns // 10**9 + ns % 10**9 / 1e9)

histograms = st.lists(st.floats(0, 1e9), min_size=17, max_size=17).map(tuple).filter(any)

sharding_types = st.lists(st.sampled_from(ShardingType), unique=True, max_size=5).map(tuple)


@st.composite
def constraints(draw: st.DrawFn) -> TableConstraints:
    # device 0 is the one that every cluster has
    devices, excluded = draw(st.sampled_from([((), ()), ((0,), ()), ((), (0,))]))
    types = draw(sharding_types)
    in_group = not types or ShardingType.TABLE_WISE in types
    return TableConstraints(
        min_column_width=4 * draw(st.integers(1, 2**14)),
        sharding_types=types,
        devices=devices,
        excluded_devices=excluded,
        colocation_group=draw(texts) if in_group else "",
    )


tables = st.builds(
    EmbeddingTable,
    name=names,
    num_embeddings=st.integers(1, 10**12),
    embedding_dim=st.integers(1, 2**14).map(lambda n: 4 * n),
    pooling_factor=st.floats(0, 1e6, exclude_min=True),
    reuse_histogram=st.none() | histograms,
    weight_dtype=st.sampled_from(WeightDtype),
    feature_names=st.lists(texts, max_size=3).map(tuple),
    constraints=constraints(),
    pooling_mode=st.sampled_from(PoolingMode),
)


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    devices_per_host = draw(st.integers(1, 64))
    num_devices = devices_per_host * draw(st.integers(1, 64))
    memory_bytes = draw(st.integers(1, 2**50))
    overrides = draw(
        st.dictionaries(st.integers(0, num_devices - 1), st.integers(0, 2**50), max_size=3)
    )
    return Cluster(
        num_devices=num_devices,
        devices_per_host=devices_per_host,
        hardware=draw(names),
        device_memory_bytes=memory_bytes,
        reserved_memory_bytes=draw(st.integers(0, memory_bytes - 1)),
        device_memory_overrides=tuple(overrides.items()),
    )


options = st.builds(
    SearchOptions,
    max_column_splits=st.integers(0, 1000),
    beam_width=st.integers(1, 100),
    candidates=st.integers(1, 1000),
    grid_steps=st.integers(1, 100),
    time_budget_s=st.none() | durations,
    algorithm=st.sampled_from(Algorithm),
    seed=st.integers(0, 2**64 - 1),
    sharding_types=sharding_types.filter(bool),
)

problems = st.builds(
    ShardingProblem,
    tables=st.lists(tables, min_size=1, max_size=4, unique_by=lambda t: t.name).map(tuple),
    cluster=clusters(),
    global_batch_size=st.integers(1, 2**31),
    optimizer=st.sampled_from(Optimizer),
)

shards = st.builds(
    Shard,
    table=names,
    device=st.integers(0, 2**31 - 1),
    row_offset=st.integers(0, 2**62),
    num_rows=st.integers(0, 2**62),
    column_offset=st.integers(0, 2**31 - 1),
    num_columns=st.integers(1, 2**31 - 1),
)

plans = st.builds(ShardingPlan, st.lists(shards, min_size=1, max_size=5).map(tuple))

plan_requests = st.builds(PlanRequest, problems, options, texts, request_ids)

evaluate_requests = st.builds(EvaluateRequest, problems, plans, texts, request_ids)

device_costs = st.builds(
    DeviceCost, st.integers(0, 65_535), costs, costs, costs, costs, memory_bytes=counts
)

cost_model_ids = st.builds(CostModelId, texts, texts, texts, st.sampled_from(CostModelSource))

search_summaries = st.builds(
    SearchSummary,
    durations,
    counts,
    counts,
    st.none() | st.sampled_from(StoppedBy),
    st.sampled_from(Algorithm),
)

plan_results = st.builds(
    PlanResult,
    plan=plans,
    cost_ms=costs,
    lower_bound_ms=st.none() | costs,
    devices=st.lists(device_costs, max_size=3).map(tuple),
    baselines=st.lists(st.builds(Baseline, names, st.none() | costs), max_size=3).map(tuple),
    cost_model=cost_model_ids,
    search=search_summaries,
    request_id=request_ids,
    warnings=st.lists(texts, max_size=2).map(tuple),
)

evaluation_results = st.builds(
    EvaluationResult,
    cost_ms=costs,
    devices=st.lists(device_costs, max_size=3).map(tuple),
    cost_model=cost_model_ids,
    fingerprint=texts,
    request_id=request_ids,
    warnings=st.lists(texts, max_size=2).map(tuple),
)

descriptions = st.builds(
    CostModelDescription,
    cost_model=cost_model_ids,
    create_time=st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
    num_compute_measurements=counts,
    num_comm_measurements=counts,
    accuracy=st.lists(
        st.builds(CostModelAccuracy, names, costs, st.floats(-1, 1), counts), max_size=3
    ).map(tuple),
    software=st.dictionaries(names, texts, max_size=3),
    is_default=st.booleans(),
)
