"""Comparisons of judged answers, and a tiny run of the whole benchmark."""

import pytest
from tests.benchmarks import answers, bench_quality
from tests.benchmarks.costs import FILE, Costs, Judged
from tests.benchmarks.quality import Summary, against, bias, feasible, over_best, worse_by
from tests.benchmarks.quality_report import report_lines
from typer.testing import CliRunner


def judged(true_ms, predicted_ms=None):
    return Judged(true_ms, predicted_ms, 0.1, "")


JUDGEMENT = {
    "a": {"neuroshard": judged(2.0, 2.2), "local_search": judged(1.0, 0.9), "dim": judged(4.0)},
    "b": {"neuroshard": judged(None), "local_search": judged(3.0, 3.0), "dim": judged(2.0)},
    "c": {"local_search": judged(5.0, 5.5)},
}


def test_over_best_compares_with_the_cheapest_rival_on_tasks_with_a_plan():
    rivals = ("local_search", "neuroshard", "dim")
    assert over_best(JUDGEMENT, "local_search", rivals) == pytest.approx([0.0, 0.5, 0.0])
    assert over_best(JUDGEMENT, "neuroshard", rivals) == pytest.approx([1.0])


def test_two_sides_compare_on_tasks_where_both_have_a_plan():
    assert against(JUDGEMENT, "local_search", "neuroshard") == pytest.approx([-0.5])
    assert against(JUDGEMENT, "dim", "local_search") == pytest.approx([3.0, -1 / 3])


def test_worse_plans_are_told_apart_by_what_the_model_foresaw():
    judgement = {
        "foreseen": {"a": judged(2.0, 2.0), "b": judged(1.0, 1.0)},
        "misjudged": {"a": judged(2.0, 0.9), "b": judged(1.0, 1.0)},
        "within the margin": {"a": judged(1.004, 1.0), "b": judged(1.0, 1.0)},
        "alone": {"a": judged(1.0, 1.0), "b": judged(None)},
    }
    assert worse_by(judgement, "a", "b", 0.005) == (3, 2, 1)


def test_bias_is_of_predicted_over_true():
    assert bias(JUDGEMENT, "local_search") == pytest.approx([-0.1, 0.0, 0.1])
    assert bias(JUDGEMENT, "dim") == []


def test_feasible_counts_plans_and_questions():
    assert feasible(JUDGEMENT, "neuroshard") == (1, 2)
    assert feasible(JUDGEMENT, "annealing") == (0, 0)


def test_a_summary_of_nothing_is_none():
    assert Summary.of([]) is None
    assert Summary.of([1.0, 3.0]) == Summary(2, 2.0, 2.0, 1.0, 1.0, 3.0)


def test_a_must_that_was_not_measured_does_not_hold():
    groups = ("10-60x4", "20-120x8", "400x32", "1000x128", "workloads", "tight")
    lines = report_lines(dict.fromkeys(groups, {}))
    musts = [line for line in lines if line.startswith("| ") and line.endswith("|")]
    verdicts = [line.rsplit("|", 2)[1].strip() for line in musts if "within 1 %" in line]
    assert verdicts
    assert set(verdicts) == {"NO"}


def test_a_must_that_holds_on_fewer_tasks_than_it_names_says_so():
    groups = ("10-60x4", "20-120x8", "400x32", "1000x128", "workloads", "tight")
    gained = {"local_search_rows": judged(0.9, 0.9), "neuroshard": judged(1.0, 1.0)}
    lines = report_lines(dict.fromkeys(groups, {}) | {"400x32": {"400x32/0": gained}})
    (line,) = [line for line in lines if "400x32: local_search_rows at least 5 %" in line]
    assert "-10.00 %" in line
    assert line.endswith("| yes, on 1 of 100 tasks |")


def test_costs_come_back_as_they_were_kept(tmp_path):
    found, none = Judged(1.25, 1.5, 0.1, ""), Judged(None, None, 2.0, 'no room, "a", for b')
    costs = Costs()
    costs.put("rows/10", "theirs", "key", none)
    costs.put("rows/9", "ours", "old key", none)
    costs.put("rows/9", "ours", "key", found)
    path = costs.write(tmp_path)
    again = Costs.read(tmp_path)
    assert again.get("rows/9", "ours", "key") == found
    assert again.get("rows/10", "theirs", "key") == none
    assert again.get("rows/9", "theirs", "key") is None
    assert again.get("rows/9", "ours", "old key") is None
    assert [line.split(",")[0] for line in path.read_text().splitlines()] == [
        "task",
        "rows/9",
        "rows/10",
    ]


def test_a_folder_without_costs_knows_none(tmp_path):
    assert Costs.read(tmp_path).get("rows/1", "ours", "key") is None


def test_a_tiny_run_asks_judges_and_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "ROOT", tmp_path / "answers")
    counts = {"neuroshard": 2, "local_search": 2, "size": 1}
    monkeypatch.setattr(bench_quality, "COUNTS", {group: counts for group in bench_quality.GROUPS})
    run = CliRunner()
    out = ["--out", str(tmp_path)]
    solve = ["solve", "--group", "10-60x4", "--group", "tight", *out]
    asked = run.invoke(bench_quality.app, solve)
    assert asked.exit_code == 0, asked.output
    written = run.invoke(bench_quality.app, ["report", *out, "--day", "2026-01-02"])
    assert written.exit_code == 0, written.output
    text = (tmp_path / "search_quality_roofline-h100_2026-01-02.md").read_text()
    assert "| neuroshard | 2/2 |" in text
    assert "| size | 1/1 |" in text
    assert str(tmp_path) not in text

    # a clone has the costs but not the answers, and knows the same without asking anybody
    monkeypatch.setattr(answers, "ROOT", tmp_path / "of a clone")
    assert run.invoke(bench_quality.app, solve).exit_code == 0
    assert not answers.ROOT.exists()
    run.invoke(bench_quality.app, ["report", *out, "--day", "2026-01-03"])
    again = (tmp_path / "search_quality_roofline-h100_2026-01-03.md").read_text()
    assert _without_machine(again) == _without_machine(text)

    # of one group, and what the others were worth is not forgotten
    kept = (tmp_path / FILE).read_text()
    run.invoke(bench_quality.app, ["report", "--group", "tight", *out, "--day", "2026-01-04"])
    tight = (tmp_path / "search_quality_tight_roofline-h100_2026-01-04.md").read_text()
    assert "bench_quality report --group tight" in tight
    assert "## Tight tasks" in tight and "## 10-60x4" not in tight
    assert (tmp_path / FILE).read_text() == kept


def _without_machine(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("- ")]
