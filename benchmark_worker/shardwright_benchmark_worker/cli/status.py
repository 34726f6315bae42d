"""`shardwright-worker status`."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from shardwright_benchmark_worker.cli import options as option
from shardwright_benchmark_worker.errors import OptionError
from shardwright_benchmark_worker.status import FleetStatus, WorkerStatus, read_status
from shardwright_benchmark_worker.store import persistently

_SHOWN_WORKERS = 64
_SECONDS_A_UNIT = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def status(
    out: option.Out,
    as_json: Annotated[bool, typer.Option("--json", help="JSON for machines.")] = False,
    stale_after_s: Annotated[
        float, typer.Option(help="A worker that runs and is silent for longer is stale.")
    ] = 300.0,
) -> None:
    """Shows how far a fleet is, from its store alone."""
    try:
        fleets = persistently(partial(read_status, out, stale_after_s), retry_s=0.0)
    except (ValueError, ImportError) as error:
        raise OptionError(f"--out {out}: cannot be opened: {error}") from error
    if as_json:
        print(json.dumps([asdict(fleet) for fleet in fleets], indent=2))
        return
    console = Console()
    if not fleets:
        console.print(f"Nothing is there yet: {out} holds neither parts nor heartbeats.")
    for fleet in fleets:
        _show(console, fleet)


def _show(console: Console, fleet: FleetStatus) -> None:
    console.print(f"[bold]{fleet.kind}[/bold]  {fleet.sequence}", highlight=False)
    console.print(f"  {_samples(fleet)}", highlight=False)
    console.print(f"  {_speed(fleet)}", highlight=False)
    if fleet.workers:
        console.print(_worker_table(fleet.workers))
    if len(fleet.workers) > _SHOWN_WORKERS:
        console.print(f"  ... and {len(fleet.workers) - _SHOWN_WORKERS} more; --json shows all")
    console.print()


def _samples(fleet: FleetStatus) -> str:
    if fleet.samples_expected is None:
        text = f"{fleet.samples_done:,} samples, no worker has reported"
    else:
        share = 100.0 * fleet.samples_done / fleet.samples_expected
        text = f"{fleet.samples_done:,} of {fleet.samples_expected:,} samples ({share:.1f} %)"
    text += f" in {fleet.num_parts:,} parts"
    for number, what in (
        (fleet.samples_infeasible, "did not fit into memory"),
        (fleet.samples_drifted, "flagged: device throttled or shared"),
    ):
        if number:
            text += f"; {number:,} {what}"
    if fleet.parts_damaged:
        text += f"; [red]{fleet.parts_damaged:,} parts cannot be read[/red]"
    return text


def _speed(fleet: FleetStatus) -> str:
    text = f"{fleet.samples_per_s:.3g} samples/s, "
    text += f"{duration(fleet.eta_s)} to go" if fleet.eta_s is not None else "no worker runs"
    if fleet.last_part_age_s is not None:
        text += f"; last part {duration(fleet.last_part_age_s)} ago"
    if fleet.samples_unattended:
        text += f"; [red]nobody measures {fleet.samples_unattended:,} missing samples[/red]"
    return text


def _worker_table(workers: tuple[WorkerStatus, ...]) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("worker", "state", "done", "of", "samples/s", "to go", "heard", "host"):
        table.add_column(name, justify="left" if name in ("state", "host") else "right")
    # those that need a hand come first
    urgent = sorted(workers, key=lambda worker: worker.state in ("running", "done"))
    for worker in urgent[:_SHOWN_WORKERS]:
        trouble = worker.state in ("failed", "stale")
        rate = "" if worker.samples_per_s is None else f"{worker.samples_per_s:.3g}"
        table.add_row(
            str(worker.worker_index),
            f"[red]{worker.state}[/red]" if trouble else worker.state,
            f"{worker.samples_done:,}",
            f"{worker.samples:,}",
            rate,
            "" if worker.eta_s is None else duration(worker.eta_s),
            "never" if worker.silent_s is None else f"{duration(worker.silent_s)} ago",
            f"{worker.host} {worker.error}".strip(),
        )
    return table


def duration(seconds: float) -> str:
    """In the largest unit of which there is one, and the next smaller: `2 h 5 min`."""
    left = round(seconds)
    shown: list[str] = []
    for size, unit in _SECONDS_A_UNIT:
        number, left = divmod(left, size)
        if shown or number:
            shown.append(f"{number} {unit}" if number else "")
        if len(shown) == 2:
            break
    return " ".join(filter(None, shown)) or "0 s"
