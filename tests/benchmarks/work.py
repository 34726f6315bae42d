"""The roofline taken apart: what each piece adds to its device, and a device's time from the sums.

Six numbers a piece, additive over the pieces of a device: forward DRAM, L2 and issue time, backward
work, sort time (ms), and the fourth power of the time of its hottest rows. It uses the roofline's
inner functions, because its public call would price whole devices again for every move of an
annealing; `test_annealing.py` holds the two to each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tests.benchmarks.truth import operator, part

from shardwright.domain import EmbeddingTable, ShardingProblem
from shardwright_benchmark_worker.roofline import GpuProfile, compute

Array = npt.NDArray[np.float64]

WORK_SIZE = 6


def piece_work(
    profile: GpuProfile,
    problem: ShardingProblem,
    pieces: Sequence[tuple[EmbeddingTable, int, int]],
) -> Array:
    """What pieces add to their device, `[n, WORK_SIZE]`.

    Args:
        profile: The GPU.
        problem: Of the pieces' tables.
        pieces: Table, columns and number of row parts of each.
    """
    sample = operator([part(*piece) for piece in pieces], problem)
    shards = compute._concatenate([sample])
    alone = np.arange(len(pieces))
    hot_ms = compute._hottest_row(shards, alone) * profile.hot_row_ns * 1e-6
    sort_ms = shards.lookups * compute._SORT_BYTES / (profile.sort_gb_per_s * 1e6)
    columns = [
        *compute._forward_work_ms(profile, shards),
        sum(compute._backward_work_ms(profile, shards)),
        sort_ms,
        hot_ms**4,
    ]
    return np.stack(columns, axis=1)


def fixed_ms(profile: GpuProfile) -> float:
    """What an operator of any tables costs before they add to it."""
    return profile.forward_launch_ms + profile.backward_launch_ms + profile.backward_floor_ms
