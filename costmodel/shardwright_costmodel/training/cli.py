"""`shardwright-train`: reads a dataset, trains the cost models, publishes a bundle."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from shardwright_costmodel.bundle import NAME_PATTERN, REPORT_NAME, Manifest
from shardwright_costmodel.errors import CostModelError, without_secrets
from shardwright_costmodel.publishing import EXIT_NOT_PROMOTED, Publication, publish
from shardwright_costmodel.registry import Registry
from shardwright_costmodel.registry_view import print_publication
from shardwright_costmodel.training.checkpoint import Checkpoint
from shardwright_costmodel.training.data import load, load_like
from shardwright_costmodel.training.device import DeviceChoice, choose_device
from shardwright_costmodel.training.fit import FitSettings
from shardwright_costmodel.training.trainer import TrainingRun, identity, train

_EXIT_USER_ERROR = 2
_DEFAULTS = FitSettings()

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def shardwright_train(
    data: Annotated[str, typer.Option(help="Dataset root: a directory or any fsspec URL.")],
    out: Annotated[str, typer.Option(help="Registry to publish to: a directory or fsspec URL.")],
    unseen: Annotated[
        str | None,
        typer.Option(
            help="Dataset of what --data never has (tables, world sizes), such as "
            "'shardwright-worker --held-out' makes: accuracy on it is printed and kept too."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the cost model.")] = "shardwright",
    version: Annotated[
        str | None, typer.Option(help="Default: <YYYYMMDD>-<8 hex digits of the content>.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split, initial weights and batches.")] = 0,
    epochs: Annotated[
        int, typer.Option(min=1, help="Passes over the training data; more when it is small.")
    ] = _DEFAULTS.epochs,
    batch_size: Annotated[
        int, typer.Option(min=8, help="Measurements of a step; less when the data is small.")
    ] = _DEFAULTS.batch_size,
    learning_rate: Annotated[
        float, typer.Option(min=1e-9, max=10.0, help="At its peak; it falls to 0 along a cosine.")
    ] = _DEFAULTS.learning_rate,
    patience: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Share of the epochs without improvement that ends a fit."
        ),
    ] = _DEFAULTS.patience,
    max_minutes: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="End in this time; then results depend on the machine's speed."
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="Of torch; weights are the same for the same number.")
    ] = 1,
    device: Annotated[
        DeviceChoice, typer.Option(help="Where to train; auto: CUDA where there is such a device.")
    ] = DeviceChoice.AUTO,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Folder that keeps the state after every epoch: the same command goes on from "
            "there, and ends with the same weights. Emptied when the bundle is published."
        ),
    ] = None,
    promote: Annotated[
        bool,
        typer.Option(
            help="Make it the version that serves, if it is not worse than the one that does; "
            "exit status 3 if it is."
        ),
    ] = True,
    force: Annotated[
        bool, typer.Option("--force", help="Promote it also when it is worse.")
    ] = False,
    report: Annotated[
        bool,
        typer.Option(
            help="Publish report.html beside the bundle: learning curves, predictions, errors."
        ),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Trains the cost models of one hardware profile from measurements and publishes a bundle."""
    settings = FitSettings(
        seed=seed,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        patience=patience,
        max_seconds=math.inf if max_minutes is None else 60.0 * max_minutes,
    )
    log = Console(stderr=True)
    try:
        _require_name("--name", name)
        _require_name("--version", version)
        fit_on = choose_device(device)
        with _progress(log) as progress:
            tell = _reporter(progress)
            dataset = load(data, partial(tell, "read"))
            judged_on = None
            if unseen is not None:
                judged_on = load_like(unseen, dataset, partial(tell, "read unseen"))
            _require_new(Registry(out), dataset.hardware, version)
            kept = Checkpoint(checkpoint, identity(dataset, settings, threads, fit_on))
            run = train(
                dataset,
                name=name,
                version=version,
                settings=settings,
                threads=threads,
                device=fit_on,
                unseen=judged_on,
                checkpoint=kept,
                report=tell,
            )
        if report:
            run = reported(run, log)
        if dataset.left_out:
            reasons = ", ".join(f"{count} {reason}" for reason, count in dataset.left_out.items())
            log.print(f"operators left out: {reasons}", highlight=False)
        published = publish(Registry(out), run.bundle, promote_it=promote, force=force)
        kept.remove()
    except CostModelError as error:
        log.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(_EXIT_USER_ERROR) from error
    page = None
    if REPORT_NAME in run.bundle.attachments:
        page = f"{without_secrets(published.entry.url)}/{REPORT_NAME}"
    if as_json:
        payload = published.as_json() | {"report": page}
        payload["manifest"] = run.bundle.manifest.model_dump(mode="json")
        print(json.dumps(payload, indent=1))
    else:
        console = Console(highlight=False)
        _print_summary(console, run.bundle.manifest, published)
        if page:
            console.print(f"report: {page}", markup=False, soft_wrap=True)
    if published.refusal:
        log.print(f"error: {published.refusal}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(EXIT_NOT_PROMOTED)


def reported(run: TrainingRun, log: Console) -> TrainingRun:
    """The run with its report; hours of training are not lost to a picture that cannot be drawn."""
    try:
        # matplotlib takes a second to load
        from shardwright_costmodel.training.report import with_report

        return with_report(run)
    except Exception as error:
        text = f"warning: published without a report, which failed: {error!r}"
        log.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
        return run


def _require_name(option: str, value: str | None) -> None:
    """Says so before the training when the bundle could not be published after it."""
    if value is not None and not re.fullmatch(NAME_PATTERN, value):
        raise CostModelError(
            f"{option} must begin with a letter or digit and go on with those, '.', '_', '+' or "
            f"'-', 128 in all at most; got {value!r}"
        )


def _require_new(registry: Registry, hardware: str, version: str | None) -> None:
    if version in [entry.version for entry in registry.list() if entry.hardware == hardware]:
        raise CostModelError(
            f"{registry.root_url} already holds {hardware} {version}; choose another --version"
        )


def _progress(log: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[error]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=log,
        disable=not log.is_terminal,
    )


def _reporter(progress: Progress) -> Callable[..., None]:
    tasks: dict[str, TaskID] = {}

    def report(stage: str, fraction: float, error_percent: float | None = None) -> None:
        if stage not in tasks:
            tasks[stage] = progress.add_task(stage, total=1.0, error="")
        error = "" if error_percent is None else f"validation {error_percent:.2f} %"
        progress.update(tasks[stage], completed=fraction, error=error)

    return report


def _print_summary(console: Console, manifest: Manifest, published: Publication) -> None:
    table = Table(title=f"Held-out accuracy, {manifest.hardware} ({manifest.source.value.upper()})")
    table.add_column("quantity")
    for column in ("MAPE %", "Kendall tau", "measurements"):
        table.add_column(column, justify="right")
    for accuracy in manifest.accuracy:
        table.add_row(
            accuracy.quantity,
            f"{accuracy.mape_percent:.2f}",
            f"{accuracy.kendall_tau:.4f}",
            str(accuracy.num_measurements),
        )
    console.print(table)
    tightness = ", ".join(
        f"{name} {ratio:.3f}" for name, ratio in manifest.mean_floor_ratio.items()
    )
    console.print(f"mean floor / prediction: {tightness}")
    console.print(
        f"trained on {manifest.num_compute_measurements} fused operators, "
        f"{manifest.num_comm_measurements} all-to-alls and {manifest.num_all_reduce_measurements} "
        "all-reduces; a tenth of each, held out by combination, made this table, and --unseen its "
        "rows of that name"
    )
    print_publication(console, published)


def main() -> None:
    """Entry point."""
    app()
