"""The head of an answer: what was asked, what it costs, and who says so."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shardwright.domain import (
    CostModelId,
    CostModelSource,
    EvaluationResult,
    PlanResult,
    ShardingProblem,
    StoppedBy,
)
from shardwright_client.render.layout import clean, count, facts_grid, gibibytes, milliseconds


def print_plan_header(console: Console, problem: ShardingProblem, result: PlanResult) -> None:
    """Prints the head of a plan: cost against baselines and bound, cost model, search."""
    _print_title(console, "Sharding plan", problem)
    facts = facts_grid()
    facts.add_row("Cost", _cost_text(result.cost_ms))
    facts.add_row("", _against_baselines(result))
    if result.lower_bound_ms is not None:
        facts.add_row("", against_bound(result))
    _add_cost_model(facts, result.cost_model)
    facts.add_row("Search", _search_text(result))
    console.print(facts)


def print_evaluation_header(
    console: Console, problem: ShardingProblem, result: EvaluationResult
) -> None:
    """Prints the head of an evaluation: cost and cost model."""
    _print_title(console, "Evaluation of a plan", problem)
    facts = facts_grid()
    facts.add_row("Cost", _cost_text(result.cost_ms))
    _add_cost_model(facts, result.cost_model)
    facts.add_row("Plan", Text(f"fingerprint {result.fingerprint[:16]}"))
    console.print(facts)


def _print_title(console: Console, what: str, problem: ShardingProblem) -> None:
    cluster = problem.cluster
    tables = count(len(problem.tables), "table")
    hosts = "" if cluster.num_hosts == 1 else f" on {cluster.num_hosts} hosts"
    title = f"{what}: {tables}, {cluster.num_devices} x {clean(cluster.hardware)}{hosts}"
    console.print(Text(title, style="bold"))
    console.print(
        Text(
            f"{gibibytes(problem.total_bytes)} GiB of weights and {problem.optimizer.value} "
            f"state, global batch {problem.global_batch_size:,}",
            style="bright_black",
        )
    )
    console.print()


def _cost_text(cost_ms: float) -> Text:
    return Text.assemble((f"{milliseconds(cost_ms)} ms", "bold"), " per iteration, predicted")


def _against_baselines(result: PlanResult) -> Text:
    costs = [(b.cost_ms, b.name) for b in result.baselines if b.cost_ms is not None]
    if not costs:
        return Text("no baseline finds a plan that fits into memory")
    best_ms, name = min(costs)
    percent = (best_ms - result.cost_ms) / best_ms * 100 if best_ms > 0 else 0.0
    against = f"the best baseline ({clean(name)}, {milliseconds(best_ms)} ms)"
    if abs(percent) < 0.05:
        return Text(f"the same as {against}")
    better = percent > 0
    return Text.assemble(
        (f"{abs(percent):.1f} %", "bold green" if better else "bold red"),
        f" {'less' if better else 'more'} than {against}",
    )


def against_bound(result: PlanResult) -> Text:
    """How far from the best possible plan this one can be, at most."""
    if result.gap is None or result.lower_bound_ms is None:
        return Text("no lower bound is known")
    return Text.assemble(
        ("at most ", ""),
        (f"{max(0.0, result.gap) * 100:.1f} %", "bold"),
        f" above the best possible by these models (no legal plan is below "
        f"{milliseconds(result.lower_bound_ms)} ms)",
    )


def _add_cost_model(facts: Table, cost_model: CostModelId) -> None:
    facts.add_row(
        "Cost model", Text(f"{clean(cost_model.name)}, version {clean(cost_model.version)}")
    )
    facts.add_row("", source_text(cost_model))


def source_text(cost_model: CostModelId) -> Text:
    """Whether the numbers behind a cost model were measured."""
    if cost_model.source is CostModelSource.MEASURED:
        return Text.assemble(("MEASURED", "bold green"), f" on {clean(cost_model.hardware)}")
    return Text.assemble(
        ("MODELLED", "bold yellow"),
        ": an analytic model of the hardware, not measurements",
    )


def _search_text(result: PlanResult) -> Text:
    search = result.search
    ended = {
        None: ", still going on",
        StoppedBy.COMPLETED: "",
        StoppedBy.TIME_BUDGET: ", stopped by its time budget",
        StoppedBy.DEADLINE: ", stopped by the deadline",
    }[search.stopped_by]
    return Text(
        f"{search.algorithm.value}: {count(search.plans_evaluated, 'plan')} evaluated in "
        f"{search.duration_s:.2f} s{ended}"
    )
