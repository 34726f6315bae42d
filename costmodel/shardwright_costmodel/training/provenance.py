"""Where the numbers of a dataset come from, in a few words for the manifest."""

from __future__ import annotations

from collections.abc import Mapping

MAX_VALUES = 8
"""Distinct values of one fact that are kept; a fleet has as many host names as machines."""

_OF_ONE_PART = frozenset({"first_index", "last_index"})


class DistinctValues:
    """The distinct values of facts over the parts of a dataset."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, None]] = {}

    def add(self, facts: Mapping[str, str]) -> None:
        """Adds the facts of one part; what only tells parts apart is left out."""
        for name, value in facts.items():
            if name not in _OF_ONE_PART:
                self._values.setdefault(name, {})[str(value)] = None

    def summary(self) -> dict[str, tuple[str, ...]]:
        """Fact to its distinct values, the first `MAX_VALUES` of them and how many more."""
        summary = {}
        for name, values in sorted(self._values.items()):
            shown = tuple(values)[:MAX_VALUES]
            more = len(values) - len(shown)
            summary[name] = (*shown, f"and {more} more") if more else shown
        return summary
