"""The search as the paper's pseudo-code reads: one candidate, cap, table and device at a time.

NeuroShard's beam search and greedy grid search (MLSys 2023), with the differences that the
docstring of `shardwright_server.search.beam` lists. Slow and plain on purpose: the lockstep search
must choose the same plan. Shares nothing with it but domain types, features and the CostModel
protocol.
"""

from __future__ import annotations

from fractions import Fraction
from math import floor, inf
from typing import NamedTuple

import numpy as np

from shardwright.domain import SearchOptions, Shard, ShardingPlan, ShardingProblem
from shardwright_costmodel.features import NUM_COLUMNS_INDEX, comm_features, table_features


class Piece(NamedTuple):
    table: int
    offset: int
    width: int


class Reference:
    """Args: the problem, the cost model and the options."""

    def __init__(self, problem: ShardingProblem, cost_model, options: SearchOptions) -> None:
        self.problem = problem
        self.cost_model = cost_model
        self.options = options
        self.num_devices = problem.cluster.num_devices
        self.features = table_features(problem.tables, problem.global_batch_size, problem.optimizer)
        self.encodings = {}
        self.compute_costs = {}

    # --- beam search over column splits ------------------------------------------------------

    def search(self) -> ShardingPlan | None:
        """The best plan; None when no state fits."""
        # a state is, for each table, the widths of its pieces, widest first
        unsplit = tuple((table.embedding_dim,) for table in self.problem.tables)
        best_cost, best_devices = self.grid_search(unsplit)
        beam = [unsplit]
        for _ in range(self.options.max_column_splits):
            children = []
            for state in beam:
                for piece in self.candidates(state):
                    child = self.split(state, piece)
                    cost, devices = self.grid_search(child)
                    children.append((cost, child))
                    if cost < best_cost:
                        best_cost, best_devices = cost, devices
            if not children:
                break
            children.sort(key=lambda child: child[0])
            beam = [state for _, state in children[: self.options.beam_width]]
        return None if best_devices is None else self.to_plan(best_devices)

    def candidates(self, state):
        pieces = self.pieces(state)
        by_memory = sorted(pieces, key=self.memory, reverse=True)[: self.options.candidates]
        by_cost = sorted(pieces, key=self.single_cost, reverse=True)[: self.options.candidates]
        for piece in pieces:
            least = self.problem.tables[piece.table].constraints.min_column_width
            splittable = piece.width % 8 == 0 and piece.width // 2 >= least
            if splittable and (piece in by_memory or piece in by_cost):
                yield piece

    def split(self, state, piece):
        widths = list(state[piece.table])
        widths.remove(piece.width)
        widths += [piece.width // 2, piece.width // 2]
        widths.sort(reverse=True)
        return (*state[: piece.table], tuple(widths), *state[piece.table + 1 :])

    def pieces(self, state):
        pieces = []
        for table, widths in enumerate(state):
            offset = 0
            for width in widths:
                pieces.append(Piece(table, offset, width))
                offset += width
        return pieces

    # --- greedy grid search over caps on the sum of dims ----------------------------------------

    def grid_search(self, state):
        """Cost and devices of the best placement of a state; infinite and None when none fits."""
        best_cost, best_devices = inf, None
        for cap in self.caps():
            devices = self.place(state, cap)
            if devices is None:
                continue
            cost = self.plan_cost(devices)
            if cost < best_cost:
                best_cost, best_devices = cost, devices
        return best_cost, best_devices

    def caps(self):
        mean = Fraction(sum(t.embedding_dim for t in self.problem.tables), self.num_devices)
        steps = self.options.grid_steps
        if steps == 1:
            return [floor(mean)]
        return [floor(mean * (1 + Fraction(i, 2 * (steps - 1)))) for i in range(steps)]

    def place(self, state, cap):
        """The pieces of each device in order of placement; None when a piece fits nowhere."""
        devices = [[] for _ in range(self.num_devices)]
        for piece in sorted(self.pieces(state), key=self.single_cost, reverse=True):
            best_cost, best_device = inf, None
            for device in range(self.num_devices):
                placed = [*devices[device], piece]
                if self.fits(placed, device, cap) and self.compute_cost(placed) < best_cost:
                    best_cost, best_device = self.compute_cost(placed), device
            if best_device is None:
                return None
            devices[best_device].append(piece)
        return devices

    def fits(self, pieces, device, cap):
        memory_bytes = sum(self.memory(piece) for piece in pieces)
        dims = sum(piece.width for piece in pieces)
        return memory_bytes <= self.problem.cluster.shard_memory_bytes(device) and dims <= cap

    def memory(self, piece):
        table = self.problem.tables[piece.table]
        return self.problem.shard_bytes(table, table.num_embeddings, piece.width)

    def to_plan(self, devices):
        tables = self.problem.tables
        return ShardingPlan(
            tuple(
                Shard(tables[t].name, device, 0, tables[t].num_embeddings, offset, width)
                for device, pieces in enumerate(devices)
                for t, offset, width in pieces
            )
        )

    # --- costs ---------------------------------------------------------------------------------

    def encoding(self, table, width):
        if (table, width) not in self.encodings:
            features = self.features[[table]].copy()
            features[0, NUM_COLUMNS_INDEX] = width
            self.encodings[table, width] = self.cost_model.encode(features)[0]
        return self.encodings[table, width]

    def compute_cost(self, pieces):
        """Forward + backward of a device; remembered, since caps and candidates repeat it."""
        key = tuple((piece.table, piece.width) for piece in pieces)
        if key not in self.compute_costs:
            encoding = np.zeros(self.cost_model.encoding_size, dtype=np.float32)
            for table, width in key:
                encoding = encoding + self.encoding(table, width)
            ((forward, backward),) = self.cost_model.compute_ms(encoding[None])
            self.compute_costs[key] = float(forward) + float(backward)
        return self.compute_costs[key]

    def single_cost(self, piece):
        return self.compute_cost([piece])

    def plan_cost(self, devices):
        cluster = self.problem.cluster
        dims = [sum(piece.width for piece in pieces) for pieces in devices]
        rows = comm_features([dims], cluster.devices_per_host, self.problem.global_batch_size)[0]
        forward = [float(self.cost_model.forward_comm_ms(row[None])[0]) for row in rows]
        backward = [float(self.cost_model.backward_comm_ms(row[None])[0]) for row in rows]
        arrival = [self.compute_cost(d) + b for d, b in zip(devices, backward, strict=True)]
        total = [a + f for a, f in zip(arrival, forward, strict=True)]
        wait = [max(arrival) - a for a in arrival]
        return max(t + w for t, w in zip(total, wait, strict=True))
