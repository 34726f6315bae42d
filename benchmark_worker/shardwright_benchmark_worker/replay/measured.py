"""What iterations cost, in the terms in which plans are predicted (DESIGN: cost).

Of each iteration, by device:

compute        forward operator + backward operator with its optimizer
backward_comm  transfer of the backward all-to-all, and of the all-reduce of copies
wait           max over devices of (compute + backward_comm), minus its own
forward_comm   transfer of the forward all-to-all
total          compute + backward_comm + forward_comm

The transfer of a collective is what a device spends in it less its waiting for the last one to
enter. All figures are medians over iterations; a plan costs the largest median of total + wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shardwright_benchmark_worker.measure.noise import median_ci_percent
from shardwright_benchmark_worker.replay.files import PlannedJob
from shardwright_benchmark_worker.replay.iteration import STAMPS

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MeasuredDevice:
    """Medians of one device, ms per iteration.

    Attributes:
        device: Rank.
        compute_ms: Operators.
        backward_comm_ms: Transfers of the backward pass.
        forward_comm_ms: Transfer of the forward pass.
        wait_ms: For the slowest device before the forward all-to-all.
        total_ms: Without waiting.
        iteration_ms: With waiting.
    """

    device: int
    compute_ms: float
    backward_comm_ms: float
    forward_comm_ms: float
    wait_ms: float
    total_ms: float
    iteration_ms: float


@dataclass(frozen=True)
class MeasuredPlan:
    """A plan that was run.

    Attributes:
        planned: The plan, with what is predicted of it.
        devices: One per rank.
        iterations: Timed iterations behind the medians.
        noise_percent: Of the cost: half the range of the rounds' costs, or with one round the half
            width of the 95 % confidence interval of the median.
        round_cost_ms: Cost by each round alone.
    """

    planned: PlannedJob
    devices: tuple[MeasuredDevice, ...]
    iterations: int
    noise_percent: float
    round_cost_ms: tuple[float, ...]

    @property
    def slowest(self) -> MeasuredDevice:
        """The device whose iteration takes longest."""
        return max(self.devices, key=lambda device: device.iteration_ms)

    @property
    def cost_ms(self) -> float:
        """Of the slowest device."""
        return self.slowest.iteration_ms


def summarize(planned: PlannedJob, rounds: Sequence[FloatArray]) -> MeasuredPlan:
    """Makes figures of stamps.

    Args:
        planned: The plan.
        rounds: At least one `[world_size, iterations, len(STAMPS)]`, starts on a common clock.
    """
    costs = np.concatenate([_costs(stamps) for stamps in rounds], axis=1)
    per_round = [float(np.median(_costs(stamps)[..., 5], axis=1).max()) for stamps in rounds]
    medians = np.median(costs, axis=1)
    slowest = costs[int(medians[:, 5].argmax()), :, 5]
    spread = 50.0 * float(np.ptp(per_round)) / float(np.median(slowest))
    return MeasuredPlan(
        planned=planned,
        devices=tuple(MeasuredDevice(i, *row) for i, row in enumerate(medians.tolist())),
        iterations=costs.shape[1],
        noise_percent=spread if len(rounds) > 1 else median_ci_percent(slowest),
        round_cost_ms=tuple(per_round),
    )


def _costs(stamps: FloatArray) -> FloatArray:
    """`[world, n, 6]`: the fields of `MeasuredDevice` after the first."""
    of = dict(zip(STAMPS, np.moveaxis(stamps, -1, 0), strict=True))
    compute = of["forward"] + of["backward"] + of["step"]
    backward_comm = _transfer(of["backward_start"], of["backward_exchange"])
    backward_comm = backward_comm + _transfer(of["reduce_start"], of["reduce"])
    forward_comm = _transfer(of["forward_start"], of["forward_exchange"])
    arrival = compute + backward_comm
    wait = arrival.max(axis=0) - arrival
    total = arrival + forward_comm
    return np.stack([compute, backward_comm, forward_comm, wait, total, total + wait], axis=-1)


def _transfer(start: FloatArray, elapsed: FloatArray) -> FloatArray:
    """Time in a collective after the last rank entered it, `[world, n]`; never negative."""
    return np.asarray(np.maximum(elapsed - (start.max(axis=0) - start), 0.0))


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation (tau-b) of two series of one length, at least 2; NaN when one is constant.

    Source: M. G. Kendall, The treatment of ties in ranking problems, Biometrika 33 (1945).
    """
    a, b = (np.sign(np.subtract.outer(x, x)) for x in map(np.asarray, (first, second)))
    untied = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / untied if untied else float("nan")
