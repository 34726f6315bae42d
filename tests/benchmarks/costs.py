"""What every answer was worth, kept beside the results: nobody has to ask twice.

An answer takes up to minutes and its plan kilobytes; comparisons need its cost. So a report writes
one line a task and side into `search_quality_costs.csv`, with a digest of the key of everything
that the cost depends on, and the next run takes from there what still has that key, on any machine.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

FILE = "search_quality_costs.csv"

_COLUMNS = ("task", "side", "key", "true_ms", "predicted_ms", "cpu_s", "note")


@dataclass(frozen=True)
class Judged:
    """An answer and what it is worth.

    Attributes:
        true_ms: By the roofline; None without a legal plan.
        predicted_ms: By the side itself; None where it does not say.
        cpu_s: Process time.
        note: Why there is no plan.
    """

    true_ms: float | None
    predicted_ms: float | None
    cpu_s: float
    note: str


class Costs:
    """Judged answers by task and side."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], tuple[str, Judged]] = {}

    @classmethod
    def read(cls, folder: Path) -> Costs:
        """What a folder of results holds; nothing where it holds no such file."""
        found, path = cls(), folder / FILE
        if path.exists():
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    one = Judged(
                        _number(row["true_ms"]),
                        _number(row["predicted_ms"]),
                        float(row["cpu_s"]),
                        row["note"],
                    )
                    found._kept[row["task"], row["side"]] = row["key"], one
        return found

    def write(self, folder: Path) -> Path:
        """Writes everything, in the order of tasks; returns the file."""
        path = folder / FILE
        with path.open("w", newline="") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow(_COLUMNS)
            for (task, side), (key, one) in sorted(self._kept.items(), key=_order):
                # all digits, so that a report comes out the same; nothing for None
                costs = one.true_ms, one.predicted_ms, one.cpu_s
                lines.writerow((task, side, key, *costs, one.note))
        return path

    def get(self, task: str, side: str, key: str) -> Judged | None:
        """None where nothing of this key is kept."""
        kept_key, one = self._kept.get((task, side), ("", None))
        return one if kept_key == _short(key) else None

    def put(self, task: str, side: str, key: str, one: Judged) -> None:
        """Keeps it in place of any older one."""
        self._kept[task, side] = _short(key), one


def _order(kept: tuple[tuple[str, str], object]) -> tuple[str, int, str, str]:
    """By group, then by number or name, then by side."""
    (task, side), _ = kept
    group, _, name = task.partition("/")
    return group, int(name) if name.isdigit() else 0, name, side


def _short(key: str) -> str:
    return sha256(key.encode()).hexdigest()[:12]


def _number(text: str) -> float | None:
    return float(text) if text else None
