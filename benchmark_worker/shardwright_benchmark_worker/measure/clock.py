"""One clock for all processes of a job.

Processes of one host share the system's monotonic clock. Between hosts, the offset of two clocks
is found by ping-pong, as NTP does (RFC 5905, section 8): of several round trips the quickest had
the least queueing, and its middle on one clock is its middle on the other but for at most half its
duration. Clocks run apart by some 50 us a second, so the offset is found anew for every sample.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shardwright_benchmark_worker.measure.host import read_text

_ROUND_TRIPS = 8


class Partners(Protocol):
    """What the clock needs of a job, see `measure.job.Job`."""

    rank: int
    world_size: int

    def gather(self, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Everyone's numbers, on every rank."""

    def gather_texts(self, text: str) -> list[str]:
        """Everyone's text, on every rank."""

    def send(self, number: float, rank: int) -> None:
        """Sends a number to a rank."""

    def receive(self, rank: int) -> float:
        """Receives a number from a rank."""


class CommonClock:
    """Seconds on the clock of rank 0.

    Args:
        job: The processes; all make their clock, and call `synchronize`, together.
        now_s: This process's monotonic clock.
        identity: Of that clock: processes with equal ones read the same clock. None: asks the
            system.

    Attributes:
        hosts: Different clocks in the job.
        error_s: Bound on what the time of any process may be off, after `synchronize`.
    """

    def __init__(
        self,
        job: Partners,
        now_s: Callable[[], float] = time.monotonic,
        identity: str | None = None,
    ) -> None:
        self._job = job
        self._now_s = now_s
        identities = job.gather_texts(identity or _clock_identity())
        # the lowest rank of each host asks rank 0 for the time, and tells the others
        self._leaders = [identities.index(mine) for mine in identities]
        self._offset_s = 0.0
        self.hosts = len(set(self._leaders))
        self.error_s = 0.0

    def now_s(self) -> float:
        """The time on rank 0's clock."""
        return self._now_s() + self._offset_s

    def synchronize(self) -> None:
        """Finds this host's offset again; nothing to do when all ranks share a clock."""
        if self.hosts == 1:
            return
        mine = (0.0, 0.0)
        for leader in sorted(set(self._leaders) - {0}):
            if self._job.rank == 0:
                self._answer(leader)
            elif self._job.rank == leader:
                mine = self._ask()
        found = self._job.gather(mine)
        self._offset_s = float(found[self._leaders[self._job.rank], 0])
        self.error_s = float(found[:, 1].max())

    def _answer(self, leader: int) -> None:
        for _ in range(_ROUND_TRIPS):
            self._job.receive(leader)
            self._job.send(self._now_s(), leader)

    def _ask(self) -> tuple[float, float]:
        """Offset of rank 0's clock to this one, and the bound of its error, s."""
        trips = []
        for _ in range(_ROUND_TRIPS):
            start_s = self._now_s()
            self._job.send(start_s, 0)
            theirs_s = self._job.receive(0)
            end_s = self._now_s()
            trips.append((0.5 * (end_s - start_s), theirs_s - 0.5 * (start_s + end_s)))
        error_s, offset_s = min(trips)
        return offset_s, error_s


def _clock_identity() -> str:
    """Equal for processes of one running kernel and time namespace, whatever their containers."""
    boot = read_text("/proc/sys/kernel/random/boot_id")
    try:
        namespace = os.readlink("/proc/self/ns/time")
    except OSError:
        namespace = ""
    # without a boot id every process counts as a host of its own: slower, but right
    return f"{boot or f'{os.uname().nodename} {os.getpid()}'} {namespace}"
