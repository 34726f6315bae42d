from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import typer
from typer.testing import CliRunner

from shardwright_benchmark_worker.cli.grouping import grouped

ran: list[object] = []


@dataclass(frozen=True, kw_only=True)
class Engine:
    panel: ClassVar[str] = "The engine"
    power: Annotated[int, typer.Option(help="Its power.")]
    loud: Annotated[bool, typer.Option("--loud", help="Whether it is loud.")] = False


@grouped
def drive(engine: Engine, speed: Annotated[int, typer.Option(help="How fast.")] = 3) -> None:
    """Drives."""
    ran.append((engine, speed))


def invoke(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(drive)
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    return done.output


def test_the_fields_of_a_group_are_options() -> None:
    invoke("--power", "7")
    invoke("--speed", "4", "--power", "8", "--loud")
    assert ran == [(Engine(power=7), 3), (Engine(power=8, loud=True), 4)]


def test_help_shows_a_group_under_its_heading() -> None:
    shown = invoke("--help")
    assert "Drives." in shown and "How fast." in shown
    assert shown.index("The engine") < shown.index("--power")
    assert "[required]" in shown.split("--power")[1].splitlines()[0]
