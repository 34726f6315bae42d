"""Costs of plans, `shardwright_server.search.cost`."""

import numpy as np
import pytest
from tests.server.search.fake_cost_model import FakeCostModel
from tests.server.search.problems import problem, random_task, table

from shardwright.domain import Optimizer, Shard, ShardingPlan
from shardwright_costmodel.features import comm_features, table_features
from shardwright_server.search.cost import Layout, PlanCosts, PlanEvaluator
from shardwright_server.search.pieces import Piece, PieceCatalog


def test_the_plan_costs_what_its_slowest_device_does_waiting_included():
    costs = PlanCosts(
        compute_ms=np.array([[5.0, 1.0, 0.0]]),
        forward_comm_ms=np.array([[1.0, 4.0, 1.0]]),
        backward_comm_ms=np.array([[2.0, 3.0, 1.0]]),
    )
    assert costs.wait_ms.tolist() == [[0, 3, 6]]
    assert costs.total_ms.tolist() == [[8, 8, 2]]
    assert costs.cost_ms.tolist() == [11]


def whole(task, devices):
    return ShardingPlan(
        tuple(
            Shard(t.name, device, 0, t.num_embeddings, 0, t.embedding_dim)
            for t, device in zip(task.tables, devices, strict=True)
        )
    )


def costs_of(task, plan):
    evaluator = PlanEvaluator(task, FakeCostModel())
    return evaluator.layout_costs([evaluator.layout(plan)])


def test_the_model_is_asked_for_sums_of_encodings_and_sums_of_dims():
    task = random_task(1, tables=(6, 7))
    model = FakeCostModel()
    costs = costs_of(task, whole(task, [0, 2, 2, 0, 2, 1]))
    encodings = model.encode(
        table_features(task.tables, task.global_batch_size, task.optimizer)
    ).astype(np.float64)
    dims = np.array([t.embedding_dim for t in task.tables])
    on = [[0, 3], [5], [1, 2, 4], []]
    device_encodings = np.array([encodings[d].sum(axis=0) for d in on]).astype(np.float32)
    features = comm_features([[dims[d].sum() for d in on]], 4, task.global_batch_size)[0]
    assert costs.compute_ms[0] == pytest.approx(
        model.compute_ms(device_encodings).sum(axis=1), rel=1e-6
    )
    assert costs.forward_comm_ms[0].tolist() == model.forward_comm_ms(features).tolist()
    assert costs.backward_comm_ms[0].tolist() == model.backward_comm_ms(features).tolist()


def test_an_empty_device_computes_nothing():
    task = random_task(1, tables=(3, 4))
    costs = costs_of(task, whole(task, [1, 1, 3]))
    assert costs.compute_ms[0, [0, 2]].tolist() == [0, 0]
    assert (costs.compute_ms[0, [1, 3]] > 0).all()


def test_costs_do_not_depend_on_the_order_of_tables_in_the_plan_nor_on_other_plans():
    task = random_task(2, tables=(20, 21))
    plan = whole(task, [i % 4 for i in range(20)])
    shuffled = ShardingPlan(tuple(reversed(plan.shards)))
    other = whole(task, [0] * 20)
    evaluator = PlanEvaluator(task, FakeCostModel())
    together = evaluator.layout_costs([evaluator.layout(p) for p in (other, shuffled, plan)])
    alone = costs_of(task, plan)
    for i in (1, 2):
        assert together.compute_ms[i].tolist() == alone.compute_ms[0].tolist()
        assert together.cost_ms[i] == alone.cost_ms[0]
    assert evaluator.plans_evaluated == 3


def row_wise(name, rows, dim, devices):
    block = -(-rows // len(devices))
    starts = [min(i * block, rows) for i in range(len(devices))]
    return [
        Shard(name, d, start, min(block, rows - start), 0, dim)
        for d, start in zip(devices, starts, strict=True)
    ]


def test_a_row_piece_sees_its_part_of_rows_and_lookups_and_the_full_width_in_communication():
    task = problem([table("hot", rows=1001, dim=32, pooling=12), table("cold", dim=8)])
    cold = Shard("cold", 1, 0, 1000, 0, 8)
    plan = ShardingPlan((*row_wise("hot", 1001, 32, range(4)), cold))
    costs = costs_of(task, plan)
    quarter = problem([table("hot", rows=251, dim=32, pooling=3, reuse_histogram=None)])
    catalog = PieceCatalog(task, FakeCostModel())
    features = catalog.features([Piece(0, 32, row_parts=4)])[0]
    expected = table_features(quarter.tables, quarter.global_batch_size, Optimizer.SGD)[0]
    assert features[:7].tolist() == expected[:7].tolist()
    evaluator = PlanEvaluator(task, FakeCostModel())
    assert evaluator.device_dims(evaluator.layout(plan)).tolist() == [32, 40, 32, 32]
    assert costs.compute_ms[0, 0] == costs.compute_ms[0, 2] < costs.compute_ms[0, 1]


def test_table_row_wise_shards_stay_on_their_host():
    task = problem([table("hot", rows=1000, dim=32), table("cold", dim=8)], devices_per_host=2)
    plan = ShardingPlan((*row_wise("hot", 1000, 32, [2, 3]), Shard("cold", 0, 0, 1000, 0, 8)))
    evaluator = PlanEvaluator(task, FakeCostModel())
    layout = evaluator.layout(plan)
    assert [evaluator.catalog.piece(i).row_parts for i in layout.piece_ids] == [2, 2, 1]
    assert evaluator.device_dims(layout).tolist() == [8, 0, 32, 32]


def test_a_piece_is_encoded_once():
    task, model = problem([table("a"), table("b")]), FakeCostModel()
    catalog = PieceCatalog(task, model)
    first = catalog.ids([Piece(0, 64), Piece(1, 32), Piece(0, 64)])
    again = catalog.ids([Piece(1, 32), Piece(1, 64)])
    assert (first, again) == ([0, 1, 0], [1, 2])
    assert model.calls["encode"] == 2
    assert len(catalog.encodings) == len(catalog.compute_ms) == 3


def test_a_column_piece_differs_from_its_table_in_width_alone():
    task = problem([table("a", rows=77, dim=64, pooling=3)], optimizer=Optimizer.ROWWISE_ADAGRAD)
    catalog = PieceCatalog(task, FakeCostModel())
    whole_table, narrow = catalog.features([Piece(0, 64), Piece(0, 12)])
    assert np.flatnonzero(whole_table != narrow).tolist() == [1]
    assert narrow[1] == 12
    catalog.ids([Piece(0, 12)])
    assert catalog.memory_bytes.tolist() == [77 * (12 * 4 + 4)]
    assert catalog.num_columns.tolist() == [12]


def test_two_shards_of_one_table_on_one_device_both_count():
    task = problem([table("a", dim=8)], devices=2)
    evaluator = PlanEvaluator(task, FakeCostModel())
    ids = np.array(evaluator.catalog.ids([Piece(0, 4), Piece(0, 4)]))
    one, two = (
        evaluator.layout_costs([Layout(ids, np.array(devices))]).compute_ms[0]
        for devices in ([0, 1], [0, 0])
    )
    assert two[0] > one[0] == one[1] and two[1] == 0
