"""The lower bound holds for every legal plan, `shardwright_server.search.bound`."""

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.server.search.convex_cost_model import ConvexCostModel
from tests.server.search.exhaustive import least_cost_ms
from tests.server.search.tiny_problems import sharding_options, tiny_problems

from shardwright.domain import (
    SearchOptions,
    ShardingType,
)
from shardwright_server.search.bound import lower_bound_ms
from shardwright_server.search.cost import PlanEvaluator

ANY_TYPE = SearchOptions(sharding_types=tuple(ShardingType))
WHOLE = SearchOptions(sharding_types=(ShardingType.TABLE_WISE,))


def bound(task, model, options=ANY_TYPE):
    return lower_bound_ms(PlanEvaluator(task, model), options, model)


@settings(max_examples=100, deadline=None)
@given(
    task=tiny_problems(),
    options=sharding_options,
    seed=st.integers(0, 10**6),
    waves=st.sampled_from([0.0, 0.1, 0.9]),
)
def test_no_legal_plan_undercuts_the_bound(task, options, seed, waves):
    model = ConvexCostModel(seed, waves)
    least = least_cost_ms(task, options, model)
    assume(least is not None)
    assert 0 < bound(task, model, options) <= least
