"""Which devices the constraints of a table leave it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from shardwright.domain import Cluster, EmbeddingTable
from shardwright_server.search.pieces import IntArray


@dataclass(frozen=True, eq=False)
class Reach:
    """Devices that constraints allow.

    Attributes:
        devices: `[k] int64`, rising.
        memory_bytes: `[k] int64`, what shards may fill on each.
        everywhere: Whether they are all devices of the job.
    """

    devices: IntArray
    memory_bytes: IntArray
    everywhere: bool

    @cached_property
    def largest_bytes(self) -> int:
        """Memory of the largest of them."""
        return int(self.memory_bytes.max(initial=0))


class Reaches:
    """The reach of every table; tables with the same constraints share one object."""

    def __init__(self, cluster: Cluster) -> None:
        memory = [cluster.shard_memory_bytes(d) for d in range(cluster.num_devices)]
        self._memory_bytes: IntArray = np.array(memory, dtype=np.int64)
        self._known: dict[tuple[tuple[int, ...], tuple[int, ...]], Reach] = {}

    def of(self, table: EmbeddingTable) -> Reach:
        """The reach of a table."""
        key = table.constraints.devices, table.constraints.excluded_devices
        if key not in self._known:
            everything = range(len(self._memory_bytes))
            allowed = [d for d in everything if table.constraints.allows_device(d)]
            devices = np.array(allowed, dtype=np.int64)
            memory = self._memory_bytes[devices]
            self._known[key] = Reach(devices, memory, len(devices) == len(everything))
        return self._known[key]
