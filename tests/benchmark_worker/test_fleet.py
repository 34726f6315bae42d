"""Workers that share nothing but a store."""

from __future__ import annotations

from pathlib import Path

from .conftest import RunWorker
from .fleet_processes import MODELLED, ON_CPU, events, indices


def modelled(out: Path, *more: str) -> tuple[str, ...]:
    return ("compute", *MODELLED, "--out", str(out), "--samples", "25", "--part-size", "5", *more)


def names(out: Path) -> set[str]:
    return {path.name for path in (out / "compute").iterdir()}


def test_a_fleet_writes_what_one_worker_would(worker: RunWorker, tmp_path: Path) -> None:
    alone, fleet = tmp_path / "alone", tmp_path / "fleet"
    assert worker(*modelled(alone)).returncode == 0
    for index in ("0", "1"):
        share = ("--worker-index", index, "--num-workers", "2")
        assert worker(*modelled(fleet, *share)).returncode == 0
        if index == "0":
            assert len(names(fleet)) == 3
    assert indices(fleet) == list(range(25))
    assert names(fleet) == names(alone)
    for name in names(fleet):
        assert (fleet / "compute" / name).read_bytes() == (alone / "compute" / name).read_bytes()


def test_the_pods_of_an_indexed_job_are_a_fleet(worker: RunWorker, tmp_path: Path) -> None:
    pod = {"JOB_COMPLETION_INDEX": "1", "JOB_COMPLETIONS": "2"}
    assert worker(*modelled(tmp_path), **pod).returncode == 0
    assert indices(tmp_path) == [*range(5, 10), *range(15, 20)]
    # what is given wins
    only = ("--worker-index", "0", "--num-workers", "1")
    done = worker(*modelled(tmp_path, *only), **pod)
    assert indices(tmp_path) == list(range(25))
    assert [e["parts"] for e in events(done.stderr) if "already there" in e["event"]] == [2]


def test_a_worker_without_a_part_is_done_at_once(worker: RunWorker, tmp_path: Path) -> None:
    share = ("--worker-index", "7", "--num-workers", "8")
    done = worker(*modelled(tmp_path, *share))
    assert done.returncode == 0 and not (tmp_path / "compute").exists()


def test_a_fleet_on_real_devices_must_agree_on_memory(worker: RunWorker, tmp_path: Path) -> None:
    done = worker(
        *("compute", "--device", "cpu", "--hardware", "x", "--out", str(tmp_path)),
        *("--samples", "4", "--worker-index", "0", "--num-workers", "2"),
    )
    assert done.returncode == 2
    assert "a fleet needs --max-memory-bytes: its default depends on the free" in done.stderr
    share = ("--worker-index", "0", "--num-workers", "2", "--part-size", "2")
    done = worker("compute", *ON_CPU, "--out", str(tmp_path), "--samples", "4", *share)
    assert done.returncode == 0, done.stderr
    assert indices(tmp_path) == [0, 1]


def test_another_pool_of_the_same_name_is_other_work(worker: RunWorker, tmp_path: Path) -> None:
    from shardwright_benchmark_worker.pool import POOL_PATH

    lines = POOL_PATH.read_text().splitlines(keepends=True)
    for folder, kept in (("a", lines), ("b", lines[:100])):
        (tmp_path / folder).mkdir()
        pool = tmp_path / folder / "pool.csv"
        pool.write_text("".join(kept))
        out = tmp_path / "out"
        assert worker(*modelled(out, "--pool", str(pool))).returncode == 0
    assert len(names(out)) == 10


def test_log_lines_are_json_off_a_terminal(worker: RunWorker, tmp_path: Path) -> None:
    done = worker(*modelled(tmp_path))
    written = [e for e in events(done.stderr) if e["event"] == "part written"]
    assert len(written) == 5
    assert set(written[0]) == {"event", "level", "timestamp", "part", "of", "samples", "url"}
    assert written[0]["timestamp"].endswith("Z") and written[0]["samples"] == 5
    people = worker(*modelled(tmp_path, "--overwrite", "--log-format", "console"))
    assert events(people.stderr) == [] and "part written" in people.stderr
