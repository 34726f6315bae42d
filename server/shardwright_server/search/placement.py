"""Table-wise placement: greedy grid search (NeuroShard, arXiv 2305.01868), in lockstep.

A *state* is a set of pieces, a *cap* an upper limit on the sum of dims of a device (it balances
communication), a *lane* one greedy placement of one state under one cap: pieces by falling cost
alone, each to the device whose computation is cheapest with it, among those that keep memory and
cap. All lanes take their next step together, so that a step is one call of the cost model.

Lanes that have placed the same pieces on the same devices so far form a *group*; groups only ever
split. Devices of any group that were given the same pieces form a *content*, which is summed up and
predicted once. Sharing changes nothing, since predictions of a row do not depend on the batch. Most
lanes of a state part late, if at all, states that differ in one split part only at the piece that
was split, and what parts differs on a few devices only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shardwright_costmodel.features import FloatArray
from shardwright_server.search.cost import PlanEvaluator
from shardwright_server.search.lots import BoolArray
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
        # what each group has on each device; in the beginning there is one group, and nothing there
        self._held = np.zeros((1, len(evaluator.memory_bytes)), dtype=np.int64)
        self._contents = _Contents.empty(evaluator.catalog.encodings.shape[1])

    def step(self, step: int) -> None:
        """Places the next piece of every living lane."""
        if not len(self._lanes):
            return
        # an attempt is a group and the piece that some of its lanes place next
        num_ids = len(self._evaluator.catalog)
        pieces = self._pieces[self._lanes // self._num_caps, step]
        attempts, attempt = np.unique(self._groups * num_ids + pieces, return_inverse=True)
        groups, group_pieces = np.divmod(attempts, num_ids)
        held = self._held[groups]
        dims_after, fits_memory = self._fits(held, group_pieces)
        widest_cap = np.zeros(len(attempts), dtype=np.int64)
        np.maximum.at(widest_cap, attempt, self._caps)
        wanted = fits_memory & (dims_after <= widest_cap[:, None])
        contents, joining, after_of = _pairs(held, group_pieces, wanted, len(self._contents.dims))
        after = self._contents.joined(self._evaluator, contents, joining)
        cost_ms = np.append(after.compute_ms, np.inf)[after_of]  # NOTHING selects the last
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
        self._commit(held, after, after_of, attempt, device)

    def lane_cost_ms(self) -> Float64Array:
        """`[all lanes] float64`, costs of the finished lanes; infinite where infeasible."""
        lane_cost_ms = np.full(len(self.devices), np.inf)
        if len(self._lanes):
            held, contents = self._held, self._contents
            costs = self._evaluator.costs(contents.compute_ms[held], contents.dims[held])
            lane_cost_ms[self._lanes] = costs.cost_ms[self._groups]
        return lane_cost_ms

    def _fits(self, held: IntArray, pieces: IntArray) -> tuple[IntArray, BoolArray]:
        """Sum of dims with the piece, and whether memory keeps it: both `[attempts, w]`."""
        catalog = self._evaluator.catalog
        dims_after = self._contents.dims[held] + catalog.num_columns[pieces, None]
        bytes_after = self._contents.memory_bytes[held] + catalog.memory_bytes[pieces, None]
        return dims_after, bytes_after <= self._evaluator.memory_bytes

    def _commit(
        self,
        held: IntArray,
        after: _Contents,
        after_of: IntArray,
        attempt: IntArray,
        device: IntArray,
    ) -> None:
        """Puts the pieces down: a new group for each attempt and device that some lane chose.

        Args:
            held: `[attempts, w]`, contents so far.
            after: What devices may hold after this step.
            after_of: `[attempts, w]`, which of it a device would hold; NOTHING where none.
            attempt: `[lanes]`.
            device: `[lanes]`.
        """
        before, num_devices = len(self._contents.dims), held.shape[1]
        chosen, self._groups = np.unique(attempt * num_devices + device, return_inverse=True)
        attempts, devices = np.divmod(chosen, num_devices)
        self._held = held[attempts]
        self._held[np.arange(len(chosen)), devices] = before + after_of[attempts, devices]
        used = np.zeros(before + len(after.dims), dtype=bool)
        used[self._held] = True
        self._held = (np.cumsum(used) - 1)[self._held]
        self._contents = self._contents.chosen(used[:before]).followed_by(
            after.chosen(used[before:])
        )


class _Contents(NamedTuple):
    """What devices hold, `c` different things.

    Attributes:
        encodings: `[c, e] float32`, sums in the order of placement.
        compute_ms: `[c] float64`.
        memory_bytes: `[c] int64`.
        dims: `[c] int64`.
    """

    encodings: FloatArray
    compute_ms: Float64Array
    memory_bytes: IntArray
    dims: IntArray

    @classmethod
    def empty(cls, num_channels: int) -> _Contents:
        """Nothing on a device."""
        encodings = np.zeros((1, num_channels), dtype=np.float32)
        return cls(encodings, np.zeros(1), np.zeros(1, np.int64), np.zeros(1, np.int64))

    def chosen(self, which: BoolArray) -> _Contents:
        """Some of them."""
        return _Contents(
            self.encodings[which],
            self.compute_ms[which],
            self.memory_bytes[which],
            self.dims[which],
        )

    def followed_by(self, others: _Contents) -> _Contents:
        """All of both."""
        return _Contents(
            np.concatenate([self.encodings, others.encodings]),
            np.concatenate([self.compute_ms, others.compute_ms]),
            np.concatenate([self.memory_bytes, others.memory_bytes]),
            np.concatenate([self.dims, others.dims]),
        )

    def joined(self, evaluator: PlanEvaluator, contents: IntArray, pieces: IntArray) -> _Contents:
        """Some of them, each with a piece, `[p]` each; predicted in one batch."""
        catalog = evaluator.catalog
        encodings = self.encodings[contents]
        encodings += catalog.encodings[pieces]
        # on an empty device the piece is alone, and its cost alone is known
        compute_ms = catalog.compute_ms[pieces]
        together = self.dims[contents] > 0
        compute_ms[together] = evaluator.compute_ms(encodings[together])
        return _Contents(
            encodings,
            compute_ms,
            self.memory_bytes[contents] + catalog.memory_bytes[pieces],
            self.dims[contents] + catalog.num_columns[pieces],
        )


def _pairs(
    held: IntArray, pieces: IntArray, wanted: BoolArray, num_contents: int
) -> tuple[IntArray, IntArray, IntArray]:
    """Different pairs of what a device holds and the piece that may come.

    Args:
        held: `[a, w] int64`, contents.
        pieces: `[a] int64`.
        wanted: `[a, w]`, where the piece may come.
        num_contents: Contents there are.

    Returns:
        Contents and pieces of the pairs, `[p] int64` each, and the pair of each device, `[a, w]`;
        NOTHING where it is not wanted.
    """
    distinct, index = np.unique(pieces, return_inverse=True)
    keys = (held + (index * num_contents)[:, None])[wanted]
    met = np.zeros(len(distinct) * num_contents, dtype=bool)
    met[keys] = True
    found = np.flatnonzero(met)
    pair_of = np.full(held.shape, NOTHING, dtype=np.int64)
    pair_of[wanted] = (np.cumsum(met) - 1)[keys]
    return found % num_contents, distinct[found // num_contents], pair_of
