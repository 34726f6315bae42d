"""`shardwright-worker compute`."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from shardwright.domain import Optimizer, WeightDtype
from shardwright_benchmark_worker.cli import options as option
from shardwright_benchmark_worker.cli.grouping import grouped
from shardwright_benchmark_worker.cli.recording import (
    modelled_by,
    open_session,
    parse_device,
    samples_of,
    texts,
)
from shardwright_benchmark_worker.errors import OptionError
from shardwright_benchmark_worker.measure.placement import Placement
from shardwright_benchmark_worker.pool import POOL_PATH, read_pool
from shardwright_benchmark_worker.recorder import Recording
from shardwright_benchmark_worker.roofline import source as roofline
from shardwright_benchmark_worker.sampling import ComputeLimits, draw_compute_sample
from shardwright_benchmark_worker.software import software_versions
from shardwright_costmodel.dataset import Kind


@grouped
def compute(
    work: option.Work,
    trust: option.Trust,
    watching: option.Watching,
    max_shards: Annotated[int, typer.Option(help="Most tables in one operator.")] = 40,
    min_batch_size: option.MinBatch = 512,
    max_batch_size: option.MaxBatch = 262_144,
    max_dim: Annotated[int, typer.Option(help="Widest table piece drawn.")] = 1024,
    max_memory_bytes: Annotated[
        int | None,
        typer.Option(
            help="Most weights and optimizer state in one operator. Default: half of the "
            "device's free memory, on cpu at most 1 GiB; unlimited for a roofline. "
            "A fleet needs it: its workers must draw the same samples.",
            show_default=False,
        ),
    ] = None,
    max_lookups: Annotated[
        int | None,
        typer.Option(
            help="Most lookups in one operator. Default: 2 million on cpu, else unlimited.",
            show_default=False,
        ),
    ] = None,
    optimizer: Annotated[
        list[Optimizer] | None, typer.Option(help="Only these; repeatable.", show_default=False)
    ] = None,
    weight_dtype: Annotated[
        list[WeightDtype] | None, typer.Option(help="Only these; repeatable.", show_default=False)
    ] = None,
    pool: Annotated[
        Path, typer.Option(help="Table pool to draw from.", show_default=False)
    ] = POOL_PATH,
    placement: Annotated[
        Placement,
        typer.Option(help="Where weights live; managed: host memory that a GPU reads (UVM)."),
    ] = Placement.DEVICE,
    warmup: option.Warmup = 3,
    repetitions: option.Repetitions = 11,
    held_out: option.HeldOut = False,
) -> None:
    """Measures fused embedding bags: forward, and backward with the optimizer."""
    session = open_session(work, watching)
    profile, hardware = parse_device(work.device, work.hardware)
    limits = ComputeLimits(
        max_shards=max_shards,
        min_batch_size=min_batch_size,
        max_batch_size=max_batch_size,
        max_dim=max_dim,
        max_memory_bytes=max_memory_bytes,
        max_lookups=max_lookups,
        optimizers=tuple(optimizer or Optimizer),
        weight_dtypes=tuple(weight_dtype or WeightDtype),
    )
    recording = partial(Recording, kind=Kind.COMPUTE, **samples_of(work, hardware))
    tables = read_pool(pool).part(held_out)
    origin = {"pool": f"{pool.name}@{_digest(pool)}", "held_out": held_out}
    if profile is not None:
        draw = session.timed(partial(draw_compute_sample, tables, limits, work.seed))
        modelled = recording(**modelled_by(profile), options=texts(limits, **origin))
        session.record(modelled, partial(roofline.compute_rows, profile, draw))
        return
    if max_memory_bytes is None and recording.keywords["share"].num_workers > 1:
        raise OptionError(
            "a fleet needs --max-memory-bytes: its default depends on the free memory of each "
            "machine, and workers with other limits would draw other samples"
        )
    # torch and fbgemm take seconds to load, and a roofline does not need them
    from shardwright_benchmark_worker.measure import compute as measure

    times = trust.repetitions(warmup, repetitions)
    bench = measure.ComputeBench(work.device, times, placement, trust.max_drift_percent)
    limits = bench.restrict(
        limits, chosen_optimizers=optimizer is not None, chosen_dtypes=weight_dtype is not None
    )
    draw = session.timed(partial(draw_compute_sample, tables, limits, work.seed))
    measured = recording(
        source="measured",
        fingerprint=bench.fingerprint(),
        software=software_versions(measured=True),
        options=texts(limits, **origin, **vars(times), placement=placement.value),
    )
    session.record(measured, partial(bench.rows, draw), bench.summary)


def _digest(pool: Path) -> str:
    """Of its content: pools of one name are not one pool."""
    return hashlib.sha256(pool.read_bytes()).hexdigest()[:8]
