"""Where the time of measuring went, part by part."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Tally:
    """Seconds spent on each activity and counts of rows, since the last `reset`.

    The activities are `kernel` (timed runs and their warm-up), `flush` (of caches, which a timed
    run needs as much as its warm-up), `reference` (the kernel that shows drift) and `prepare`
    (drawing lookups, building operators, sharing results). What they leave of `total` is Python.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begins a new part."""
        self._start = time.perf_counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._counts: defaultdict[str, int] = defaultdict(int)

    @contextmanager
    def spend(self, activity: str) -> Iterator[None]:
        """Adds the time that the block takes to an activity."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[activity] += time.perf_counter() - start

    def count(self, what: str, number: int = 1) -> None:
        """Counts rows of some kind."""
        self._counts[what] += number

    def seconds(self) -> Mapping[str, float]:
        """Activity to seconds; `total` runs since the last `reset`."""
        return {**self._seconds, "total": time.perf_counter() - self._start}

    def summary(self) -> dict[str, str]:
        """As text, for the metadata of a part: `<activity>_seconds`, counts and shares."""
        seconds = self.seconds()
        measuring = seconds.get("kernel", 0.0) + seconds.get("flush", 0.0)
        rows = self._counts["rows"]
        return {
            **{f"{activity}_seconds": f"{value:.6f}" for activity, value in seconds.items()},
            "measuring_seconds": f"{measuring:.6f}",
            **{name: str(number) for name, number in self._counts.items()},
            "drifted_share": f"{self._counts['drifted'] / max(rows, 1):.6f}",
        }
