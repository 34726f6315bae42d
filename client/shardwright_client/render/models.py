"""Cost models: provenance and accuracy."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shardwright.domain import CostModelDescription, CostModelSource
from shardwright_client.render.header import source_text
from shardwright_client.render.layout import clean, facts_grid, print_indented


def print_models(console: Console, models: Sequence[CostModelDescription]) -> None:
    """Prints cost models, their provenance and their accuracy."""
    if not models:
        console.print("The server has no such cost model.")
        return
    for i, model in enumerate(models):
        if i:
            console.print()
        _print_model(console, model)


def _print_model(console: Console, model: CostModelDescription) -> None:
    identity = model.cost_model
    title = Text.assemble(
        (clean(identity.hardware), "bold"), f"  version {clean(identity.version)}"
    )
    if model.is_default:
        title.append("  (default)", style="bright_black")
    console.print(title)
    facts = facts_grid()
    facts.add_row("Name", Text(clean(identity.name)))
    facts.add_row("Source", source_text(identity))
    facts.add_row("Made", Text(f"{model.create_time:%Y-%m-%d %H:%M} UTC"))
    kind = "measured" if identity.source is CostModelSource.MEASURED else "modelled"
    facts.add_row(
        "Trained on",
        Text(
            f"{model.num_compute_measurements:,} {kind} operators, "
            f"{model.num_comm_measurements:,} {kind} all-to-alls"
        ),
    )
    print_indented(console, facts)
    if model.accuracy:
        _print_accuracy(console, model)


def _print_accuracy(console: Console, model: CostModelDescription) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bright_black")
    table.add_column("on held-out data", no_wrap=True)
    for heading in ("mean error %", "Kendall tau", "samples"):
        table.add_column(heading, justify="right", no_wrap=True)
    for a in model.accuracy:
        table.add_row(
            clean(a.quantity),
            f"{a.mape_percent:.2f}",
            f"{a.kendall_tau:.3f}",
            f"{a.num_measurements:,}",
        )
    print_indented(console, table)
