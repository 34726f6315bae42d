"""What the commands print about bundles and registries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shardwright.domain import CostModelSource
from shardwright_costmodel.bundle import Bundle, Manifest, read_manifest
from shardwright_costmodel.comparison import QUANTITIES, accuracy_by_quantity
from shardwright_costmodel.errors import CostModelError, without_secrets
from shardwright_costmodel.history import Action, Promotions
from shardwright_costmodel.publishing import Publication
from shardwright_costmodel.registry import Registry, RegistryEntry
from shardwright_costmodel.verification import Verification


@dataclass(frozen=True)
class InventoryRow:
    """One bundle of a registry.

    Attributes:
        entry: Where it lies.
        manifest: What it is; None when that cannot be read.
        fault: Why not; empty otherwise.
        is_default: Whether it serves where no version is named.
        is_promoted: Whether it does because it was promoted.
    """

    entry: RegistryEntry
    manifest: Manifest | None
    fault: str
    is_default: bool
    is_promoted: bool

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        row: dict[str, Any] = {
            "hardware": self.entry.hardware,
            "version": self.entry.version,
            "url": without_secrets(self.entry.url),
            "is_default": self.is_default,
            "is_promoted": self.is_promoted,
            "fault": self.fault or None,
        }
        if self.manifest is not None:
            chosen = {
                "name",
                "source",
                "created_at",
                "num_compute_measurements",
                "num_comm_measurements",
                "num_all_reduce_measurements",
                "accuracy",
            }
            row |= self.manifest.model_dump(mode="json", include=chosen)
        return row


def inventory(registry: Registry, hardware: str = "") -> tuple[InventoryRow, ...]:
    """The bundles of a registry, or of one profile; the manifests are read, the graphs are not.

    Raises:
        BundleNotFoundError: When a profile is named that has none.
        BundleError: When the registry or a `promoted.json` cannot be read.
    """
    entries = registry.versions(hardware) if hardware else registry.list()
    defaults: dict[str, str | None] = {}
    promoted: dict[str, bool] = {}
    for name in {entry.hardware for entry in entries}:
        promoted[name] = registry.promotions(name) is not None
        try:
            defaults[name] = registry.default_version(name)
        except CostModelError:
            if promoted[name]:
                raise
            defaults[name] = None  # no manifest of it can be read, as its rows say
    rows = []
    for entry in entries:
        is_default = entry.version == defaults[entry.hardware]
        manifest, fault = None, ""
        try:
            manifest = read_manifest(entry.url)
        except CostModelError as error:
            fault = str(error)
        is_promoted = is_default and promoted[entry.hardware]
        rows.append(InventoryRow(entry, manifest, fault, is_default, is_promoted))
    return tuple(rows)


def print_inventory(console: Console, rows: Sequence[InventoryRow]) -> None:
    """Prints the bundles of a registry, a table for each profile."""
    if not rows:
        console.print("no bundles")
        return
    for hardware in dict.fromkeys(row.entry.hardware for row in rows):
        console.print(Text(hardware, style="bold"))
        console.print(_versions_table([row for row in rows if row.entry.hardware == hardware]))
    if any(row.is_default for row in rows):
        console.print("* serves where no version is named", style="bright_black")
    for row in rows:
        if row.fault:
            console.print(row.fault, style="red", markup=False, soft_wrap=True)


def _versions_table(rows: Sequence[InventoryRow]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bright_black")
    table.add_column("", no_wrap=True)
    table.add_column("version", overflow="fold")
    table.add_column("source", no_wrap=True)
    table.add_column("created", no_wrap=True)
    for heading in ("measurements", "compute", "comm"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        mark = "*" if row.is_default else ""
        cells = _cells(row.manifest) if row.manifest else [Text("unreadable", style="red")]
        table.add_row(mark, row.entry.version, *cells)
    return table


def _cells(manifest: Manifest) -> list[Text]:
    accuracy = accuracy_by_quantity(manifest)
    errors = [
        f"{accuracy[quantity].mape_percent:.2f} %" if quantity in accuracy else "?"
        for quantity in ("compute", "forward_comm")
    ]
    measurements = (
        manifest.num_compute_measurements
        + manifest.num_comm_measurements
        + manifest.num_all_reduce_measurements
    )
    return [
        _source(manifest),
        Text(f"{manifest.created_at:%Y-%m-%d %H:%M}"),
        Text(f"{measurements:,}"),
        *map(Text, errors),
    ]


def _source(manifest: Manifest) -> Text:
    color = "green" if manifest.source is CostModelSource.MEASURED else "yellow"
    return Text(manifest.source.value.upper(), style=color)


def print_bundle(console: Console, bundle: Bundle, promotions: Promotions | None) -> None:
    """Prints one bundle and the promotions of its profile."""
    manifest = bundle.manifest
    console.print(Text(f"{manifest.hardware}  version {manifest.version}", style="bold"))
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    facts.add_column(style="bright_black", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(bundle):
        facts.add_row(name, value)
    console.print(facts)
    console.print(_accuracy_table(manifest))
    if promotions is not None:
        console.print(_history_table(promotions))


def _facts(bundle: Bundle) -> list[tuple[str, str | Text]]:
    m = bundle.manifest
    return [
        ("name", m.name),
        ("source", _source(m)),
        ("created", f"{m.created_at:%Y-%m-%d %H:%M} UTC"),
        (
            "trained on",
            f"{m.num_compute_measurements:,} operators, {m.num_comm_measurements:,} all-to-alls, "
            f"{m.num_all_reduce_measurements:,} all-reduces",
        ),
        *_optional("left out", {k: f"{n:,}" for k, n in m.num_left_out.items()}),
        *_optional("measured on", {k: ", ".join(v) for k, v in m.fingerprint.items()}),
        *_optional("sampling", {k: ", ".join(v) for k, v in m.sampling.items()}),
        *_optional("software", m.software),
        *_optional("training", m.training),
        ("files", f"{len(m.files)}, each with the sha256 that the manifest says"),
        ("at", without_secrets(bundle.url)),
    ]


def _optional(name: str, values: dict[str, str]) -> list[tuple[str, str]]:
    return [(name, "; ".join(f"{key} {value}" for key, value in values.items()))] * bool(values)


def _accuracy_table(manifest: Manifest) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bright_black")
    table.add_column("on held-out data", no_wrap=True)
    for heading in ("MAPE %", "Kendall tau", "measurements"):
        table.add_column(heading, justify="right", no_wrap=True)
    for accuracy in manifest.accuracy:
        judged = accuracy.quantity.removesuffix("_unseen") in QUANTITIES
        table.add_row(
            accuracy.quantity,
            f"{accuracy.mape_percent:.2f}",
            f"{accuracy.kendall_tau:.4f}",
            f"{accuracy.num_measurements:,}",
            style="" if judged else "bright_black",
        )
    return table


def _history_table(promotions: Promotions) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bright_black")
    table.add_column("promotions", no_wrap=True)
    table.add_column("version", overflow="fold")
    table.add_column("why", overflow="fold")
    for entry in promotions.history:
        what = "rolled back to" if entry.action is Action.ROLL_BACK else "promoted"
        table.add_row(f"{entry.at:%Y-%m-%d %H:%M} {what}", entry.version, Text(entry.why))
    return table


def print_publication(console: Console, published: Publication) -> None:
    """Says where a bundle went and which version serves now."""
    entry = published.entry
    where = f"published {entry.version} at {without_secrets(entry.url)}"
    console.print(where, markup=False, soft_wrap=True)
    if published.is_default:
        text = f"{entry.version} serves {entry.hardware} now"
    else:
        text = f"not promoted: {published.default_version} goes on serving {entry.hardware}"
    console.print(text, markup=False, soft_wrap=True)


def print_verifications(console: Console, results: Sequence[Verification]) -> None:
    """Prints one line for each bundle."""
    for result in results:
        text = Text("damaged" if result.fault else "sound  ")
        text.stylize("red" if result.fault else "green")
        text.append(f"  {result.entry.hardware} {result.entry.version}", style="default")
        console.print(text, soft_wrap=True)
        if result.fault:
            console.print(f"         {result.fault}", markup=False, soft_wrap=True)
    if not results:
        console.print("no bundles")
