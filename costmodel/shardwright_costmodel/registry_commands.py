"""The commands of `shardwright-registry`."""

from __future__ import annotations

import json
import logging
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from shardwright_costmodel import publishing
from shardwright_costmodel.bundle import read_bundle
from shardwright_costmodel.errors import (
    CostModelError,
    NotPromotedError,
    without_secrets,
)
from shardwright_costmodel.publishing import EXIT_NOT_PROMOTED
from shardwright_costmodel.registry import DEFAULT_BUNDLES_URL, Registry, RegistryEntry
from shardwright_costmodel.registry_view import (
    inventory,
    print_bundle,
    print_inventory,
    print_publication,
    print_verifications,
)
from shardwright_costmodel.verification import verify as verify_entry

EXIT_DAMAGED = 1
"""`verify`: a bundle is damaged."""
EXIT_USER_ERROR = 2
"""Something is wrong with the arguments, the store or a file; standard error says what."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Bundles of cost models in a registry: publish, list, verify, promote, roll back.",
)

BundlesOption = Annotated[
    str,
    typer.Option(
        "--bundles",
        envvar="SHARDWRIGHT_BUNDLES",
        help="The registry: a directory or any fsspec URL. Default: the bundles of this package.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
HardwareArgument = Annotated[str, typer.Argument(help="Hardware profile.", show_default=False)]
VersionArgument = Annotated[str, typer.Argument(help="Version.", show_default=False)]
WhyOption = Annotated[str, typer.Option(help="The reason, for the history.", show_default=False)]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Promote it also when it is worse than the default.")
]


@app.command("list")
def list_bundles(
    hardware: Annotated[str, typer.Argument(help="Only this profile.", show_default=False)] = "",
    bundles: BundlesOption = DEFAULT_BUNDLES_URL,
    as_json: JsonOption = False,
) -> None:
    """Lists the bundles there are; the one marked by a star serves where none is named."""
    registry = Registry(bundles)
    rows = inventory(registry, hardware)
    if as_json:
        _print_json([row.as_json() for row in rows])
    else:
        print_inventory(_console(), rows)


@app.command()
def show(
    hardware: HardwareArgument,
    version: Annotated[
        str, typer.Argument(help="Default: the one that serves.", show_default=False)
    ] = "",
    bundles: BundlesOption = DEFAULT_BUNDLES_URL,
    as_json: JsonOption = False,
) -> None:
    """Shows one bundle, every file checked, and the promotions of its profile."""
    registry = Registry(bundles)
    bundle = registry.load(hardware, version or None)
    promotions = registry.promotions(hardware)
    if as_json:
        _print_json(
            {
                "url": without_secrets(bundle.url),
                "manifest": bundle.manifest.model_dump(mode="json"),
                "promotions": None if promotions is None else promotions.model_dump(mode="json"),
            }
        )
    else:
        print_bundle(_console(), bundle, promotions)


@app.command()
def verify(
    hardware: Annotated[str, typer.Argument(help="Only this profile.", show_default=False)] = "",
    version: Annotated[str, typer.Argument(help="Only this version.", show_default=False)] = "",
    bundles: BundlesOption = DEFAULT_BUNDLES_URL,
    as_json: JsonOption = False,
) -> None:
    """Checks files, graphs and predictions of one bundle, of a profile, or of all; 1 if damaged."""
    registry = Registry(bundles)
    results = [verify_entry(registry, entry) for entry in _chosen(registry, hardware, version)]
    for name in sorted({result.entry.hardware for result in results}):
        # a bad promoted.json leaves servers without their default
        registry.default_version(name)
    if as_json:
        _print_json(
            [
                {
                    "hardware": result.entry.hardware,
                    "version": result.entry.version,
                    "url": without_secrets(result.entry.url),
                    "sound": not result.fault,
                    "fault": result.fault or None,
                }
                for result in results
            ]
        )
    else:
        print_verifications(_console(), results)
    if any(result.fault for result in results):
        raise typer.Exit(EXIT_DAMAGED)


@app.command()
def publish(
    bundle_url: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="A directory or fsspec URL with a manifest.")
    ],
    bundles: Annotated[
        str,
        typer.Option(
            "--bundles",
            envvar="SHARDWRIGHT_BUNDLES",
            help="The registry: a directory or any fsspec URL.",
        ),
    ],
    promote: Annotated[bool, typer.Option(help="Promote it, if it is not worse.")] = True,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Copies a bundle into a registry, whole or not at all, and promotes it; 3 if it is worse."""
    bundle = read_bundle(bundle_url.rstrip("/"))
    published = publishing.publish(Registry(bundles), bundle, promote_it=promote, force=force)
    if as_json:
        _print_json(published.as_json())
    else:
        print_publication(_console(), published)
    if published.refusal:
        raise NotPromotedError(published.refusal)


@app.command("promote")
def promote_version(
    hardware: HardwareArgument,
    version: VersionArgument,
    bundles: BundlesOption = DEFAULT_BUNDLES_URL,
    why: WhyOption = "",
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Makes a version the one that serves, if it is not worse than the present one; else 3."""
    reason = publishing.promote(Registry(bundles), hardware, version, why=why, force=force)
    _print_change(hardware, version, reason, as_json)


@app.command()
def rollback(
    hardware: HardwareArgument,
    bundles: BundlesOption = DEFAULT_BUNDLES_URL,
    why: WhyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Makes the version that was promoted before serve again."""
    registry = Registry(bundles)
    version = publishing.roll_back(registry, hardware, why=why)
    promotions = registry.promotions(hardware)
    reason = promotions.history[-1].why if promotions is not None else why
    _print_change(hardware, version, reason, as_json)


def _chosen(registry: Registry, hardware: str, version: str) -> tuple[RegistryEntry, ...]:
    if not hardware:
        return registry.list()
    entries = registry.versions(hardware)
    if version:
        entries = tuple(entry for entry in entries if entry.version == version)
        if not entries:
            registry.load(hardware, version)  # says which there are
    return entries


def _print_change(hardware: str, version: str, why: str, as_json: bool) -> None:
    if as_json:
        _print_json({"hardware": hardware, "promoted": version, "why": why})
        return
    console = _console()
    console.print(f"{version} serves {hardware} now", markup=False, soft_wrap=True)
    console.print(f"  {why}", markup=False, soft_wrap=True)


def _console() -> Console:
    return Console(highlight=False, emoji=False)


def _print_json(payload: Any) -> None:
    print(json.dumps(payload, indent=1))


def _error(message: str) -> None:
    Console(stderr=True).print(
        f"error: {' '.join(message.split())}",
        style="red",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def run() -> None:
    """Runs the command line; a user's mistake is one line on standard error."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        app()
    except NotPromotedError as error:
        _error(str(error))
        sys.exit(EXIT_NOT_PROMOTED)
    except CostModelError as error:
        _error(str(error))
        sys.exit(EXIT_USER_ERROR)
