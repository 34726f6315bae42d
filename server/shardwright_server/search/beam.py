"""Column splits: NeuroShard's beam search (MLSys 2023, arXiv 2305.01868; algorithm NEUROSHARD).

Level 0 is the state of whole tables. Level l halves, in each of the K states kept from level l-1,
one candidate piece at a time: the N largest in memory united with the N most expensive alone. All
children of a level are placed by greedy grid search; the K cheapest are kept. The cheapest plan of
all levels wins, the earlier one on ties.

As in the authors' code (github.com/daochenzha/neuroshard, neurosharder.py): candidates are chosen
among all pieces and those that cannot be halved (half not a multiple of 4) skipped, not replaced;
equal pieces are candidates each for itself, so a level may hold equal states, and the beam may
keep them; an infeasible state costs infinity and stays in the beam where nothing better fills it,
in the order in which states were made.

Otherwise than there:
- A piece goes to the device that is cheapest *with* it; there, to the one that was cheapest before.
- Forward transfer and wait are apart: see `cost`.
- Ties: pieces in order of their tables, wider ones first; the lowest device. There: the last piece
  in its list, the device with less memory used, and whatever numpy's argpartition leaves first.
- Memory is per device and counts optimizer state; halves keep a table's min_column_width.
- Pieces of a table are laid out by falling width, so that states that differ only in the order of
  columns are one state, placed once.
- Where no level has a feasible plan, the states that were kept are placed once more without a cap
  on dims: with fewer columns than devices, say, every cap is below the narrowest piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from shardwright.domain import SearchOptions, Shard, ShardingPlan, ShardingProblem
from shardwright_server.search.budget import Budget
from shardwright_server.search.capacity import no_plan_error
from shardwright_server.search.cost import PlanEvaluator
from shardwright_server.search.outcome import OnImprovement, SearchOutcome, run_to_end
from shardwright_server.search.pieces import IntArray, Piece, PieceCatalog, can_halve
from shardwright_server.search.placement import NOTHING, Placements, dim_caps, place

State = tuple[int, ...]
"""Catalog ids of pieces: tables in the problem's order, a table's pieces by falling width."""

MAX_LOCKSTEP_BYTES = 128 * 2**20
"""Device encodings of the lanes that run in one lockstep, at most; bounds memory, not results."""


@dataclass
class _Best:
    cost_ms: float = np.inf
    state: State = ()
    devices: tuple[int, ...] = ()


def search_beam(
    evaluator: PlanEvaluator,
    options: SearchOptions,
    budget: Budget,
    on_improvement: OnImprovement | None = None,
) -> SearchOutcome:
    """Searches column splits and placements; see the module.

    Raises:
        InsufficientMemoryError: When no state that was reached fits, saying which piece did not.
        NoPlanInTimeError: When the deadline passes before a plan is found.
    """
    return run_to_end(_BeamSearch(evaluator, options, budget, on_improvement))


class _BeamSearch:
    """One run of the search.

    Attributes:
        best: The best plan so far.
    """

    def __init__(
        self,
        evaluator: PlanEvaluator,
        options: SearchOptions,
        budget: Budget,
        on_improvement: OnImprovement | None,
    ) -> None:
        self.best = _Best()
        self._on_improvement = on_improvement
        self._evaluator = evaluator
        self._catalog = evaluator.catalog
        self._options = options
        self._budget = budget

    def run(self) -> None:
        """Searches to the end; `best` holds a plan unless this raises another than OutOfTime."""
        total_dim = sum(table.embedding_dim for table in self._evaluator.problem.tables)
        num_devices = self._evaluator.problem.cluster.num_devices
        caps = dim_caps(total_dim, num_devices, self._options.grid_steps)
        beam: list[State] = [tuple(self._catalog.whole_tables())]
        self._place_level(beam, caps)
        kept = [beam]
        for _ in range(self._options.max_column_splits):
            children = self._children(beam)
            if not children:
                break
            cost_ms = self._place_level(children, caps)
            cheapest = sorted(range(len(children)), key=cost_ms.__getitem__)
            beam = [children[i] for i in cheapest[: self._options.beam_width]]
            kept.append(beam)
        if not self._budget.plan_found:
            self._place_without_cap(kept, total_dim)

    def plan(self) -> ShardingPlan:
        """The best plan so far."""
        return _to_plan(self.best.state, self.best.devices, self._evaluator)

    def _place_level(self, states: list[State], caps: list[int]) -> list[float]:
        """Places states of equal length, equal ones once, and returns their costs."""
        cost_of: dict[State, float] = {}
        distinct = list(dict.fromkeys(states))
        for chunk in self._chunks(distinct, len(caps)):
            placements = self._place(chunk, caps)
            cost_of.update(zip(chunk, placements.cost_ms.tolist(), strict=True))
        return [cost_of[state] for state in states]

    def _place(self, states: list[State], caps: list[int]) -> Placements:
        array = np.array(states, dtype=np.int64)
        placements = place(self._evaluator, array, caps, self._budget.check)
        cheapest = int(placements.cost_ms.argmin())
        cost_ms = float(placements.cost_ms[cheapest])
        if cost_ms < self.best.cost_ms:
            devices = tuple(placements.devices[cheapest].tolist())
            self.best = _Best(cost_ms, states[cheapest], devices)
            self._budget.plan_found = True
            if self._on_improvement is not None:
                self._on_improvement(_to_plan(states[cheapest], devices, self._evaluator))
        return placements

    def _chunks(self, states: list[State], num_caps: int) -> Iterator[list[State]]:
        num_devices = self._evaluator.problem.cluster.num_devices
        state_bytes = num_caps * num_devices * self._catalog.encodings[0].nbytes
        size = max(1, MAX_LOCKSTEP_BYTES // state_bytes)
        return (states[i : i + size] for i in range(0, len(states), size))

    def _children(self, beam: list[State]) -> list[State]:
        """Every child of the states of a beam, in the order of states and of pieces halved."""
        halvings = [halving for state in beam for halving in self._halvings(state)]
        halves = self._catalog.ids(half for _, _, half in halvings)
        return [
            _halve(state, position, half_id, self._catalog)
            for (state, position, _), half_id in zip(halvings, halves, strict=True)
        ]

    def _halvings(self, state: State) -> Iterator[tuple[State, int, Piece]]:
        """The state, the positions of its candidates that can be halved, and their halves."""
        for position in _candidates(np.array(state), self._catalog, self._options.candidates):
            piece = self._catalog.piece(state[position])
            if can_halve(self._evaluator.problem.tables[piece.table], piece.num_columns):
                yield state, position, Piece(piece.table, piece.num_columns // 2)

    def _place_without_cap(self, levels: list[list[State]], total_dim: int) -> None:
        """The last resort; see the module.

        Raises:
            InsufficientMemoryError: When memory fails too.
        """
        misfits: list[int] = []
        for states in levels:
            for chunk in self._chunks(list(dict.fromkeys(states)), num_caps=1):
                misfits.extend(self._place(chunk, [total_dim]).misfits.tolist())
        if not self._budget.plan_found:
            last = next(misfit for misfit in reversed(misfits) if misfit != NOTHING)
            raise no_plan_error(self._evaluator.problem, self._options, self._catalog.piece(last))


def _candidates(pieces: IntArray, catalog: PieceCatalog, count: int) -> list[int]:
    """Positions of the `count` largest and the `count` most expensive pieces, rising."""
    largest = np.argsort(-catalog.memory_bytes[pieces], kind="stable")[:count]
    dearest = np.argsort(-catalog.compute_ms[pieces], kind="stable")[:count]
    return [int(position) for position in np.union1d(largest, dearest)]


def _halve(state: State, position: int, half: int, catalog: PieceCatalog) -> State:
    """The state with the piece at `position` replaced by two of the piece `half`, in place."""
    piece = catalog.piece(half)
    end = position + 1
    while end < len(state) and _goes_before(catalog.piece(state[end]), piece):
        end += 1
    return (*state[:position], *state[position + 1 : end], half, half, *state[end:])


def _goes_before(other: Piece, piece: Piece) -> bool:
    return other.table == piece.table and other.num_columns >= piece.num_columns


def _to_plan(state: State, devices: tuple[int, ...], evaluator: PlanEvaluator) -> ShardingPlan:
    """The plan of a placed state; pieces of a table follow one another."""
    problem: ShardingProblem = evaluator.problem
    column_offset = dict.fromkeys(range(len(problem.tables)), 0)
    shards = []
    for piece_id, device in zip(state, devices, strict=True):
        piece = evaluator.catalog.piece(piece_id)
        table = problem.tables[piece.table]
        offset = column_offset[piece.table]
        shards.append(Shard(table.name, device, 0, table.num_embeddings, offset, piece.num_columns))
        column_offset[piece.table] += piece.num_columns
    return ShardingPlan(tuple(shards))
