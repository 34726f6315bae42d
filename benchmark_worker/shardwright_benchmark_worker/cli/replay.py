"""`shardwright-worker replay`."""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from shardwright_benchmark_worker.cli import options as option
from shardwright_benchmark_worker.errors import OptionError
from shardwright_benchmark_worker.progress import logger, progress
from shardwright_benchmark_worker.replay.files import PlannedJob, read_jobs


def replay(
    responses: Annotated[
        list[Path],
        typer.Argument(
            help="GetShardingPlanResponse files (proto JSON), for one number of devices.",
            show_default=False,
        ),
    ],
    device: Annotated[str, typer.Option(help="cpu or cuda.")],
    request: Annotated[
        Path | None,
        typer.Option(
            help="The GetShardingPlanRequest that they answer: it alone holds pooling factors, "
            "batch and optimizer. Default: request.json in the folder of each response.",
            show_default=False,
        ),
    ] = None,
    hardware: Annotated[
        str | None,
        typer.Option(
            help="Profile of this hardware; predictions for another one are warned of. Default: "
            "judged by the device's name.",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option(help="Times each plan is built and run; several plans take turns.")
    ] = 3,
    iterations: Annotated[int, typer.Option(help="Timed iterations of each round.")] = 20,
    warmup: option.Warmup = 5,
    batches: Annotated[int, typer.Option(help="Batches of lookups, taken in turn.")] = 4,
    seed: Annotated[int, typer.Option(help="Of the lookups.")] = 0,
    timeout_s: Annotated[
        float, typer.Option(help="A collective that takes longer has lost a rank.")
    ] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Runs plans on real ranks, under torchrun, and compares predicted with measured cost."""
    if device not in ("cpu", "cuda"):
        raise OptionError(f"--device must be cpu or cuda, got {device!r}")
    planned = read_jobs(responses, request)
    # torch and fbgemm take seconds to load: mistakes in files come before
    from shardwright_benchmark_worker.measure.job import Job, join_job
    from shardwright_benchmark_worker.replay import render
    from shardwright_benchmark_worker.replay.run import ReplaySettings
    from shardwright_benchmark_worker.replay.run import replay as run

    settings = ReplaySettings(rounds, warmup, iterations, batches, seed)
    with join_job("replay ...", device, timeout_s) as opened:
        job = Job(opened, timeout_s)
        warnings = _warnings(planned, hardware, job.device.fingerprint()["device"])
        first = job.rank == 0
        if not first:
            logger.setLevel(logging.ERROR)
        for warning in warnings:
            logger.warning(warning)
        total = len(planned) * rounds
        bar = progress("replay", total) if first else nullcontext(_nothing)
        with bar as advance:
            measured = run(planned, job, settings, advance)
    if first and as_json:
        print(json.dumps(render.as_json(measured, warnings), indent=1))
    elif first:
        render.print_plans(Console(highlight=False), measured)


def _nothing() -> None:
    """Advances no bar."""


def _warnings(planned: list[PlannedJob], hardware: str | None, device_name: str) -> list[str]:
    """One for each profile that predicted and is not that of this hardware."""
    profiles = sorted({plan.result.cost_model.hardware for plan in planned})
    if hardware is not None:
        return [
            f"predictions are for {profile}, this is {hardware}: only their order may hold"
            for profile in profiles
            if profile != hardware
        ]
    return [
        f"predictions are for {profile}, this is {device_name!r}: only their order may hold "
        f"(--hardware {profile} says that it is the same)"
        for profile in profiles
        if not _resembles(profile, device_name)
    ]


def _resembles(profile: str, device_name: str) -> bool:
    """Whether maker and model, the first two words of a profile, stand in a device's name."""
    words = profile.lower().split("-")[:2]
    return all(word in device_name.lower() for word in words)
