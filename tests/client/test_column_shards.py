"""Column shards are recut only where TorchRec needs it, and no column changes its device."""

from hypothesis import given
from hypothesis import strategies as st
from torchrec_scenarios import columns

from shardwright.domain import Shard
from shardwright_client.column_shards import equal_widths_per_device

placements = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 8).map(lambda n: 4 * n)), min_size=1, max_size=12
)


def recut(placed: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(s.device, s.num_columns) for s in equal_widths_per_device(columns("t", 10, placed))]


def test_equal_widths_stay_as_they_are() -> None:
    assert recut([(0, 8), (0, 8), (1, 4)]) == [(0, 8), (0, 8), (1, 4)]


def test_neighbours_become_one() -> None:
    assert recut([(0, 4), (0, 8), (1, 8)]) == [(0, 12), (1, 8)]


def test_others_are_cut_to_their_common_width() -> None:
    assert recut([(1, 64), (0, 32), (1, 32)]) == [(1, 32), (1, 32), (0, 32), (1, 32)]
    assert recut([(1, 12), (0, 4), (1, 8)]) == [(1, 4)] * 3 + [(0, 4)] + [(1, 4)] * 2


@given(placements)
def test_every_column_stays_on_its_device(placed: list[tuple[int, int]]) -> None:
    before = columns("t", 10, placed)
    after = equal_widths_per_device(before)
    assert _device_of_each_column(after) == _device_of_each_column(before)
    for device in range(4):
        widths = {s.num_columns for s in after if s.device == device}
        assert len(widths) <= 1
        assert all(width % 4 == 0 for width in widths)


def _device_of_each_column(shards: list[Shard]) -> list[int]:
    devices: list[int] = []
    for shard in shards:
        assert shard.column_offset == len(devices)
        devices += [shard.device] * shard.num_columns
    return devices
