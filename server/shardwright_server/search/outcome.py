"""What a search gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shardwright.domain import ShardingPlan, StoppedBy

OnImprovement = Callable[[ShardingPlan], None]
"""Told of each better plan as soon as it is found."""


@dataclass(frozen=True)
class SearchOutcome:
    """What a search found.

    Attributes:
        plan: The best plan.
        stopped_by: Why it ended.
    """

    plan: ShardingPlan
    stopped_by: StoppedBy
