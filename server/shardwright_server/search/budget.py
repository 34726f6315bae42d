"""How long a search may take."""

from __future__ import annotations

import time
from collections.abc import Callable

from shardwright.domain import StoppedBy
from shardwright_server.errors import NoPlanInTimeError


class OutOfTime(Exception):
    """Unwinds a search that has a plan; caught inside this package.

    Attributes:
        stopped_by: Which limit was met.
    """

    def __init__(self, stopped_by: StoppedBy) -> None:
        self.stopped_by = stopped_by
        super().__init__(stopped_by.value)


class ShareSpent(Exception):
    """Unwinds work beside the search that has used up its share of the time."""


class Budget:
    """The two limits of a search, and whether it already has a plan to fall back on.

    The time budget is a wish: it is overrun while there is no plan. The deadline is a must.

    Args:
        time_budget_s: Seconds from now; None: no limit.
        deadline_s: A moment of `clock`; None: no limit.
        clock: Seconds, monotonic.

    Attributes:
        plan_found: Set by the search once it holds a feasible plan.
    """

    def __init__(
        self,
        time_budget_s: float | None = None,
        deadline_s: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._deadline_s = float("inf") if deadline_s is None else deadline_s
        enough_s = float("inf") if time_budget_s is None else clock() + time_budget_s
        self._stop_s = min(enough_s, self._deadline_s)
        self._stopped_by = (
            StoppedBy.TIME_BUDGET if enough_s < self._deadline_s else StoppedBy.DEADLINE
        )
        self.plan_found = False

    def check(self) -> None:
        """Asks whether the search may go on; cheap enough for every step.

        Raises:
            OutOfTime: When a limit has passed and there is a plan.
            NoPlanInTimeError: When the deadline has passed and there is none.
        """
        now_s = self._clock()
        if self.plan_found:
            if now_s >= self._stop_s:
                raise OutOfTime(self._stopped_by)
        elif now_s >= self._deadline_s:
            raise NoPlanInTimeError(
                "the deadline passed before any plan that fits into memory was found; allow more "
                "time, or lower max_column_splits, beam_width, candidates or grid_steps"
            )

    def share(self, part: float) -> Callable[[], None]:
        """A check for work beside the search, which may take a part of the time that is left.

        Returns:
            As `check`, but raises ShareSpent once that part is over; never without a limit.
        """
        now_s = self._clock()
        end_s = now_s + part * (self._stop_s - now_s)

        def check() -> None:
            if self._clock() >= end_s:
                raise ShareSpent

        return check
