"""Whether a bundle may take the place of another: by what both manifests say of their accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from shardwright.domain import CostModelSource
from shardwright_costmodel.bundle import Accuracy, Manifest

QUANTITIES = ("compute", "forward_comm", "backward_comm", "all_reduce")
"""What plans are judged by. Halves of `compute` and what no model is trained on say no more."""

UNSEEN = "_unseen"
"""Ends the names of quantities judged on tables and world sizes that training never had."""


@dataclass(frozen=True)
class Margin:
    """How much worse a bundle may be than the one it replaces.

    Two trainings on the same measurements differ by some tenths of these.

    Attributes:
        relative: Growth of an error; counts only together with `points`.
        points: Growth of an error in percentage points.
        tau: Fall of a rank correlation.
        tau_values: Held-out values that a rank correlation must be of: fewer say too little.
        covered: Least share of the old training range, per column on a logarithmic scale, that the
            new one must cover: errors on easier data compare with nothing.
    """

    relative: float = 0.10
    points: float = 0.2
    tau: float = 0.01
    tau_values: int = 200
    covered: float = 0.75


DEFAULT_MARGIN = Margin()


def objections(new: Manifest, old: Manifest, margin: Margin = DEFAULT_MARGIN) -> tuple[str, ...]:
    """Why `new` should not silently take the place of `old`; empty when it may.

    Measured costs may always replace modelled ones, and modelled ones never measured ones. Those of
    one source are compared, provided that they were judged on the same kind of data.

    Args:
        new: Manifest of the bundle to be promoted.
        old: Manifest of the promoted bundle, of the same hardware profile.
        margin: What counts as worse.
    """
    if new.source is not old.source:
        if new.source is CostModelSource.MEASURED:
            return ()
        return (f"it is {new.source.value.upper()}, {old.version} is {old.source.value.upper()}",)
    return (*_narrower(new, old, margin), *_less_accurate(new, old, margin))


def accuracy_by_quantity(manifest: Manifest) -> dict[str, Accuracy]:
    """The held-out accuracy of a manifest by quantity."""
    return {accuracy.quantity: accuracy for accuracy in manifest.accuracy}


def _less_accurate(new: Manifest, old: Manifest, margin: Margin) -> Iterator[str]:
    mine, theirs = accuracy_by_quantity(new), accuracy_by_quantity(old)
    for quantity in (*QUANTITIES, *(quantity + UNSEEN for quantity in QUANTITIES)):
        if quantity not in theirs:
            continue
        if quantity not in mine:
            # unseen data is optional: a training without it is compared by the rest
            if not quantity.endswith(UNSEEN):
                yield f"its {quantity} was never judged, that of {old.version} was"
            continue
        yield from _worse(quantity, mine[quantity], theirs[quantity], margin)


def _worse(quantity: str, mine: Accuracy, theirs: Accuracy, margin: Margin) -> Iterator[str]:
    allowed = theirs.mape_percent + max(margin.points, margin.relative * theirs.mape_percent)
    # "not at most": an error that is not a number is worse than any
    if not mine.mape_percent <= allowed:
        yield (
            f"{quantity} MAPE {mine.mape_percent:.2f} % against {theirs.mape_percent:.2f} %, "
            f"more than the {allowed:.2f} % allowed"
        )
    enough = min(mine.num_measurements, theirs.num_measurements) >= margin.tau_values
    if enough and not mine.kendall_tau >= theirs.kendall_tau - margin.tau:
        yield (
            f"{quantity} Kendall tau {mine.kendall_tau:.4f} against {theirs.kendall_tau:.4f}, "
            f"less than the {theirs.kendall_tau - margin.tau:.4f} allowed"
        )


def _narrower(new: Manifest, old: Manifest, margin: Margin) -> Iterator[str]:
    for column, (low, high) in old.training_range.items():
        mine = new.training_range.get(column)
        if mine is None or _covered(mine, (low, high)) < margin.covered:
            shown = "nothing" if mine is None else f"{mine[0]:g} to {mine[1]:g}"
            yield (
                f"trained on {column} of {shown}, {old.version} on {low:g} to {high:g}: "
                "not judged on the same kind of data"
            )


def _covered(mine: tuple[float, float], theirs: tuple[float, float]) -> float:
    """Share of the range `theirs` that `mine` covers, on the scale of log(1 + x)."""
    (low, high), (my_low, my_high) = (
        tuple(math.log1p(max(0.0, end)) for end in ends) for ends in (theirs, mine)
    )
    if high == low:
        return float(my_low <= low <= my_high)
    return max(0.0, min(high, my_high) - max(low, my_low)) / (high - low)
