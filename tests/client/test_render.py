"""Pages stay readable: very many devices and tables, strange names, unusual answers."""

import io
import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from canned_server import COST_MODEL, any_plan, device_costs, plan_result, small_problem
from rich.console import Console

from shardwright.domain import (
    Baseline,
    CostModelAccuracy,
    CostModelDescription,
    CostModelSource,
    DeviceCost,
    EvaluationResult,
    PlanResult,
    ShardingProblem,
    StoppedBy,
)
from shardwright_client import render
from shardwright_client.render.table_rows import device_list


def page(
    problem: ShardingProblem,
    result: PlanResult | None = None,
    *,
    full: bool = False,
    width: int = 80,
    colours: bool = False,
) -> str:
    console = Console(
        file=io.StringIO(),
        width=width,
        highlight=False,
        force_terminal=colours,
        color_system="standard" if colours else None,
    )
    render.print_plan(console, problem, result or plan_result(problem), full=full)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def section(text: str, heading: str) -> str:
    return text.split(heading, 1)[1].split("\n\n", 1)[0]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_lines_keep_to_the_width(width: int) -> None:
    problem = small_problem(num_tables=300, num_devices=128)
    assert max(map(len, page(problem, width=width).splitlines())) <= width


def test_very_many_devices_and_tables_are_abbreviated() -> None:
    problem = small_problem(num_tables=300, num_devices=128)
    text = page(problem)
    assert "... and 96 devices that wait longer (--full lists all)" in text
    assert "... and 96 devices with more room (--full lists all)" in text
    assert "... and 260 tables" in text
    assert len(text.splitlines()) < 150
    # the slowest device and the cut tables are among those shown
    assert re.search(r"^ +127 .*0\.0 +", section(text, "Time of each device"), re.M)
    assert "table_0 " in text and "table_1 " in text


def test_full_lists_everything() -> None:
    problem = small_problem(num_tables=300, num_devices=128)
    text = page(problem, full=True)
    assert "--full" not in text
    for i in range(300):
        assert f"  table_{i} " in text
    times = section(text, "Time of each device")
    assert all(re.search(rf"^ +{d} +█", times, re.M) for d in range(128))


def test_long_names_give_way_to_numbers() -> None:
    small = small_problem()
    long_names = tuple(replace(t, name=f"{t.name}_{'x' * 400}") for t in small.tables)
    tables = section(page(replace(small, tables=long_names)), "Tables\n")
    assert re.search(r"^  table_0_x+\.\.\. +1,000 x 64 .*columns 32\+32 +1, 0 *$", tables, re.M)


def test_names_cannot_take_over_the_terminal() -> None:
    small = small_problem()
    evil = replace(small.tables[2], name="\x1b[31mred[bold]\n\r\a")
    text = page(replace(small, tables=(*small.tables[:2], evil)))
    assert "\x1b" not in text and "\a" not in text and "\r" not in text
    assert "\N{REPLACEMENT CHARACTER}[31mred[bold]" in text


def test_colours_tell_the_parts_apart_and_plain_text_has_a_glyph_for_each() -> None:
    problem = small_problem()
    coloured = section(page(problem, colours=True), "Time of each device")
    assert re.search(
        r"\x1b\[[\d;]*34m▇+\x1b\[0m\x1b\[[\d;]*36m▇+\x1b\[0m\x1b\[[\d;]*35m▇+", coloured
    )
    plain = section(page(problem), "Time of each device")
    assert re.search(r"█+▓+▒+·+", plain)


def test_bars_are_as_long_as_their_numbers() -> None:
    problem = small_problem(num_tables=3)
    costs = (DeviceCost(0, 8.0, 0.0, 0.0, 0.0, 0), DeviceCost(1, 4.0, 0.0, 0.0, 0.0, 0))
    result = replace(plan_result(problem), devices=costs, cost_ms=8.0)
    lines = section(page(problem, result), "Time of each device").splitlines()
    bars = [line.count("█") for line in lines if re.match(r" +[01] ", line)]
    assert bars[0] in (2 * bars[1] - 1, 2 * bars[1], 2 * bars[1] + 1)
    assert bars[0] > 20


