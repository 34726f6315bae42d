"""When a sample has been timed often enough: the confidence interval of its median is narrow.

The interval is that of order statistics: of n times in rising order, the k-th from either end
enclose the median with a probability that follows from Binomial(n, 1/2) alone, whatever the
distribution (David & Nagaraja, Order Statistics, section 7.1). Times of kernels are skewed and have
outliers, so an interval from a standard deviation would be wrong.

Stopping as soon as an interval looks narrow makes it too optimistic. So it is looked at only when
the number of repetitions has grown by half; simulated, an interval on which a sample stopped still
holds the true median in more than 90 % of cases (tests/benchmark_worker/test_noise.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from shardwright_benchmark_worker.errors import OptionError

CONFIDENCE = 0.95
_GROWTH = 1.5
"""Of the repetitions, from one look at the interval to the next."""


@dataclass(frozen=True)
class Repetitions:
    """How often a sample is timed.

    Attributes:
        warmup: Untimed runs before.
        minimum: Timed runs that every sample gets.
        maximum: Timed runs that no sample exceeds; `minimum` where that is more.
        target_ci_percent: Runs end when the half width of the 95 % confidence interval of the
            median is at most so many percent of the median.
        max_seconds: After so long a sample gets no more than the minimum.

    Raises:
        OptionError: When one is out of range.
    """

    warmup: int = 3
    minimum: int = 11
    maximum: int = 100
    target_ci_percent: float = 2.0
    max_seconds: float = 5.0

    def __post_init__(self) -> None:
        for option, value, low, high in (
            ("--warmup", self.warmup, 0, 10_000),
            ("--repetitions", self.minimum, 1, 10_000),
            ("--max-repetitions", self.maximum, 1, 10_000),
            ("--target-ci-percent", self.target_ci_percent, 0.0, 100.0),
            ("--max-sample-seconds", self.max_seconds, 0.0, 86_400.0),
        ):
            if not low <= value <= high:
                raise OptionError(f"{option} must be in {low:g} .. {high:g}, got {value:g}")

    def still_wanted(self, done: int, ci_percent: float, elapsed_s: float) -> int:
        """How many more runs until the next look; 0 when it is enough.

        Args:
            done: Timed runs so far.
            ci_percent: Of these runs, see `median_ci_percent`.
            elapsed_s: What these runs took.
        """
        if done < self.minimum:
            return self.minimum - done
        if ci_percent <= self.target_ci_percent:
            return 0
        affordable = int((self.max_seconds - elapsed_s) / max(elapsed_s, 1e-9) * done)
        return max(min(math.ceil(done * _GROWTH), self.maximum, done + affordable) - done, 0)


def median_ci_percent(times: npt.ArrayLike) -> float:
    """Half width of the 95 % confidence interval of the median, in percent of the median.

    Args:
        times: `[n]`, at least one, positive.

    Returns:
        Infinity for fewer than six times: not even the whole range is a 95 % interval then.
    """
    ordered = np.sort(np.asarray(times, dtype=np.float64))
    rank = _interval_rank(len(ordered))
    if rank == 0:
        return math.inf
    low, high = ordered[rank - 1], ordered[-rank]
    return float(50.0 * (high - low) / np.median(ordered))


@lru_cache(maxsize=4096)
def _interval_rank(n: int) -> int:
    """Largest k so that the k-th smallest and k-th largest of n enclose the median; 0: none."""
    tail, ways, rank = 0, 1, 0
    # in whole numbers: tail / 2^n is the probability that fewer than `rank + 1` lie below
    limit = int((1 - CONFIDENCE) / 2 * 2**53) * 2**n
    while rank <= n:
        tail += ways
        if tail * 2**53 > limit:
            break
        ways = ways * (n - rank) // (rank + 1)
        rank += 1
    return rank


def repeat(
    once: Callable[[], tuple[float, ...]],
    repetitions: Repetitions,
    agree: Callable[[float, float], tuple[float, float]] = lambda ci, seconds: (ci, seconds),
) -> npt.NDArray[np.float64]:
    """Runs something until the medians of all its times are known well enough.

    Args:
        once: Runs it once and returns `k` times.
        repetitions: When it is enough; the widest of the `k` intervals counts.
        agree: Makes the interval (percent) and the elapsed time (s) the same on every process of
            a job, which all have to stop together; called outside of `once`.

    Returns:
        `[n, k] float64`, without the warm-up.
    """
    for _ in range(repetitions.warmup):
        once()
    times: list[tuple[float, ...]] = []
    ci_percent, elapsed_s = math.inf, 0.0
    start = time.perf_counter()
    while wanted := repetitions.still_wanted(len(times), ci_percent, elapsed_s):
        times.extend(once() for _ in range(wanted))
        widest = max(median_ci_percent(series) for series in zip(*times, strict=True))
        ci_percent, elapsed_s = agree(widest, time.perf_counter() - start)
    return np.asarray(times, dtype=np.float64)
