"""Problems small enough to look at all their plans."""

from hypothesis import strategies as st
from tests.server.search.problems import problem, table

from shardwright.domain import Optimizer, SearchOptions, ShardingType, TableConstraints


@st.composite
def tiny_problems(draw, roomy=True):
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
    share = problem(tables, devices, optimizer=optimizer).total_bytes // devices + 1
    return problem(
        tables,
        devices,
        draw(st.integers(share if roomy else share // 2, 6 * share)),
        batch=draw(st.sampled_from([1, 512, 65536])),
        optimizer=optimizer,
        devices_per_host=draw(st.sampled_from([n for n in (1, 2, devices) if devices % n == 0])),
    )


sharding_options = st.builds(
    lambda more, whole: SearchOptions(
        sharding_types=(*more, *([ShardingType.TABLE_WISE] if whole or not more else []))
    ),
    st.lists(st.sampled_from(list(ShardingType)[1:]), unique=True),
    st.booleans(),
)