def test_measured_models_say_so() -> None:
    problem = small_problem()
    measured = replace(COST_MODEL, source=CostModelSource.MEASURED)
    text = page(problem, replace(plan_result(problem), cost_model=measured))
    assert "MEASURED on test-gpu" in text
    assert "MODELLED" not in text


def test_unusual_answers_are_put_in_words() -> None:
    problem = small_problem()
    result = plan_result(problem)
    none_fits = replace(result, baselines=(Baseline("dim", None),))
    assert "no baseline finds a plan that fits into memory" in page(problem, none_fits)
    worse = replace(result, baselines=(Baseline("dim", result.cost_ms / 2),))
    assert "100.0 % more than the best baseline (dim, 4.50 ms)" in page(problem, worse)
    same = replace(result, baselines=(Baseline("dim", result.cost_ms),))
    assert "the same as the best baseline" in page(problem, same)
    bounded = replace(result, lower_bound_ms=result.cost_ms / 1.25)
    assert (
        "at most 25.0 % above the best possible by these models (no legal plan is below 7.20 ms)"
        in " ".join(page(problem, bounded).split())
    )
    unbounded = replace(result, lower_bound_ms=None)
    assert "best possible" not in page(problem, unbounded)
    going_on = replace(result, search=replace(result.search, stopped_by=None))
    assert "still going on" in page(problem, going_on)
    stopped = replace(result, search=replace(result.search, stopped_by=StoppedBy.TIME_BUDGET))
    assert "stopped by its time budget" in " ".join(page(problem, stopped).split())


def test_costs_of_zero_are_drawn_too() -> None:
    problem = small_problem()
    free = tuple(DeviceCost(d, 0.0, 0.0, 0.0, 0.0, 0) for d in range(2))
    result = replace(
        plan_result(problem), devices=free, cost_ms=0.0, baselines=(Baseline("dim", 0.0),)
    )
    assert "0.000 ms per iteration" in page(problem, result)


def test_an_evaluated_plan_that_overfills_a_device_shows_it() -> None:
    problem = small_problem()
    plan = any_plan(problem)
    full = tuple(replace(d, memory_bytes=2**41) for d in device_costs(plan, problem))
    console = Console(file=io.StringIO(), width=80)
    render.print_evaluation(console, problem, plan, EvaluationResult(1.0, full, COST_MODEL, "f"))
    assert re.search(r"^ +0 +█+ +2,048\.00 +1,023\.00 +200 ", console.file.getvalue(), re.M)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("devices", "text"),
    [
        ([0], "0"),
        ([0, 1], "0, 1"),
        ([0, 1, 2, 3], "0-3"),
        ([7, 0, 1], "7, 0, 1"),
        ([5, 6, 7, 2, 2], "5-7, 2, 2"),
        ([9, 7, 5, 3, 1, 8, 6, 4], "9, 7, 5, 3, 1, 8, ... (8)"),
    ],
)
def test_devices_are_listed_briefly(devices: list[int], text: str) -> None:
    assert device_list(devices) == text


def test_long_names_of_cost_models_are_shown_whole() -> None:
    name = "a-name-of-128-characters-" + "x" * 103
    identity = replace(COST_MODEL, name=name, version=name, hardware=name)
    model = CostModelDescription(
        cost_model=replace(identity, source=CostModelSource.MEASURED),
        create_time=datetime(2026, 11, 1, tzinfo=UTC),
        num_compute_measurements=10_000,
        num_comm_measurements=1_000,
        accuracy=(CostModelAccuracy("compute", 0.031, 0.999, 500),),
        software={},
        is_default=True,
    )
    console = Console(file=io.StringIO(), width=80, highlight=False)
    render.print_models(console, [model, model])
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
    assert "".join(text.split()).count(name) == 8
    assert "0.03" in text
