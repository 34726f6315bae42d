"""What a person reads: plans, evaluations and cost models on a terminal of 80 columns or more."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from shardwright.domain import EvaluationResult, PlanResult, ShardingPlan, ShardingProblem
from shardwright_client.render.baselines import print_baselines
from shardwright_client.render.devices import print_memory, print_times
from shardwright_client.render.header import print_evaluation_header, print_plan_header
from shardwright_client.render.improvements import improvements
from shardwright_client.render.layout import clean
from shardwright_client.render.models import print_models
from shardwright_client.render.tables import print_tables

__all__ = ["improvements", "print_evaluation", "print_models", "print_plan"]


def print_plan(
    console: Console, problem: ShardingProblem, result: PlanResult, *, full: bool = False
) -> None:
    """Prints a plan: cost, devices, memory, tables, baselines, warnings.

    Args:
        console: Where to.
        problem: What was asked.
        result: The answer.
        full: Every device and table, however many.
    """
    print_plan_header(console, problem, result)
    print_times(console, result.devices, full)
    print_memory(console, problem, result.plan, result.devices, full)
    print_tables(console, problem, result.plan, full)
    print_baselines(console, result)
    _print_warnings(console, result.warnings)


def print_evaluation(
    console: Console,
    problem: ShardingProblem,
    plan: ShardingPlan,
    result: EvaluationResult,
    *,
    full: bool = False,
) -> None:
    """Prints what somebody's plan costs; arguments as in `print_plan`."""
    print_evaluation_header(console, problem, result)
    print_times(console, result.devices, full)
    print_memory(console, problem, plan, result.devices, full)
    print_tables(console, problem, plan, full)
    _print_warnings(console, result.warnings)


def _print_warnings(console: Console, warnings: Iterable[str]) -> None:
    for warning in warnings:
        console.print()
        console.print(Text.assemble(("Warning: ", "bold yellow"), clean(warning)))
