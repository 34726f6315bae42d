"""Search settings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from shardwright.domain.errors import Checks
from shardwright.domain.sharding_type import ShardingType

MAX_TIME_BUDGET_S = 24 * 3600.0

DEFAULT_SHARDING_TYPES = (
    ShardingType.TABLE_WISE,
    ShardingType.COLUMN_WISE,
    ShardingType.ROW_WISE,
    ShardingType.TABLE_ROW_WISE,
)
"""All but data-parallel: it takes a table out of the fused optimizer, so it has to be asked for."""


class Algorithm(Enum):
    """How a plan is searched; the value is its name in proto JSON."""

    NEUROSHARD = "neuroshard"
    LOCAL_SEARCH = "local_search"


@dataclass(frozen=True)
class SearchOptions:
    """Search settings; the defaults are NeuroShard's (MLSys 2023, section 4: N, K, L, M).

    Attributes:
        max_column_splits: Levels of the beam search, L.
        beam_width: States kept from level to level, K.
        candidates: Tables considered for the next split, by memory and again by cost, N.
        grid_steps: Caps on the sum of dims tried in each placement, M.
        time_budget_s: Seconds after which the best plan so far is good enough; None: no limit.
        algorithm: Which search.
        seed: Seed of everything drawn at random.
        sharding_types: Ways to cut tables that the search may use, where a table's constraints
            name none. NEUROSHARD knows table-wise and column-wise only.

    Raises:
        InvalidValueError: With every broken invariant.
    """

    max_column_splits: int = 10
    beam_width: int = 3
    candidates: int = 10
    grid_steps: int = 11
    time_budget_s: float | None = None
    algorithm: Algorithm = Algorithm.LOCAL_SEARCH
    seed: int = 0
    sharding_types: tuple[ShardingType, ...] = DEFAULT_SHARDING_TYPES

    def __post_init__(self) -> None:
        checks = Checks()
        checks.require_int(self.max_column_splits, "max_column_splits", 0, 1000)
        checks.require_int(self.beam_width, "beam_width", 1, 100)
        checks.require_int(self.candidates, "candidates", 1, 1000)
        checks.require_int(self.grid_steps, "grid_steps", 1, 100)
        if self.time_budget_s is not None:
            checks.require_positive(self.time_budget_s, "time_budget", MAX_TIME_BUDGET_S, " s")
        checks.require_int(self.seed, "seed", 0, 2**64 - 1)
        checks.require(
            bool(self.sharding_types), "sharding_types", "must name at least one, got none"
        )
        checks.raise_if_any()
