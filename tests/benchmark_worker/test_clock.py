"""One clock for all processes of a job, whatever their hosts' clocks say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Queue

import numpy as np
import numpy.typing as npt
import pytest

from shardwright_benchmark_worker.measure.clock import CommonClock


class Network:
    """Threads in place of processes, which tell each other numbers through queues."""

    def __init__(self, world_size: int, delay_s: float = 0.0) -> None:
        self.queues: dict[tuple[int, int], Queue[float]] = {
            (a, b): Queue() for a in range(world_size) for b in range(world_size)
        }
        self.shared: list[object] = [None] * world_size
        self.barrier = threading.Barrier(world_size)
        self.delay_s = delay_s


class Rank:
    """See `clock.Partners`."""

    def __init__(self, network: Network, rank: int) -> None:
        self.network, self.rank = network, rank
        self.world_size = len(network.shared)

    def gather(self, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return np.array(self._everyone(values), dtype=np.float64)

    def gather_texts(self, text: str) -> list[str]:
        return [str(text) for text in self._everyone(text)]

    def send(self, number: float, rank: int) -> None:
        time.sleep(self.network.delay_s)
        self.network.queues[self.rank, rank].put(number)

    def receive(self, rank: int) -> float:
        return self.network.queues[rank, self.rank].get(timeout=10)

    def _everyone(self, value: object) -> list[object]:
        self.network.shared[self.rank] = value
        self.network.barrier.wait(10)
        everyone = list(self.network.shared)
        self.network.barrier.wait(10)
        return everyone


def run(work: Callable[[Rank], None], world_size: int, delay_s: float = 0.0) -> None:
    network, failures = Network(world_size, delay_s), []

    def guarded(rank: int) -> None:
        try:
            work(Rank(network, rank))
        except Exception as error:
            failures.append(error)
            network.barrier.abort()

    threads = [threading.Thread(target=guarded, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures, failures


AHEAD_S = {"a": 0.0, "b": 1000.0, "c": -50.0}


@pytest.mark.parametrize("hosts", ["ab", "aabb", "abc", "abab", "abcba"])
def test_hosts_agree_on_the_time(hosts: str) -> None:
    clocks: dict[int, CommonClock] = {}

    def work(rank: Rank) -> None:
        host = hosts[rank.rank]
        clock = CommonClock(rank, lambda: time.monotonic() + AHEAD_S[host], identity=host)
        clock.synchronize()
        clocks[rank.rank] = clock

    run(work, len(hosts), delay_s=0.002)
    for clock in clocks.values():
        # the bound is half of the quickest round trip, of two delays of 2 ms, and it holds
        assert 0.002 <= clock.error_s < 5.0
        assert abs(clock.now_s() - time.monotonic()) <= clock.error_s + 0.001
        assert clock.hosts == len(set(hosts))


def test_processes_of_one_kernel_share_a_clock_and_send_nothing() -> None:
    def work(rank: Rank) -> None:
        rank.send = None  # type: ignore[assignment,method-assign]
        clock = CommonClock(rank)
        clock.synchronize()
        assert (clock.hosts, clock.error_s) == (1, 0.0)
        assert abs(clock.now_s() - time.monotonic()) < 1.0

    run(work, 3)
