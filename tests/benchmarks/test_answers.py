"""Answers on disk and the sides that give them."""

import numpy as np
import pytest
from tests.benchmarks import answers, greedy, sides
from tests.benchmarks.answers import Answer, read, write
from tests.benchmarks.sides import SIDES, Side, Task, cost_model
from tests.benchmarks.tasks import ROWS, draw_task
from tests.benchmarks.truth import true_cost

from shardwright.domain import EvaluateRequest, PlanRequest, check_plan
from shardwright_server import planning


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "ROOT", tmp_path)


@pytest.fixture(scope="module")
def task() -> Task:
    return Task("10-60x4/1", draw_task(ROWS["10-60x4"], 1))


def test_an_answer_comes_back_as_it_was_kept(task):
    plan = greedy.place_greedily(task.problem, "size")
    kept = Answer(plan, 1.5, 3.25, "")
    write(task.name, "side", "key", task.problem, kept)
    assert read(task.name, "side", "key", task.problem) == kept
    none = Answer(None, 0.5, note="no room")
    write(task.name, "side", "key", task.problem, none)
    assert read(task.name, "side", "key", task.problem) == none


def test_an_answer_of_another_key_does_not_count(task):
    write(task.name, "side", "bundle 1", task.problem, Answer(None, 0.5))
    assert read(task.name, "side", "bundle 2", task.problem) is None
    assert read(task.name, "other", "bundle 1", task.problem) is None


def test_a_side_is_asked_once(task):
    asked = []

    def solve(task):
        asked.append(task.name)
        return Answer(greedy.place_randomly(task.problem, 0), 0.0)

    side = Side("counting", lambda _task: "1", solve)
    assert side.kept(task) is None
    assert side.answer(task) == side.answer(task)
    assert asked == [task.name]


@pytest.mark.parametrize("name", ["neuroshard", "local_search", "local_search_rows", "random"])
def test_sides_answer_with_legal_plans(task, name):
    answer = SIDES[name].answer(task)
    check_plan(answer.plan, task.problem)
    assert true_cost(answer.plan, task.problem).cost_ms > 0


def test_keys_of_the_searches_name_the_bundle():
    version = cost_model().id.version
    assert version in SIDES["neuroshard"].key(None)
    assert version in SIDES["local_search"].key(None)
    assert SIDES["local_search"].key(None) != SIDES["neuroshard"].key(None)


def test_a_digest_changes_with_the_source(tmp_path, monkeypatch):
    module = type(answers)("some_module")
    module.__file__ = str(tmp_path / "some_module.py")
    (tmp_path / "some_module.py").write_text("a = 1\n")
    before = answers.digest(module)
    (tmp_path / "some_module.py").write_text("a = 2\n")
    assert answers.digest(module) != before == before.lower()


@pytest.mark.parametrize("score", greedy.SCORES)
def test_rules_of_thumb_are_those_of_the_server(task, score):
    result = planning.plan(
        PlanRequest(task.problem, sides.search_options(sides.Algorithm.NEUROSHARD)),
        cost_model(),
        deadline_s=None,
    )
    baselines = {baseline.name: baseline.cost_ms for baseline in result.baselines}
    plan = greedy.place_greedily(task.problem, score)
    evaluated = planning.evaluate(EvaluateRequest(task.problem, plan), cost_model())
    assert evaluated.cost_ms == pytest.approx(baselines[score], rel=1e-6)


def test_rules_of_thumb_give_up_when_a_table_finds_no_room():
    full = next(
        task
        for index in range(50)
        if greedy.place_greedily(task := draw_task(ROWS["10-60x4"], index), "lookup") is None
    )
    largest = max(table.weight_bytes for table in full.tables)
    assert largest > 0.2 * full.cluster.device_memory_bytes
    assert np.isfinite(largest)
