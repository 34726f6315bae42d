from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shardwright_benchmark_worker.errors import OptionError
from shardwright_benchmark_worker.recorder import Recording, parse_part_name, record_part
from shardwright_benchmark_worker.share import Share
from shardwright_costmodel.dataset import Kind, list_parts, read_part


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(
        out_url=str(tmp_path),
        kind=Kind.COMM,
        hardware="test-cpu",
        source="measured",
        seed=7,
        start_index=10,
        num_samples=25,
        part_size=10,
        options={"max_shards": "4"},
        fingerprint={"device": "a test"},
        software={"numpy": "1"},
    )


def row(index: int) -> dict[str, Any]:
    return {
        "world_size": 2,
        "devices_per_host": 2,
        "global_batch_size": index,
        "dims": [4, 8],
        "start_skew_ms": [0.0, 1.0],
        "forward_ms": [1.0, 2.0],
        "backward_ms": [1.0, 2.0],
        "repetitions": 1,
    }


def measure(indices: range) -> Iterator[dict[str, Any]]:
    yield from map(row, indices)


def test_samples_are_cut_into_parts_in_order(recording: Recording) -> None:
    assert recording.parts() == [range(10, 20), range(20, 30), range(30, 35)]


def test_a_part_comes_back_with_rows_and_provenance(recording: Recording) -> None:
    advanced = []
    url = record_part(recording, range(30, 35), measure, lambda row, _: advanced.append(row))
    part = read_part(url, Kind.COMM)
    assert part.table["global_batch_size"].to_pylist() == [30, 31, 32, 33, 34]
    assert advanced == [row(index) for index in range(30, 35)]
    assert part.metadata.hardware == "test-cpu" and part.metadata.source == "measured"
    assert part.metadata.fingerprint == {"device": "a test"}
    assert part.metadata.software == {"numpy": "1"}
    assert part.metadata.sampling == {
        "max_shards": "4",
        "seed": "7",
        "first_index": "30",
        "last_index": "34",
    }


def test_a_stopped_recording_leaves_whole_parts_only(recording: Recording, tmp_path: Path) -> None:
    def dies_after_three(indices: range) -> Iterator[dict[str, Any]]:
        yield from map(row, indices[:3])
        raise KeyboardInterrupt

    record_part(recording, range(10, 20), measure)
    with pytest.raises(KeyboardInterrupt):
        record_part(recording, range(20, 30), dies_after_three)
    assert [p.name for p in (tmp_path / "comm").iterdir()] == [
        f"{recording.part_name(range(10, 20))}.parquet"
    ]
    assert recording.missing_parts() == [range(20, 30), range(30, 35)]


def test_a_failed_write_leaves_nothing(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shardwright_costmodel.dataset.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        record_part(recording, range(10, 20), measure)
    assert list((tmp_path / "comm").iterdir()) == []


def test_the_same_work_replaces_its_part(recording: Recording) -> None:
    first = record_part(recording, range(10, 20), measure)
    again = record_part(recording, range(10, 20), measure)
    assert first == again and list_parts(recording.out_url, Kind.COMM) == [first]


def test_different_work_never_shares_a_name(recording: Recording) -> None:
    part = range(10, 20)
    names = {
        recording.part_name(part),
        recording.part_name(range(20, 30)),
        replace(recording, seed=8).part_name(part),
        replace(recording, hardware="other").part_name(part),
        replace(recording, options={"max_shards": "5"}).part_name(part),
        replace(recording, source="modelled").part_name(part),
    }
    assert len(names) == 6


def test_other_bounds_measure_only_what_no_part_holds(recording: Recording) -> None:
    for indices in (range(10, 20), range(30, 35)):
        record_part(recording, indices, measure)
    more = replace(recording, num_samples=50, part_size=20)
    assert more.parts() == [range(10, 30), range(30, 50), range(50, 60)]
    assert more.missing_parts() == [range(20, 30), range(35, 50), range(50, 60)]
    other_options = replace(more, options={"max_shards": "5"})
    assert other_options.missing_parts() == more.parts()


def test_a_fleet_shares_the_parts_of_one_worker(recording: Recording) -> None:
    workers = [replace(recording, share=Share(i, 2)) for i in range(2)]
    assert [w.parts() for w in workers] == [[range(10, 20), range(30, 35)], [range(20, 30)]]
    for worker in workers:
        for indices in worker.missing_parts():
            record_part(worker, indices, measure)
    assert recording.missing_parts() == []
    # another number of workers goes on with what is there
    assert replace(recording, share=Share(2, 3)).missing_parts() == []


@pytest.mark.parametrize("hardware", ["test-cpu", "x-seed1-000000001-000000002-abcdef01"])
def test_a_part_name_tells_its_sequence_and_indices(recording: Recording, hardware: str) -> None:
    recording = replace(recording, hardware=hardware)
    name = recording.part_name(range(10, 2_000_000_000))
    assert parse_part_name(name) == (recording.sequence, range(10, 2_000_000_000))


@pytest.mark.parametrize(
    "name", ["mine", "x-measured-seed0-000000020-000000010-abcdef01", "x-seed0-1-2-abcdef01"]
)
def test_other_names_are_nobodys_parts(name: str) -> None:
    assert parse_part_name(name) is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"hardware": "H100 (mine)"}, "--hardware must be of lower-case letters.*'H100 "),
        ({"hardware": "../up"}, "--hardware"),
        ({"num_samples": 0}, "--samples must be at least 1, got 0"),
        ({"part_size": 0}, "--part-size must be at least 1, got 0"),
        ({"start_index": -1}, "--start-index must be at least 0, got -1"),
        ({"seed": -1}, "--seed must be at least 0, got -1"),
    ],
)
def test_senseless_recordings_are_refused(
    recording: Recording, change: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(OptionError, match=complaint):
        replace(recording, **change)
