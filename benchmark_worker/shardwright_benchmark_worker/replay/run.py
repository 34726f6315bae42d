"""Runs plans on the ranks of a job, round after round, and measures them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shardwright.domain import device_memory_bytes
from shardwright_benchmark_worker.errors import DeviceError, LaunchError, OptionError
from shardwright_benchmark_worker.measure.job import Job
from shardwright_benchmark_worker.progress import logger
from shardwright_benchmark_worker.replay.files import PlannedJob
from shardwright_benchmark_worker.replay.iteration import RankReplay
from shardwright_benchmark_worker.replay.measured import MeasuredPlan, summarize

_CLOCK_PROBES = 31


@dataclass(frozen=True)
class ReplaySettings:
    """How plans are run.

    Attributes:
        rounds: Times that each plan is built and run; plans take turns, so that a disturbance hits
            all of them.
        warmup: Untimed iterations of each round.
        iterations: Timed iterations of each round.
        batches: Batches of lookups, taken in turn.
        seed: Of the lookups.
    """

    rounds: int = 3
    warmup: int = 5
    iterations: int = 20
    batches: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for option, value, low in (
            ("--rounds", self.rounds, 1),
            ("--warmup", self.warmup, 0),
            ("--iterations", self.iterations, 1),
            ("--batches", self.batches, 1),
            ("--seed", self.seed, 0),
        ):
            if not low <= value <= 2**31:
                raise OptionError(f"{option} must be at least {low}, got {value}")


def replay(
    planned: Sequence[PlannedJob],
    job: Job,
    settings: ReplaySettings,
    on_round: Callable[[], None] = lambda: None,
) -> list[MeasuredPlan]:
    """Measures plans; every rank calls it and gets the same.

    Args:
        planned: The plans, for one number of devices.
        job: One process per device.
        settings: How they are run.
        on_round: Called after every round of a plan, for progress.

    Raises:
        LaunchError: When a plan is for another number of devices, or a rank is lost.
        DeviceError: When the device cannot run a plan, or lacks the memory.
    """
    for plan in planned:
        _check_world(plan, job)
        _check_kernels(plan, job)
        _check_memory(plan, job)
    offset_ms = _clock_offset_ms(job)
    logger.info(
        "replaying %d plan%s on %d ranks, %d rounds of %d + %d iterations",
        len(planned),
        "s" * (len(planned) > 1),
        job.world_size,
        settings.rounds,
        settings.warmup,
        settings.iterations,
    )
    rounds: list[list[npt.NDArray[np.float64]]] = [[] for _ in planned]
    for _ in range(settings.rounds):
        for stamps, plan in zip(rounds, planned, strict=True):
            stamps.append(_run(plan, job, settings, offset_ms))
            on_round()
    return [summarize(plan, stamps) for plan, stamps in zip(planned, rounds, strict=True)]


def _run(
    plan: PlannedJob, job: Job, settings: ReplaySettings, offset_ms: float
) -> npt.NDArray[np.float64]:
    """Stamps of one round, `[world_size, iterations, stamps]`, on the clock of rank 0."""
    rank = RankReplay(plan, job, settings.seed, settings.batches)
    job.barrier()
    for _ in range(settings.warmup):
        rank.once(0.0)
    mine = np.array([rank.once(offset_ms).row() for _ in range(settings.iterations)])
    del rank
    gc.collect()
    return job.gather(mine)


def _clock_offset_ms(job: Job) -> float:
    """What to subtract from this rank's clock to get that of rank 0.

    Processes of a host share a clock. Across hosts it is the median difference between the ranks'
    clocks as they leave a barrier, good to some ten microseconds.
    """
    if job.local_world_size == job.world_size:
        return 0.0
    exits = []
    for _ in range(_CLOCK_PROBES):
        job.barrier()
        exits.append(time.perf_counter() * 1e3)
    by_rank = job.gather(exits)
    return float(np.median(by_rank[job.rank] - by_rank[0]))


def _check_world(plan: PlannedJob, job: Job) -> None:
    wanted = plan.problem.cluster.num_devices
    if wanted != job.world_size:
        raise LaunchError(
            f"{plan.name}: is a plan for {wanted} devices, but torchrun started {job.world_size} "
            f"processes; start one for each device (--nproc-per-node, --nnodes)"
        )


def _check_kernels(plan: PlannedJob, job: Job) -> None:
    problem, device = plan.problem, job.device
    missing = {
        t.weight_dtype.value for t in problem.tables if t.weight_dtype not in device.weight_dtypes
    }
    if problem.optimizer not in device.optimizers:
        missing.add(problem.optimizer.value)
    if missing:
        raise DeviceError(
            f"{plan.name}: fbgemm has no {device.name} kernels for {', '.join(sorted(missing))}; "
            f"it has {', '.join(o.value for o in device.optimizers)} and "
            f"{', '.join(d.value for d in device.weight_dtypes)}"
        )


def _check_memory(plan: PlannedJob, job: Job) -> None:
    """Compares tables with free memory on every rank before any is built; all ranks agree."""
    needed = np.array(device_memory_bytes(plan.result.plan, plan.problem), dtype=np.int64)
    hosts = np.arange(job.world_size) // job.local_world_size
    if job.device.name == "cpu":
        # the ranks of a host share its memory
        needed = np.bincount(hosts, weights=needed)[hosts].astype(np.int64)
    gc.collect()
    free = job.gather(float(job.device.free_memory_bytes()))
    short = np.flatnonzero(needed > free)
    if len(short):
        rank = int(short[0])
        where = "its host's ranks need" if job.device.name == "cpu" else "it needs"
        raise DeviceError(
            f"{plan.name}: does not fit into the memory of rank {rank}: {where} "
            f"{needed[rank]} bytes for tables, {free[rank]:.0f} are free"
        )
