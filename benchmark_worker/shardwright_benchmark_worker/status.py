"""How far a fleet is, from what its store holds: names and ends of parts, and heartbeats."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import fsspec

from shardwright_benchmark_worker.footers import Footer, PartEntry, list_entries, read_footers
from shardwright_benchmark_worker.heartbeat import FOLDER, Heartbeat
from shardwright_benchmark_worker.recorder import cut, parse_part_name
from shardwright_benchmark_worker.share import Share
from shardwright_benchmark_worker.spans import merge, num_covered
from shardwright_costmodel.dataset import Kind


@dataclass(frozen=True)
class WorkerStatus:
    """One worker of a fleet.

    Attributes:
        worker_index: Which.
        host: Where it ran last.
        state: `running`, `done`, `failed`, `stopped`, `stale` (runs, but has been silent for too
            long) or `unseen` (never reported).
        samples: Of its share.
        samples_done: Of those, in the dataset.
        samples_per_s: In its present run; None when it does not run.
        eta_s: Until its share is done; None when it does not run.
        silent_s: Since its last heartbeat.
        error: What ended it.
    """

    worker_index: int
    host: str
    state: str
    samples: int
    samples_done: int
    samples_per_s: float | None = None
    eta_s: float | None = None
    silent_s: float | None = None
    error: str = ""


@dataclass(frozen=True)
class FleetStatus:
    """All that is known of one sequence of samples: a kind, a hardware profile, and options.

    Attributes:
        kind: `compute`, `comm`, ...
        sequence: Names it, see `Recording.sequence`.
        num_parts: In the dataset.
        parts_damaged: Of those, how many cannot be read.
        samples_done: In the dataset.
        samples_expected: The fleet's `--samples`; None when no worker has reported.
        samples_infeasible: Of those done, what did not fit into memory.
        samples_drifted: Of those done, flagged as measured on a throttled or shared device.
        measuring_seconds: Spent inside kernels and collectives, over all parts.
        samples_per_s: Of all workers that run, together.
        eta_s: Until the last worker that runs is done.
        samples_unattended: Missing samples in shares of workers that do not run.
        last_part_age_s: Since the last part was written; None without parts.
        workers: In order.
        options: What decides how samples are drawn and measured.
    """

    kind: str
    sequence: str
    num_parts: int
    parts_damaged: int
    samples_done: int
    samples_expected: int | None
    samples_infeasible: int
    samples_drifted: int
    measuring_seconds: float
    samples_per_s: float
    eta_s: float | None
    samples_unattended: int
    last_part_age_s: float | None
    workers: tuple[WorkerStatus, ...]
    options: dict[str, str] = field(default_factory=dict)


def read_status(root_url: str, stale_after_s: float) -> list[FleetStatus]:
    """Looks at a dataset; sequences of all kinds, in order.

    Args:
        root_url: Dataset root, any fsspec URL or a directory.
        stale_after_s: A worker that runs and has been silent for longer is stale.
    """
    now_s = time.time()
    parts = {kind: _parts(root_url, kind) for kind in Kind}
    fleets: list[FleetStatus] = []
    fleets_at_work = _newest(_heartbeats(root_url))
    for heartbeats in fleets_at_work:
        first = heartbeats[0]
        own = parts[Kind(first.kind)].get(first.sequence, [])
        fleets.append(_fleet(first.kind, first.sequence, own, heartbeats, now_s, stale_after_s))
    reported = {(fleet.kind, fleet.sequence) for fleet in fleets}
    for kind, sequences in parts.items():
        for sequence, own in sequences.items():
            if (kind.value, sequence) not in reported:
                fleets.append(_fleet(kind.value, sequence, own, [], now_s, stale_after_s))
    return sorted(fleets, key=lambda fleet: (fleet.kind, fleet.sequence))


@dataclass(frozen=True)
class _PartOf:
    indices: range
    footer: Footer


def _parts(root_url: str, kind: Kind) -> dict[str, list[_PartOf]]:
    """Sequence to parts; parts that no worker named are a sequence called by their name."""
    entries = list_entries(root_url, kind)
    found: defaultdict[str, list[_PartOf]] = defaultdict(list)
    for footer in read_footers(root_url, entries):
        sequence, indices = _identity(footer.entry, footer.num_rows)
        found[sequence].append(_PartOf(indices, footer))
    return found


def _identity(entry: PartEntry, num_rows: int) -> tuple[str, range]:
    return parse_part_name(entry.name) or (entry.name, range(num_rows))


def _heartbeats(root_url: str) -> Iterator[Heartbeat]:
    """Those that can be read; one of a newer worker's format is left out."""
    filesystem, root = fsspec.core.url_to_fs(root_url)
    paths = [p for p in filesystem.find(f"{root}/{FOLDER}") if p.endswith(".json")]
    if not paths:
        return
    contents = filesystem.cat(paths, on_error="omit")
    for content in contents.values():
        try:
            yield Heartbeat.parse(content)
        except ValueError:
            continue


