"""Models and plans that the ranks of a test job and the test itself agree on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shardwright.domain import Shard, ShardingPlan, merge_columns

if TYPE_CHECKING:
    from torch import nn
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


@dataclass(frozen=True)
class Scenario:
    """Tables as (name, rows, columns), in two collections, and their shards."""

    world_size: int
    local_world_size: int
    sum_tables: tuple[tuple[str, int, int], ...]
    mean_tables: tuple[tuple[str, int, int], ...]
    shards: tuple[Shard, ...]

    @property
    def tables(self) -> tuple[tuple[str, int, int], ...]:
        return self.sum_tables + self.mean_tables

    def copied(self, table: str) -> bool:
        """Whether a table is data-parallel."""
        shards = [shard for shard in self.shards if shard.table == table]
        rows = {name: rows for name, rows, _ in self.tables}[table]
        return (
            len(shards) == self.world_size
            and all(s.num_rows == rows for s in shards)
            and (len({s.column_offset for s in shards}) == 1)
        )

    def plan(self) -> ShardingPlan:
        return ShardingPlan(self.shards)

    def module(self, device: str = "cpu") -> nn.Module:
        """A model with two collections, one of them deeper down."""
        from torch import nn
        from torchrec.modules.embedding_configs import PoolingType

        class Model(nn.Module):
            def __init__(self, scenario: Scenario) -> None:
                super().__init__()
                self.sums = collection(scenario.sum_tables, PoolingType.SUM, device)
                self.tower = nn.ModuleDict(
                    {"means": collection(scenario.mean_tables, PoolingType.MEAN, device)}
                )

            def forward(self, features):  # type: ignore[no-untyped-def]
                return {
                    **self.sums(features).to_dict(),
                    **self.tower["means"](features).to_dict(),
                }

        return Model(self)

    def features(self, num_samples: int, seed: int) -> KeyedJaggedTensor:
        """Ragged bags of 0 to 4 lookups, for every table."""
        import torch
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

        generator = torch.Generator().manual_seed(seed)
        lengths, values = [], []
        for _, rows, _ in self.tables:
            bags = torch.randint(0, 5, (num_samples,), generator=generator)
            lengths.append(bags)
            values.append(torch.randint(0, rows, (int(bags.sum()),), generator=generator))
        return KeyedJaggedTensor(
            keys=[f"feature_{name}" for name, _, _ in self.tables],
            values=torch.cat(values),
            lengths=torch.cat(lengths),
        )


def collection(tables, pooling, device):  # type: ignore[no-untyped-def]
    import torch
    from torchrec.modules.embedding_configs import EmbeddingBagConfig
    from torchrec.modules.embedding_modules import EmbeddingBagCollection

    return EmbeddingBagCollection(
        device=torch.device(device),
        tables=[
            EmbeddingBagConfig(
                name=name,
                num_embeddings=rows,
                embedding_dim=columns,
                feature_names=[f"feature_{name}"],
                pooling=pooling,
            )
            for name, rows, columns in tables
        ],
    )


def columns(table: str, rows: int, placed: list[tuple[int, int]]) -> list[Shard]:
    """Column shards, given as (device, width)."""
    shards, offset = [], 0
    for device, width in placed:
        shards.append(Shard(table, device, 0, rows, offset, width))
        offset += width
    return shards


def rows(table: str, num_rows: int, width: int, devices: range) -> list[Shard]:
    """Row shards of ceil(rows / devices) each."""
    block = -(-num_rows // len(devices))
    starts = [min(i * block, num_rows) for i in range(len(devices))]
    return [
        Shard(table, device, start, min(block, num_rows - start), 0, width)
        for device, start in zip(devices, starts, strict=True)
    ]


def copies(table: str, num_rows: int, width: int, devices: int) -> list[Shard]:
    """A whole copy on every device."""
    return [Shard(table, device, 0, num_rows, 0, width) for device in range(devices)]


SCENARIOS = {
    "two_ranks": Scenario(
        world_size=2,
        local_world_size=2,
        sum_tables=(
            ("whole", 50, 16),
            ("uneven", 40, 24),
            ("unequal", 25, 24),
            ("halves", 30, 8),
            ("odd_rows", 17, 12),
        ),
        mean_tables=(("mean_rows", 9, 8), ("one_row", 1, 4)),
        shards=(
            *columns("whole", 50, [(1, 16)]),
            # more shards than ranks, uneven, two of them on one rank
            *columns("uneven", 40, [(1, 8), (0, 4), (1, 8), (0, 4)]),
            # merged as the server does: TorchRec takes no unequal widths on one rank
            *merge_columns(
                ShardingPlan(tuple(columns("unequal", 25, [(1, 12), (0, 4), (1, 8)])))
            ).shards,
            *columns("halves", 30, [(0, 4), (0, 4)]),
            *rows("odd_rows", 17, 12, range(2)),
            *rows("mean_rows", 9, 8, range(2)),
            # rank 1 holds no row
            *rows("one_row", 1, 4, range(2)),
        ),
    ),
    "copies": Scenario(
        world_size=2,
        local_world_size=2,
        sum_tables=(("copied", 13, 8), ("whole", 50, 16), ("in_rows", 9, 4), ("again", 5, 4)),
        mean_tables=(("copied_mean", 7, 12), ("columns", 12, 16)),
        shards=(
            *copies("copied", 13, 8, 2),
            *columns("whole", 50, [(1, 16)]),
            *rows("in_rows", 9, 4, range(2)),
            *copies("again", 5, 4, 2),
            *copies("copied_mean", 7, 12, 2),
            *columns("columns", 12, [(0, 4), (1, 12)]),
        ),
    ),
    "two_hosts": Scenario(
        world_size=4,
        local_world_size=2,
        sum_tables=(
            ("first_host", 11, 8),
            ("everywhere", 10, 8),
            ("last", 30, 16),
            ("second_host", 7, 4),
        ),
        mean_tables=(("columns", 12, 16), ("mean_whole", 12, 16)),
        shards=(
            *rows("first_host", 11, 8, range(2)),
            # ceil(10 / 4) = 3 rows: 3, 3, 3, 1
            *rows("everywhere", 10, 8, range(4)),
            *columns("last", 30, [(3, 16)]),
            *rows("second_host", 7, 4, range(2, 4)),
            *columns("columns", 12, [(3, 4), (1, 8), (2, 4)]),
            *columns("mean_whole", 12, [(2, 16)]),
        ),
    ),
}

# Rank 1 holds no row of `one_row`: TorchRec takes such a plan, but fbgemm 1.8's backward on CPUs
# does not. It reads behind the tables where the empty one is last on its rank ("more than 2B rows",
# now and then), and steps a neighbour's weights where it is not. So each rank gets a row here.
_EMPTY = "two_ranks"
SCENARIOS["two_ranks_none_empty"] = replace(
    SCENARIOS[_EMPTY],
    mean_tables=(("mean_rows", 9, 8), ("one_row", 2, 4)),
    shards=(
        *(shard for shard in SCENARIOS[_EMPTY].shards if shard.table != "one_row"),
        *rows("one_row", 2, 4, range(2)),
    ),
)
TRAINED = tuple(name for name in SCENARIOS if name != _EMPTY)
