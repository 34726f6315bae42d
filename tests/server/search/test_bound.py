"""The lower bound holds for every legal plan, `shardwright_server.search.bound`."""

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.server.search.convex_cost_model import ConvexCostModel
from tests.server.search.exhaustive import least_cost_ms
from tests.server.search.problems import problem, table

from shardwright.domain import (
    Optimizer,
    SearchOptions,
    ShardingType,
    TableConstraints,
)
from shardwright_server.search.bound import lower_bound_ms
from shardwright_server.search.cost import PlanEvaluator

ANY_TYPE = SearchOptions(sharding_types=tuple(ShardingType))
WHOLE = SearchOptions(sharding_types=(ShardingType.TABLE_WISE,))


def bound(task, model, options=ANY_TYPE):
    return lower_bound_ms(PlanEvaluator(task, model), options, model)


@st.composite
def tiny_problems(draw):
    """Two or three narrow tables on one to four devices, with constraints of every kind."""
    devices = draw(st.sampled_from([1, 2, 2, 3, 4]))
    count = draw(st.integers(1, 3 if devices == 2 else 2))
    rarely = st.integers(0, 5).map(lambda n: n == 0)
    types = st.lists(st.sampled_from(ShardingType), max_size=3, unique=True)
    some = st.lists(st.integers(0, devices - 1), max_size=2, unique=True)
    tables = []
    for i in range(count):
        constraints = TableConstraints(
            min_column_width=draw(st.sampled_from([4, 4, 8])),
            sharding_types=tuple(draw(types)) if draw(rarely) else (),
            devices=tuple(draw(some)) if draw(rarely) else (),
        )
        if draw(rarely):
            constraints = TableConstraints(colocation_group="g")
        tables.append(
            table(
                f"t{i}",
                rows=draw(st.integers(1, 5000)),
                dim=4 * draw(st.integers(1, 3)),
                pooling=draw(st.floats(0.01, 100)),
                constraints=constraints,
            )
        )
    optimizer = draw(st.sampled_from(Optimizer))
    roomy = problem(tables, devices, optimizer=optimizer)
    share = roomy.total_bytes // devices + 1
    return problem(
        tables,
        devices,
        draw(st.integers(share, 6 * share)),
        batch=draw(st.sampled_from([1, 512, 65536])),
        optimizer=optimizer,
        devices_per_host=draw(st.sampled_from([n for n in (1, 2, devices) if devices % n == 0])),
    )


more_types = st.lists(st.sampled_from(list(ShardingType)[1:]), unique=True)


@settings(max_examples=100, deadline=None)
@given(
    task=tiny_problems(),
    more=more_types,
    whole=st.booleans(),
    seed=st.integers(0, 10**6),
    waves=st.sampled_from([0.0, 0.1, 0.9]),
)
def test_no_legal_plan_undercuts_the_bound(task, more, whole, seed, waves):
    options = SearchOptions(sharding_types=(*more, *(list(ShardingType)[: whole or not more])))
    model = ConvexCostModel(seed, waves)
    least = least_cost_ms(task, options, model)
    assume(least is not None)
    assert 0 < bound(task, model, options) <= least
