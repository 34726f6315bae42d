"""A tiny run of the benchmark of lower bounds."""

from tests.benchmarks import bench_gap
from tests.benchmarks.quality import tasks_of


def test_gaps_of_all_types_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_gap, "COUNTS", {"10-60x4": 2, "workloads": 1})
    bench_gap.main(day="2026-01-02", out=tmp_path)
    lines = (tmp_path / "plan_gap_roofline-h100_2026-01-02.md").read_text().splitlines()
    problem = next(tasks_of("workloads")).problem
    gap = bench_gap.gap_of(problem, bench_gap.WITH_ROWS)
    (row,) = [line for line in lines if line.startswith("| workloads, rows (default) |")]
    assert row == f"| workloads, rows (default) | 1 | {' | '.join([f'{100 * gap:.1f} %'] * 4)} |"
    assert sum(line.startswith("| 10-60x4, ") for line in lines) == 3
    assert 0.0 <= gap < 1.0
