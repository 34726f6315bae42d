"""`shardwright-worker comm`."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Annotated

import typer

from shardwright_benchmark_worker.cli import options as option
from shardwright_benchmark_worker.cli.grouping import grouped
from shardwright_benchmark_worker.cli.recording import (
    modelled_by,
    open_session,
    parse_device,
    samples_of,
    texts,
)
from shardwright_benchmark_worker.recorder import Measure, Recording
from shardwright_benchmark_worker.roofline import source as roofline
from shardwright_benchmark_worker.sampling import (
    CommLimits,
    draw_all_reduce_sample,
    draw_comm_sample,
    draw_reduce_scatter_sample,
)
from shardwright_benchmark_worker.software import software_versions
from shardwright_costmodel.dataset import Kind

_MAX_DEVICE_BYTES = {"cpu": 64 * 2**20, "cuda": 4 * 2**30}


@grouped
def comm(
    work: option.Work,
    trust: option.Trust,
    watching: option.Watching,
    devices_per_host: Annotated[
        int | None,
        typer.Option(
            help="Devices that share fast links. Default: drawn; under torchrun, its own.",
            show_default=False,
        ),
    ] = None,
    max_world_size: Annotated[
        int, typer.Option(help="Most devices (rooflines; torchrun fixes them otherwise).")
    ] = 128,
    min_batch_size: option.MinBatch = 512,
    max_batch_size: option.MaxBatch = 262_144,
    max_device_dim: Annotated[
        int, typer.Option(help="Largest mean sum of embedding dims per device.")
    ] = 8192,
    max_skew_ms: Annotated[float, typer.Option(help="Latest start of a device.")] = 20.0,
    max_device_bytes: Annotated[
        int | None,
        typer.Option(
            help="Most bytes of buffers on one device. "
            "Default: 64 MiB on cpu, 4 GiB on cuda, unlimited for a roofline.",
            show_default=False,
        ),
    ] = None,
    warmup: option.Warmup = 2,
    repetitions: option.Repetitions = 9,
    held_out: option.HeldOut = False,
    timeout_s: Annotated[
        float, typer.Option(help="A collective that takes longer has lost a rank.")
    ] = 60.0,
) -> None:
    """Measures all-to-alls, and as many all-reduces and reduce-scatters; under torchrun.

    A roofline, which needs no torchrun, has no reduce-scatters.
    """
    session = open_session(work, watching)
    profile, hardware = parse_device(work.device, work.hardware)
    limits = CommLimits(
        max_world_size=max_world_size,
        min_batch_size=min_batch_size,
        max_batch_size=max_batch_size,
        max_device_dim=max_device_dim,
        max_skew_ms=max_skew_ms,
        max_device_bytes=max_device_bytes or _MAX_DEVICE_BYTES.get(work.device),
        held_out=held_out,
    )
    recording = partial(Recording, **samples_of(work, hardware))
    if profile is not None:
        limits = limits.on(None, devices_per_host)
        modelled = partial(recording, **modelled_by(profile), options=texts(limits))
        draw = session.timed(partial(draw_comm_sample, limits, work.seed))
        reduce = session.timed(partial(draw_all_reduce_sample, limits, work.seed))
        predict: Measure = partial(roofline.comm_rows, profile, draw)
        session.record(modelled(kind=Kind.COMM), predict)
        predict = partial(roofline.all_reduce_rows, profile, reduce)
        session.record(modelled(kind=Kind.ALL_REDUCE), predict)
        return
    # torch takes seconds to load, and a roofline does not need it
    from shardwright_benchmark_worker.measure import comm as measure

    times = trust.repetitions(warmup, repetitions)
    with measure.join(
        work.device, times, timeout_s, trust.max_drift_percent, patience_s=work.store_retry_s
    ) as bench:
        limits = limits.on(bench.job.world_size, devices_per_host or bench.job.local_world_size)
        measured = partial(
            recording,
            source="measured",
            fingerprint=bench.fingerprint(),
            software=software_versions(measured=True),
            options=texts(limits, **vars(times)),
        )
        draw = session.timed(partial(draw_comm_sample, limits, work.seed))
        reduce = session.timed(partial(draw_all_reduce_sample, limits, work.seed))
        scatter = session.timed(partial(draw_reduce_scatter_sample, limits, work.seed))
        for kind, rows in (
            (Kind.COMM, partial(bench.rows, draw)),
            (Kind.ALL_REDUCE, partial(bench.all_reduce_rows, reduce)),
            (Kind.REDUCE_SCATTER, partial(bench.reduce_scatter_rows, scatter)),
        ):
            recorded = measured(kind=kind)
            job = bench.job
            todo = job.agree(session.missing(recorded) if job.rank == 0 else [])
            if job.rank == 0:
                session.record_parts(recorded, todo, rows, bench.summary, job.meet)
            else:
                for indices in todo:
                    deque(rows(indices), maxlen=0)
                    job.meet()
