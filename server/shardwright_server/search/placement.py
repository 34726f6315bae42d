"""Table-wise placement: greedy grid search (NeuroShard, arXiv 2305.01868), in lockstep.

A *state* is a set of pieces, a *cap* an upper limit on the sum of dims of a device (it balances
communication), a *lane* one greedy placement of one state under one cap: pieces by falling cost
alone, each to the device whose computation is cheapest with it, among those that keep memory and
cap. All lanes take their next step together, so that a step is one call of the cost model.

Lanes that have placed the same pieces on the same devices so far form a *group* and share its
device sums and predictions; groups only ever split. Sharing changes nothing, since predictions of
a row do not depend on the batch. Most lanes of a state part late, if at all, and states that differ
in one split part only at the piece that was split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shardwright_server.search.cost import PlanEvaluator
from shardwright_server.search.pieces import Float64Array, IntArray

NOTHING = -1


@dataclass(frozen=True)
class Placements:
    """The cheapest placement of each state.

    Attributes:
        cost_ms: `[s] float64`, of the cheapest lane; infinite where every lane is infeasible.
        devices: `[s, pieces] int64`, the device of each piece in that lane.
        misfits: `[s] int64`, id of the piece that fitted nowhere under the widest cap, or NOTHING.
    """

    cost_ms: Float64Array
    devices: IntArray
    misfits: IntArray


def dim_caps(total_dim: int, num_devices: int, grid_steps: int) -> list[int]:
    """Caps on the sum of dims of a device: 1.0 to 1.5 times the mean, in equal steps.

    Whole numbers, rising, without repetition: dims are whole, so that a fractional cap permits
    what its floor does. A single step is 1.0.
    """
    last = max(1, grid_steps - 1)
    caps = (total_dim * (2 * last + i) // (2 * last * num_devices) for i in range(grid_steps))
    return sorted(set(caps))


def place(
    evaluator: PlanEvaluator, states: IntArray, caps: list[int], on_step: Callable[[], None]
) -> Placements:
    """Places states under every cap and keeps the cheapest lane of each, the lowest cap on ties.

    Args:
        evaluator: Of the problem.
        states: `[s, pieces] int64`, catalog ids; pieces of equal cost are placed in this order.
        caps: Rising limits on the sum of dims of a device.
        on_step: Called before each step; may raise to stop.
    """
    catalog = evaluator.catalog
    # a stable sort of the negated costs: falling, ties in the order of the state
    order = np.argsort(-catalog.compute_ms[states], axis=1, kind="stable")
    lockstep = _Lockstep(evaluator, np.take_along_axis(states, order, axis=1), caps)
    for step in range(states.shape[1]):
        on_step()
        lockstep.step(step)
    lane_cost_ms = lockstep.lane_cost_ms().reshape(len(states), len(caps))
    lane = lane_cost_ms.argmin(axis=1)
    cost_ms = np.take_along_axis(lane_cost_ms, lane[:, None], axis=1)[:, 0]
    placed = lockstep.devices.reshape(len(states), len(caps), -1)
    devices = np.empty_like(states)
    np.put_along_axis(devices, order, placed[np.arange(len(states)), lane], axis=1)
    return Placements(cost_ms, devices, lockstep.misfits.reshape(len(states), -1)[:, -1])


class _Lockstep:
    """All lanes of some states, on their way. Lane `i` is state `i // caps` under cap `i % caps`.

    Attributes:
        devices: `[all lanes, pieces] int64`, in order of placement; NOTHING where not placed.
        misfits: `[all lanes] int64`, id of the piece that ended a lane; NOTHING while it lives.
    """

    def __init__(self, evaluator: PlanEvaluator, pieces: IntArray, caps: list[int]) -> None:
        self._evaluator = evaluator
        self._pieces = pieces
        self._num_caps = len(caps)
        num_lanes = len(pieces) * len(caps)
        self.devices = np.full((num_lanes, pieces.shape[1]), NOTHING, dtype=np.int64)
        self.misfits = np.full(num_lanes, NOTHING, dtype=np.int64)
        # lanes still feasible, with their cap and group
        self._lanes = np.arange(num_lanes)
        self._caps = np.tile(np.array(caps, dtype=np.int64), len(pieces))
        self._groups = np.zeros(num_lanes, dtype=np.int64)
        # device sums of each group; in the beginning there is one, and nothing on its devices
        shape = 1, len(evaluator.memory_bytes)
        self._encodings = np.zeros((*shape, evaluator.catalog.encodings.shape[1]), np.float32)
        self._compute_ms = np.zeros(shape, dtype=np.float64)
        self._used_bytes = np.zeros(shape, dtype=np.int64)
        self._used_dims = np.zeros(shape, dtype=np.int64)

    def step(self, step: int) -> None:
        """Places the next piece of every living lane."""
        if not len(self._lanes):
            return
        # an attempt is a group and the piece that some of its lanes place next
        num_ids = len(self._evaluator.catalog)
        pieces = self._pieces[self._lanes // self._num_caps, step]
        attempts, attempt = np.unique(self._groups * num_ids + pieces, return_inverse=True)
        groups, group_pieces = np.divmod(attempts, num_ids)
        dims_after, fits_memory = self._fits(groups, group_pieces)
        widest_cap = np.zeros(len(attempts), dtype=np.int64)
        np.maximum.at(widest_cap, attempt, self._caps)
        wanted = fits_memory & (dims_after <= widest_cap[:, None])
        cost_ms = self._cost_with(groups, group_pieces, wanted)
        lane_cost_ms = np.where(
            dims_after[attempt] <= self._caps[:, None], cost_ms[attempt], np.inf
        )
        device = lane_cost_ms.argmin(axis=1)  # the lowest device on ties
        lives = np.isfinite(lane_cost_ms[np.arange(len(device)), device])
        if not lives.all():
            self.misfits[self._lanes[~lives]] = pieces[~lives]
            self._lanes, self._caps = self._lanes[lives], self._caps[lives]
            attempt, device = attempt[lives], device[lives]
        self.devices[self._lanes, step] = device
        self._commit(groups, group_pieces, cost_ms, attempt, device)

    def lane_cost_ms(self) -> Float64Array:
        """`[all lanes] float64`, costs of the finished lanes; infinite where infeasible."""
        lane_cost_ms = np.full(len(self.devices), np.inf)
        if len(self._lanes):
            costs = self._evaluator.costs(self._compute_ms, self._used_dims)
            lane_cost_ms[self._lanes] = costs.cost_ms[self._groups]
        return lane_cost_ms

    def _fits(self, groups: IntArray, pieces: IntArray) -> tuple[IntArray, npt.NDArray[np.bool_]]:
        """Sum of dims with the piece, and whether memory keeps it: both `[attempts, w]`."""
        catalog = self._evaluator.catalog
        dims_after = self._used_dims[groups] + catalog.num_columns[pieces, None]
        bytes_after = self._used_bytes[groups] + catalog.memory_bytes[pieces, None]
        return dims_after, bytes_after <= self._evaluator.memory_bytes

    def _cost_with(
        self, groups: IntArray, pieces: IntArray, wanted: npt.NDArray[np.bool_]
    ) -> Float64Array:
        """Computation of every wanted device with the piece, `[attempts, w]`; else infinite."""
        catalog = self._evaluator.catalog
        empty = self._used_dims[groups] == 0
        # on an empty device the piece is alone, and its cost alone is known
        cost_ms = np.where(wanted & empty, catalog.compute_ms[pieces, None], np.inf)
        rows, devices = np.nonzero(wanted & ~empty)
        if len(rows):
            encodings = self._encodings[groups[rows], devices]
            encodings += catalog.encodings[pieces[rows]]
            cost_ms[rows, devices] = self._evaluator.compute_ms(encodings)
        return cost_ms

    def _commit(
        self,
        groups: IntArray,
        pieces: IntArray,
        cost_ms: Float64Array,
        attempt: IntArray,
        device: IntArray,
    ) -> None:
        """Puts the pieces down: a new group for each attempt and device that some lane chose."""
        catalog = self._evaluator.catalog
        num_devices = len(self._evaluator.memory_bytes)
        chosen, self._groups = np.unique(attempt * num_devices + device, return_inverse=True)
        attempts, devices = np.divmod(chosen, num_devices)
        parents = groups[attempts]
        if not np.array_equal(parents, np.arange(len(self._compute_ms))):
            self._encodings = self._encodings[parents]
            self._compute_ms = self._compute_ms[parents]
            self._used_bytes = self._used_bytes[parents]
            self._used_dims = self._used_dims[parents]
        here = np.arange(len(chosen)), devices
        placed = pieces[attempts]
        self._encodings[here] += catalog.encodings[placed]
        self._compute_ms[here] = cost_ms[attempts, devices]
        self._used_bytes[here] += catalog.memory_bytes[placed]
        self._used_dims[here] += catalog.num_columns[placed]
