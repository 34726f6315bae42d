"""The searches there are, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from shardwright.domain import Algorithm, SearchOptions
from shardwright_server.search.beam import search_beam
from shardwright_server.search.budget import Budget
from shardwright_server.search.cost import PlanEvaluator
from shardwright_server.search.local_search import search_locally
from shardwright_server.search.outcome import OnImprovement, SearchOutcome


class Search(Protocol):
    """Finds the plan with the lowest predicted cost that it can.

    Raises:
        InsufficientMemoryError: When it finds no plan that fits.
        NoPlanInTimeError: When the deadline passes before it finds one.
    """

    def __call__(
        self,
        evaluator: PlanEvaluator,
        options: SearchOptions,
        budget: Budget,
        on_improvement: OnImprovement | None = None,
    ) -> SearchOutcome:
        """Searches; tells of each better plan."""
        ...


SEARCHES: Mapping[Algorithm, Search] = {
    Algorithm.NEUROSHARD: search_beam,
    Algorithm.LOCAL_SEARCH: search_locally,
}
