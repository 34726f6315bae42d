"""What a search gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from shardwright.domain import ShardingPlan, StoppedBy
from shardwright_server.search.budget import OutOfTime

OnImprovement = Callable[[ShardingPlan], None]
"""Told of each plan that seems to be better, as soon as it is found; it may cost a little more."""


@dataclass(frozen=True)
class SearchOutcome:
    """What a search found.

    Attributes:
        plan: The best plan.
        stopped_by: Why it ended.
    """

    plan: ShardingPlan
    stopped_by: StoppedBy


class RunningSearch(Protocol):
    """A search that can be stopped once it has a plan."""

    def run(self) -> None:
        """Searches to the end; there is a plan unless this raises another error than OutOfTime."""
        ...

    def plan(self) -> ShardingPlan:
        """The best plan so far."""
        ...


def run_to_end(search: RunningSearch) -> SearchOutcome:
    """Runs a search until it ends or time runs out."""
    try:
        search.run()
        stopped_by = StoppedBy.COMPLETED
    except OutOfTime as stop:
        stopped_by = stop.stopped_by
    return SearchOutcome(search.plan(), stopped_by)
