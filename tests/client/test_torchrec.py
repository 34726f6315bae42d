"""Plans become TorchRec plans: in shape, and in real jobs of several processes."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from torchrec_scenarios import SCENARIOS, TRAINED, columns, rows

from shardwright.domain import (
    Cluster,
    EmbeddingTable,
    Optimizer,
    Shard,
    ShardingPlan,
    ShardingProblem,
    check_plan,
)
from shardwright_client import (
    MissingDependencyError,
    PlanMismatchError,
    from_torchrec,
    to_torchrec,
)

FOLDER = Path(__file__).parent
TWO_RANKS = SCENARIOS["two_ranks"]


@pytest.mark.parametrize("name", TRAINED)
def test_a_sharded_model_trains_like_the_unsharded_one(name: str, tmp_path: Path) -> None:
    scenario = SCENARIOS[name]
    ranks = [
        subprocess.Popen(
            [sys.executable, FOLDER / "torchrec_rank.py", name, tmp_path / "store"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": str(scenario.world_size),
                "LOCAL_RANK": str(rank % scenario.local_world_size),
                "LOCAL_WORLD_SIZE": str(scenario.local_world_size),
                "OMP_NUM_THREADS": "1",
            },
        )
        for rank in range(scenario.world_size)
    ]
    outputs = [rank.communicate(timeout=240)[0] for rank in ranks]
    failures = [text for rank, text in zip(ranks, outputs, strict=True) if rank.returncode]
    assert not failures, "\n".join(failures)


def test_shards_keep_offsets_sizes_and_order() -> None:
    plan = to_torchrec(TWO_RANKS.plan(), TWO_RANKS.module(), world_size=2, device_type="cpu")
    assert set(plan.plan) == {"sums", "tower.means"}
    uneven = plan.plan["sums"]["uneven"]
    assert uneven.sharding_type == "column_wise"
    assert uneven.compute_kernel == "fused"
    assert uneven.ranks == [1, 0, 1, 0]
    assert _spec(uneven) == [
        ([0, 0], [40, 8], "rank:1/cpu"),
        ([0, 8], [40, 4], "rank:0/cpu"),
        ([0, 12], [40, 8], "rank:1/cpu"),
        ([0, 20], [40, 4], "rank:0/cpu"),
    ]
    odd_rows = plan.plan["sums"]["odd_rows"]
    assert odd_rows.sharding_type == "row_wise"
    assert _spec(odd_rows) == [([0, 0], [9, 12], "rank:0/cpu"), ([9, 0], [8, 12], "rank:1/cpu")]
    assert plan.plan["sums"]["whole"].sharding_type == "table_wise"
    assert plan.plan["sums"]["whole"].ranks == [1]
    assert _spec(plan.plan["tower.means"]["one_row"])[1] == ([1, 0], [0, 4], "rank:1/cpu")


def _spec(sharding):  # type: ignore[no-untyped-def]
    return [
        (s.shard_offsets, s.shard_sizes, str(s.placement)) for s in sharding.sharding_spec.shards
    ]


def test_unequal_widths_on_one_rank_are_refused() -> None:
    unequal = columns("uneven", 40, [(1, 12), (0, 4), (1, 8)])
    others = [shard for shard in TWO_RANKS.plan().shards if shard.table != "uneven"]
    with pytest.raises(PlanMismatchError, match=r"equally wide .* got \[8, 12\] on device 1"):
        to_torchrec(ShardingPlan((*others, *unequal)), TWO_RANKS.module(), world_size=2)


def test_cuda_devices_count_from_zero_on_every_host() -> None:
    scenario = SCENARIOS["two_hosts"]
    plan = to_torchrec(
        scenario.plan(),
        scenario.module("meta"),
        world_size=4,
        local_world_size=2,
        device_type="cuda",
    )
    second_host = plan.plan["sums"]["second_host"]
    assert second_host.sharding_type == "table_row_wise"
    assert [place for _, _, place in _spec(second_host)] == ["rank:2/cuda:0", "rank:3/cuda:1"]
    assert second_host.ranks == [2, 3]


def test_a_collection_itself_has_the_empty_path() -> None:
    module = TWO_RANKS.module().sums
    shards = [s for s in TWO_RANKS.shards if s.table in {t for t, _, _ in TWO_RANKS.sum_tables}]
    plan = to_torchrec(ShardingPlan(tuple(shards)), module, world_size=2, device_type="cpu")
    assert set(plan.plan) == {""}


def test_every_disagreement_is_named_at_once() -> None:
    shards = [s for s in TWO_RANKS.shards if s.table not in ("whole", "halves")]
    shards.append(Shard("stranger", 5, 0, 10, 0, 4))
    with pytest.raises(PlanMismatchError) as caught:
        to_torchrec(ShardingPlan(tuple(shards)), TWO_RANKS.module(), world_size=2)
    message = str(caught.value)
    assert "the module has no table 'stranger'; it has 'whole', 'uneven'" in message
    assert "the plan lacks table 'whole', 'halves' of the module" in message
    assert "the plan uses 6 devices and the job has world_size 2" in message
    assert "ask for a plan with cluster.num_devices = 2" in message
    assert len(caught.value.problems) == 3


def test_a_module_without_embeddings_is_refused() -> None:
    from torch import nn

    with pytest.raises(PlanMismatchError, match="holds no EmbeddingBagCollection"):
        to_torchrec(TWO_RANKS.plan(), nn.Linear(2, 2), world_size=2)


def test_a_name_in_two_collections_is_refused() -> None:
    from torch import nn

    module = nn.ModuleList([TWO_RANKS.module(), TWO_RANKS.module()])
    with pytest.raises(PlanMismatchError, match="more than one EmbeddingBagCollection"):
        to_torchrec(TWO_RANKS.plan(), module, world_size=2)


def _with(table: str, *shards: Shard) -> ShardingPlan:
    return ShardingPlan((*(s for s in TWO_RANKS.shards if s.table != table), *shards))


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (_with("whole", *columns("whole", 49, [(1, 16)])), "whole.*50 x 16 in the module"),
        (_with("whole", *columns("whole", 50, [(1, 12)])), "cover its 16 columns, got 12"),
        (_with("whole", *columns("whole", 50, [(1, 20)])), "cover its 16 columns, got 20"),
        (_with("whole", *columns("whole", 50, [(1, 6), (0, 10)])), "multiple of 4, got 6"),
        (_with("odd_rows", *rows("odd_rows", 17, 12, range(1, 2))), None),
        (
            _with("odd_rows", Shard("odd_rows", 0, 0, 8, 0, 12), Shard("odd_rows", 1, 8, 9, 0, 12)),
            r"must hold rows 0 to 9 \(ceil",
        ),
        (
            _with("whole", Shard("whole", 0, 0, 25, 0, 8), Shard("whole", 1, 25, 25, 8, 8)),
            "rows and columns at once",
        ),
    ],
)
def test_a_cut_that_torchrec_would_run_wrongly_is_refused(
    plan: ShardingPlan, says: str | None
) -> None:
    if says is None:
        # all rows on one device is table-wise, however it came about
        made = to_torchrec(plan, TWO_RANKS.module(), world_size=2, device_type="cpu")
        assert made.plan["sums"]["odd_rows"].sharding_type == "table_wise"
        return
    with pytest.raises(PlanMismatchError, match=says):
        to_torchrec(plan, TWO_RANKS.module(), world_size=2)


def test_mean_pooled_rows_beside_other_tables_are_refused() -> None:
    plan = _with("one_row", *columns("one_row", 1, [(1, 4)]))
    with pytest.raises(
        PlanMismatchError,
        match="'tower.means' has table 'mean_rows' with mean pooling.*'one_row' not cut in rows",
    ):
        to_torchrec(plan, TWO_RANKS.module(), world_size=2)


def test_row_shards_need_every_rank_of_the_job() -> None:
    # planned for 2 devices, run on 4: TorchRec would split the rows by 4
    with pytest.raises(PlanMismatchError, match="all devices, or on all devices of one host"):
        to_torchrec(TWO_RANKS.plan(), TWO_RANKS.module(), world_size=4)


def test_a_module_with_odd_columns_is_refused() -> None:
    from torchrec.modules.embedding_configs import PoolingType
    from torchrec_scenarios import collection

    module = collection([("odd", 10, 6)], PoolingType.SUM, "meta")
    with pytest.raises(PlanMismatchError, match="table 'odd' of the module.*multiple of 4"):
        to_torchrec(ShardingPlan((Shard("odd", 0, 0, 10, 0, 6),)), module, world_size=1)


@pytest.mark.parametrize(
    ("world_size", "local_world_size", "says"),
    [(0, None, "world_size"), (4, 3, "local_world_size: must divide world_size"), (2, 0, "local")],
)
def test_a_job_must_make_sense(world_size: int, local_world_size: int | None, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        to_torchrec(
            TWO_RANKS.plan(),
            TWO_RANKS.module(),
            world_size=world_size,
            local_world_size=local_world_size,
        )


def test_a_device_type_must_be_known() -> None:
    with pytest.raises(ValueError, match="'cpu' or 'cuda', got 'tpu'"):
        to_torchrec(TWO_RANKS.plan(), TWO_RANKS.module(), world_size=2, device_type="tpu")  # type: ignore[arg-type]


def test_columns_under_rowwise_adagrad_warn() -> None:
    with pytest.warns(UserWarning, match="'uneven'.*each slice keeps its own state"):
        to_torchrec(
            TWO_RANKS.plan(),
            TWO_RANKS.module(),
            world_size=2,
            optimizer=Optimizer.ROWWISE_ADAGRAD,
        )


def test_rowwise_adagrad_is_found_on_the_parameters() -> None:
    from torchrec.optim import RowWiseAdagrad
    from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

    scenario = SCENARIOS["two_hosts"]
    module = scenario.module()
    apply_optimizer_in_backward(RowWiseAdagrad, module.tower.parameters(), {"lr": 0.1})
    with pytest.warns(UserWarning, match="table 'columns' is cut in columns"):
        to_torchrec(scenario.plan(), module, world_size=4, local_world_size=2)


@pytest.mark.parametrize("optimizer", [None, Optimizer.SGD, Optimizer.ADAGRAD])
def test_other_optimizers_do_not_warn(optimizer: Optimizer | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        to_torchrec(TWO_RANKS.plan(), TWO_RANKS.module(), world_size=2, optimizer=optimizer)


def test_without_torchrec_the_error_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    module = TWO_RANKS.module()
    monkeypatch.setitem(sys.modules, "torchrec.distributed", None)
    with pytest.raises(MissingDependencyError, match=r"torchrec.*install"):
        to_torchrec(TWO_RANKS.plan(), module, world_size=2)


def test_copies_take_the_dense_kernel_on_every_rank() -> None:
    scenario = SCENARIOS["copies"]
    plan = to_torchrec(scenario.plan(), scenario.module("meta"), world_size=2)
    copied = plan.plan["sums"]["copied"]
    assert (copied.sharding_type, copied.compute_kernel) == ("data_parallel", "dense")
    assert copied.ranks == [0, 1]
    assert copied.sharding_spec is None
    assert plan.plan["sums"]["whole"].compute_kernel == "fused"


@pytest.mark.parametrize("name", ["two_hosts", "copies"])
def test_a_plan_comes_back_from_torchrec_as_it_went(name: str) -> None:
    scenario = SCENARIOS[name]
    module = scenario.module("meta")
    there = to_torchrec(
        scenario.plan(),
        module,
        world_size=scenario.world_size,
        local_world_size=scenario.local_world_size,
    )
    assert from_torchrec(there, module).fingerprint == scenario.plan().fingerprint


def test_the_plan_of_torchrecs_own_planner_can_be_checked() -> None:
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
    from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
    from torchrec.distributed.planner.types import ParameterConstraints

    module = SCENARIOS["copies"].module("meta")
    ways = {
        "copied": "data_parallel",
        "whole": "column_wise",
        "in_rows": "row_wise",
        "again": "table_row_wise",
    }
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=4, local_world_size=2, compute_device="cuda"),
        constraints={
            name: ParameterConstraints(sharding_types=[way], min_partition=4)
            for name, way in ways.items()
        },
    )
    theirs = planner.plan(module, [EmbeddingBagCollectionSharder()])
    plan = from_torchrec(theirs, module)
    tables = [EmbeddingTable(*t, pooling_factor=1.0) for t in SCENARIOS["copies"].tables]
    cluster = Cluster(4, 2, "any", 2**30)
    problem = ShardingProblem(tuple(tables), cluster, 1024, Optimizer.SGD)
    kinds = {name: kind.value for name, kind in check_plan(plan, problem).items()}
    assert ways.items() <= kinds.items()
    # and back
    again = to_torchrec(plan, module, world_size=4, local_world_size=2)
    assert from_torchrec(again, module).fingerprint == plan.fingerprint


def test_a_torchrec_plan_of_another_module_is_refused() -> None:
    module = TWO_RANKS.module("meta")
    plan = to_torchrec(TWO_RANKS.plan(), module, world_size=2)
    del plan.plan["tower.means"]
    with pytest.raises(PlanMismatchError, match="lacks table 'mean_rows', 'one_row'"):
        from_torchrec(plan, module)


def test_kernels_outside_device_memory_warn() -> None:
    module = TWO_RANKS.module("meta")
    plan = to_torchrec(TWO_RANKS.plan(), module, world_size=2)
    plan.plan["sums"]["whole"].compute_kernel = "fused_uvm_caching"
    with pytest.warns(UserWarning, match="table 'whole' has compute kernel fused_uvm_caching"):
        from_torchrec(plan, module)