def _newest(heartbeats: Iterable[Heartbeat]) -> list[list[Heartbeat]]:
    """Groups heartbeats by fleet; one that was started again with other sizes replaces the old."""
    groups: defaultdict[tuple[str, str, int, int], list[Heartbeat]] = defaultdict(list)
    for beat in heartbeats:
        groups[beat.kind, beat.sequence, beat.start_index, beat.part_size].append(beat)
    fleets = []
    for group in groups.values():
        last = max(group, key=lambda beat: beat.started_at)
        same = [
            beat
            for beat in group
            if (beat.num_samples, beat.num_workers) == (last.num_samples, last.num_workers)
        ]
        fleets.append(sorted(same, key=lambda beat: beat.worker_index))
    return fleets


def _fleet(
    kind: str,
    sequence: str,
    parts: Sequence[_PartOf],
    heartbeats: Sequence[Heartbeat],
    now_s: float,
    stale_after_s: float,
) -> FleetStatus:
    covered = merge(part.indices for part in parts)
    workers = tuple(_workers(heartbeats, covered, now_s, stale_after_s))
    running = [worker for worker in workers if worker.state == "running"]
    etas_s = [worker.eta_s for worker in running if worker.eta_s is not None]
    written_s = [p.footer.entry.modified_s for p in parts if p.footer.entry.modified_s is not None]
    expected = heartbeats[0].num_samples if heartbeats else None
    done = sum(worker.samples_done for worker in workers) if heartbeats else sum(map(len, covered))
    return FleetStatus(
        kind=kind,
        sequence=sequence,
        num_parts=len(parts),
        parts_damaged=sum(part.footer.metadata is None for part in parts),
        samples_done=done,
        samples_expected=expected,
        samples_infeasible=int(_total(parts, "infeasible")),
        samples_drifted=int(_total(parts, "drifted")),
        measuring_seconds=round(_total(parts, "measuring_seconds"), 3),
        samples_per_s=sum(worker.samples_per_s or 0.0 for worker in running),
        eta_s=max(etas_s, default=None),
        samples_unattended=sum(
            worker.samples - worker.samples_done for worker in workers if worker not in running
        ),
        last_part_age_s=max(0.0, now_s - max(written_s)) if written_s else None,
        workers=workers,
        options=heartbeats[0].options if heartbeats else {},
    )


def _total(parts: Iterable[_PartOf], name: str) -> float:
    """Sum of a number in the parts' `measuring` metadata."""
    metadata = (part.footer.metadata for part in parts)
    return sum(float(m.measuring.get(name, 0)) for m in metadata if m is not None)


def _workers(
    heartbeats: Sequence[Heartbeat], covered: Sequence[range], now_s: float, stale_after_s: float
) -> Iterator[WorkerStatus]:
    """Every worker of the fleet, those too that never reported."""
    if not heartbeats:
        return
    first = heartbeats[0]
    reported = {beat.worker_index: beat for beat in heartbeats}
    indices = range(first.start_index, first.start_index + first.num_samples)
    parts = cut(indices, first.part_size)
    done = [num_covered(part, covered) for part in parts]
    for worker_index in range(first.num_workers):
        share = Share(worker_index, first.num_workers)
        samples, samples_done = sum(map(len, share.take(parts))), sum(share.take(done))
        beat = reported.get(worker_index)
        if beat is None:
            yield WorkerStatus(worker_index, "", "unseen", samples, samples_done)
        else:
            yield _worker(beat, samples, samples_done, now_s, stale_after_s)


def _worker(
    beat: Heartbeat, samples: int, samples_done: int, now_s: float, stale_after_s: float
) -> WorkerStatus:
    silent_s = max(0.0, now_s - datetime.fromisoformat(beat.updated_at).timestamp())
    stale = beat.state == "running" and silent_s > stale_after_s
    rate = None
    if beat.state == "running" and not stale and beat.running_seconds > 0:
        rate = beat.samples_measured / beat.running_seconds
    left = max(0, beat.samples_todo - beat.samples_measured)
    return WorkerStatus(
        worker_index=beat.worker_index,
        host=beat.host,
        state="stale" if stale else beat.state,
        samples=samples,
        samples_done=samples_done,
        samples_per_s=rate,
        eta_s=left / rate if rate else None,
        silent_s=silent_s,
        error=beat.error,
    )
