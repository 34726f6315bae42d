from __future__ import annotations

import json
import signal
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shardwright_benchmark_worker.cli.status import duration
from shardwright_benchmark_worker.heartbeat import Heartbeat
from shardwright_benchmark_worker.status import read_status
from shardwright_costmodel.dataset import Kind, list_parts

from .conftest import RunWorker
from .fleet_processes import MODELLED, ON_CPU, eventually, worker_process


def heartbeat(root: Path) -> tuple[Path, Heartbeat]:
    (path,) = root.glob("fleet/*/*/*/*.json")
    return path, Heartbeat.parse(path.read_bytes())


def test_what_a_fleet_has_done_is_told_by_its_store(worker: RunWorker, tmp_path: Path) -> None:
    command = ("compute", *MODELLED, "--out", str(tmp_path), "--samples", "95", "--part-size", "10")
    assert worker(*command, "--worker-index", "1", "--num-workers", "3").returncode == 0
    (fleet,) = read_status(str(tmp_path), stale_after_s=60)
    assert (fleet.kind, fleet.num_parts, fleet.parts_damaged) == ("compute", 3, 0)
    assert (fleet.samples_done, fleet.samples_expected) == (30, 95)
    assert fleet.options["max_shards"] == "40"
    states = [(w.state, w.samples, w.samples_done) for w in fleet.workers]
    assert states == [("unseen", 35, 0), ("done", 30, 30), ("unseen", 30, 0)]
    assert fleet.samples_unattended == 65 and fleet.eta_s is None
    shown = worker("status", "--out", str(tmp_path)).stdout
    assert "30 of 95 samples (31.6 %) in 3 parts" in shown
    assert "nobody measures 65 missing samples" in " ".join(shown.split())
    (as_json,) = json.loads(worker("status", "--out", str(tmp_path), "--json").stdout)
    assert as_json["samples_done"] == 30 and len(as_json["workers"]) == 3
    # one worker takes over, and the fleet of three is history
    assert worker(*command).returncode == 0
    (fleet,) = read_status(str(tmp_path), stale_after_s=60)
    assert [(w.state, w.samples_done) for w in fleet.workers] == [("done", 95)]
    assert fleet.samples_unattended == 0


def test_a_worker_that_runs_tells_its_rate_and_one_that_is_killed_goes_stale(
    tmp_path: Path,
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    command = ("compute", *ON_CPU, "--out", str(out), "--samples", "100000", "--part-size", "10")
    with worker_process(*command, log=log) as process:
        eventually(lambda: len(list_parts(str(out), Kind.COMPUTE)) >= 2, log)
        (fleet,) = read_status(str(out), stale_after_s=60)
        assert fleet.workers[0].state == "running" and fleet.samples_unattended == 0
        assert fleet.samples_done >= 20 and fleet.last_part_age_s is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
    (fleet,) = read_status(str(out), stale_after_s=0.0)
    assert fleet.workers[0].state == "stale"
    assert fleet.samples_unattended == 100_000 - fleet.samples_done


def test_rates_and_time_to_go_come_from_the_heartbeats(worker: RunWorker, tmp_path: Path) -> None:
    command = ("comm", *MODELLED, "--out", str(tmp_path), "--samples", "20", "--part-size", "10")
    share = ("--worker-index", "0", "--num-workers", "2")
    assert worker(*command, *share).returncode == 0
    for path in tmp_path.glob("fleet/all_reduce/*/*/*.json"):
        path.unlink()
    path, done = heartbeat(tmp_path)
    ages_and_rates = ((0, 8, 4.0), (1, 2, 1.0))
    for worker_index, measured, seconds in ages_and_rates:
        beat = replace(
            done,
            state="running",
            worker_index=worker_index,
            samples_todo=10,
            samples_measured=measured,
            running_seconds=seconds,
            updated_at=(datetime.now(UTC) - timedelta(seconds=30)).isoformat(),
        )
        path.with_name(Path(beat.path).name).write_text(json.dumps(asdict(beat)))
    (fleet,) = (f for f in read_status(str(tmp_path), stale_after_s=60) if f.kind == "comm")
    assert fleet.samples_per_s == pytest.approx(2.0 + 2.0)
    assert fleet.eta_s == pytest.approx(max(2 / 2.0, 8 / 2.0))
    assert [round(w.silent_s or 0) for w in fleet.workers] == [30, 30]
    stale = [f for f in read_status(str(tmp_path), stale_after_s=10) if f.kind == "comm"]
    assert [w.state for w in stale[0].workers] == ["stale", "stale"]


def test_parts_of_other_origin_and_damaged_files_are_counted(
    worker: RunWorker, tmp_path: Path
) -> None:
    command = ("compute", *MODELLED, "--out", str(tmp_path), "--samples", "5")
    assert worker(*command).returncode == 0
    (part,) = (tmp_path / "compute").iterdir()
    (tmp_path / "compute" / "mine.parquet").write_bytes(part.read_bytes())
    (tmp_path / "compute" / "broken.parquet").write_bytes(part.read_bytes()[:-9])
    (path,) = tmp_path.glob("fleet/*/*/*/*.json")
    path.with_name("00007-of-00008.json").write_text('{"a": 1}')
    path.with_name("00006-of-00008.json").write_text("not json")
    fleets = {f.sequence: f for f in read_status(str(tmp_path), stale_after_s=60)}
    assert len(fleets) == 3
    assert (fleets["mine"].samples_done, fleets["mine"].samples_expected) == (5, None)
    assert fleets["broken"].parts_damaged == 1
    shown = worker("status", "--out", str(tmp_path)).stdout
    assert "5 samples, no worker has reported" in shown and "cannot be read" in shown


def test_a_place_without_anything_is_no_error(worker: RunWorker, tmp_path: Path) -> None:
    done = worker("status", "--out", str(tmp_path / "nowhere"))
    assert done.returncode == 0 and "Nothing is there yet" in done.stdout
    assert worker("status", "--out", str(tmp_path), "--json").stdout.strip() == "[]"
    bad = worker("status", "--out", "nosuch://x")
    assert bad.returncode == 2 and "error: --out nosuch://x: cannot be opened" in bad.stderr


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min"), (3725, "1 h 2 min"), (3600, "1 h"), (200_000, "2 d 7 h")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text
