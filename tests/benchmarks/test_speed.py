"""The harness that times searches; no time is asserted."""

import pytest
from tests.benchmarks.bench_search import WORKS, _curves, _report
from tests.benchmarks.growth_plot import plot_growth
from tests.benchmarks.speed import LOCAL_SEARCH, NEUROSHARD, REFERENCE, Timing, time_apart


def timing(*cpu_s, peak_mib=100):
    least_s = list(cpu_s)
    return Timing(least_s, least_s, [2 * s for s in cpu_s], 3, len(cpu_s), peak_mib * 2**20, 0)


@pytest.mark.parametrize("side", [LOCAL_SEARCH, NEUROSHARD])
def test_a_child_times_each_task(side):
    found = time_apart(side, ["sized/10/2", "10-60x4/0"], timeout_s=120)
    assert len(found.cpu_s) == len(found.wall_s) == found.plans == 2
    assert found.peak_bytes >= found.idle_bytes > 2**20
    assert found.passes >= 3
    assert all(least <= first for least, first in zip(found.cpu_s, found.first_cpu_s, strict=True))


def test_the_reference_is_timed_too():
    assert time_apart(REFERENCE, ["sized/3/2"], timeout_s=120).plans == 1


def test_patience_ends():
    assert time_apart(NEUROSHARD, ["1000x128/0"], timeout_s=0.1) is None


def test_a_must_holds_by_median_and_memory():
    work = WORKS[-1]  # 1.5 s and 500 MiB

    def verdict(own):
        timings = {(work.title, side): None for side in (NEUROSHARD, REFERENCE)}
        lines = _report([work], {**timings, (work.title, LOCAL_SEARCH): own}, "plot.png", 60.0)
        return next(line for line in lines if work.title in line).rsplit("|", 2)[1].strip()

    assert verdict(timing(1.0, 1.4, 9.0)) == "yes"
    assert verdict(timing(1.0, 1.6, 1.7)) == "NO"
    assert verdict(timing(1.0, peak_mib=501)) == "NO"
    assert verdict(None) == "NO"


def test_ratios_compare_the_same_tasks():
    work = WORKS[1]
    timings = {
        (work.title, LOCAL_SEARCH): timing(0.1, 0.2, 9.0),
        (work.title, NEUROSHARD): timing(1.0, 4.0),
        (work.title, REFERENCE): None,
    }
    lines = _report([work], timings, "plot.png", 60.0)
    assert any(NEUROSHARD in line and "| 15.0x |" in line for line in lines)
    assert any(REFERENCE in line and "not in time" in line for line in lines)


def test_growth_is_drawn_with_a_panel_for_tables_and_one_for_devices(tmp_path):
    grown = {
        (LOCAL_SEARCH, "sized/10/8"): timing(0.01),
        (LOCAL_SEARCH, "sized/30/8"): timing(0.02),
        (LOCAL_SEARCH, "sized/256/8"): timing(0.1),
        (NEUROSHARD, "sized/256/16"): timing(0.3),
        (NEUROSHARD, "sized/256/64"): Timing([0.1], [0.1], [0.1], 1, 0, 1, 1),  # found no plan
        (NEUROSHARD, "sized/256/128"): None,
    }
    curves = _curves(grown)
    assert list(curves) == ["tables, on 8 devices", "devices, 256 tables"]
    assert curves["devices, 256 tables"][NEUROSHARD] == [(16, 0.3)]
    plot_growth(curves, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
