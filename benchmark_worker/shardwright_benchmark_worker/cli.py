"""The command line `shardwright-worker`."""

from __future__ import annotations

import sys
from collections import deque
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from shardwright.domain import Optimizer, WeightDtype
from shardwright_benchmark_worker.errors import OptionError, WorkerError
from shardwright_benchmark_worker.pool import POOL_PATH, read_pool
from shardwright_benchmark_worker.progress import configure_logging, logger, progress
from shardwright_benchmark_worker.recorder import Measure, Recording, record_part
from shardwright_benchmark_worker.roofline import GpuProfile, get_profile
from shardwright_benchmark_worker.roofline import source as roofline
from shardwright_benchmark_worker.sampling import (
    CommLimits,
    ComputeLimits,
    draw_all_reduce_sample,
    draw_comm_sample,
    draw_compute_sample,
)
from shardwright_benchmark_worker.software import software_versions
from shardwright_costmodel.dataset import Kind
from shardwright_costmodel.errors import CostModelError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Measures fused embedding operators and collectives into a dataset.",
)

_ROOFLINE = "roofline:"
_MAX_DEVICE_BYTES = {"cpu": 64 * 2**20, "cuda": 4 * 2**30}

DeviceOption = Annotated[
    str, typer.Option(help="cpu, cuda, or roofline:PROFILE (an analytic model, not a measurement).")
]
HardwareOption = Annotated[
    str | None,
    typer.Option(help="Name of the hardware profile; needed for cpu and cuda.", show_default=False),
]
OutOption = Annotated[str, typer.Option(help="Root of the dataset: a directory or fsspec URL.")]
SamplesOption = Annotated[int, typer.Option(help="How many samples to measure.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the sequence of samples.")]
StartOption = Annotated[int, typer.Option(help="Index of the first sample in that sequence.")]
PartSizeOption = Annotated[int, typer.Option(help="Most rows in one Parquet part.")]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Measure parts again that are already there.")
]
MinBatchOption = Annotated[int, typer.Option(help="Smallest global batch drawn.")]
MaxBatchOption = Annotated[int, typer.Option(help="Largest global batch drawn.")]
RepetitionsOption = Annotated[int, typer.Option(help="Timed runs of each sample (cpu, cuda).")]
HeldOutOption = Annotated[
    bool,
    typer.Option(
        "--held-out",
        help="Draw what training data never has, to judge cost models: other tables of the pool, "
        "world sizes 6, 12, 24, 48 and 96 (rooflines).",
    ),
]
WarmupOption = Annotated[int, typer.Option(help="Untimed runs before them (cpu, cuda).")]


@app.command()
def compute(
    device: DeviceOption,
    out: OutOption,
    samples: SamplesOption,
    seed: SeedOption = 0,
    hardware: HardwareOption = None,
    start_index: StartOption = 0,
    part_size: PartSizeOption = 2000,
    overwrite: OverwriteOption = False,
    max_shards: Annotated[int, typer.Option(help="Most tables in one operator.")] = 40,
    min_batch_size: MinBatchOption = 512,
    max_batch_size: MaxBatchOption = 262_144,
    max_dim: Annotated[int, typer.Option(help="Widest table piece drawn.")] = 1024,
    max_memory_bytes: Annotated[
        int | None,
        typer.Option(
            help="Most weights and optimizer state in one operator. Default: half of the "
            "device's free memory, on cpu at most 1 GiB; unlimited for a roofline.",
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
    warmup: WarmupOption = 3,
    repetitions: RepetitionsOption = 11,
    held_out: HeldOutOption = False,
) -> None:
    """Measures fused embedding bags: forward, and backward with the optimizer."""
    profile, hardware = _parse_device(device, hardware)
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
    recording = partial(
        Recording,
        out_url=out,
        kind=Kind.COMPUTE,
        hardware=hardware,
        seed=seed,
        start_index=start_index,
        num_samples=samples,
        part_size=part_size,
    )
    tables = read_pool(pool).part(held_out)
    origin = {"pool": pool.name, "held_out": held_out}
    if profile is not None:
        draw = partial(draw_compute_sample, tables, limits, seed)
        modelled = recording(**_modelled(profile), options=_texts(limits, **origin))
        _record(modelled, partial(roofline.compute_rows, profile, draw), overwrite)
        return
    # torch and fbgemm take seconds to load, and a roofline does not need them
    from shardwright_benchmark_worker.measure import compute as measure

    bench = measure.ComputeBench(device, warmup=warmup, repetitions=repetitions)
    limits = bench.restrict(
        limits, chosen_optimizers=optimizer is not None, chosen_dtypes=weight_dtype is not None
    )
    draw = partial(draw_compute_sample, tables, limits, seed)
    options = _texts(limits, **origin, warmup=warmup, repetitions=repetitions)
    measured = recording(
        source="measured",
        fingerprint=bench.fingerprint(),
        software=software_versions(measured=True),
        options=options,
    )
    _record(measured, partial(bench.rows, draw), overwrite)


@app.command()
def comm(
    device: DeviceOption,
    out: OutOption,
    samples: SamplesOption,
    seed: SeedOption = 0,
    hardware: HardwareOption = None,
    start_index: StartOption = 0,
    part_size: PartSizeOption = 2000,
    overwrite: OverwriteOption = False,
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
    min_batch_size: MinBatchOption = 512,
    max_batch_size: MaxBatchOption = 262_144,
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
    warmup: WarmupOption = 2,
    repetitions: RepetitionsOption = 9,
    held_out: HeldOutOption = False,
    timeout_s: Annotated[
        float, typer.Option(help="A collective that takes longer has lost a rank.")
    ] = 60.0,
) -> None:
    """Measures all-to-alls, and as many all-reduces; under torchrun but for rooflines."""
    profile, hardware = _parse_device(device, hardware)
    limits = CommLimits(
        max_world_size=max_world_size,
        min_batch_size=min_batch_size,
        max_batch_size=max_batch_size,
        max_device_dim=max_device_dim,
        max_skew_ms=max_skew_ms,
        max_device_bytes=max_device_bytes or _MAX_DEVICE_BYTES.get(device),
        held_out=held_out,
    )
    recording = partial(
        Recording,
        out_url=out,
        hardware=hardware,
        seed=seed,
        start_index=start_index,
        num_samples=samples,
        part_size=part_size,
    )
    if profile is not None:
        limits = limits.on(None, devices_per_host)
        modelled = partial(recording, **_modelled(profile), options=_texts(limits))
        draw = partial(draw_comm_sample, limits, seed)
        reduce = partial(draw_all_reduce_sample, limits, seed)
        _record(modelled(kind=Kind.COMM), partial(roofline.comm_rows, profile, draw), overwrite)
        _record(
            modelled(kind=Kind.ALL_REDUCE),
            partial(roofline.all_reduce_rows, profile, reduce),
            overwrite,
        )
        return
    # torch takes seconds to load, and a roofline does not need it
    from shardwright_benchmark_worker.measure import comm as measure

    with measure.join(device, warmup, repetitions, timeout_s) as bench:
        limits = limits.on(bench.world_size, devices_per_host or bench.local_world_size)
        measured = partial(
            recording,
            source="measured",
            fingerprint=bench.fingerprint(),
            software=software_versions(measured=True),
            options=_texts(limits, warmup=warmup, repetitions=repetitions),
        )
        draw = partial(draw_comm_sample, limits, seed)
        reduce = partial(draw_all_reduce_sample, limits, seed)
        for kind, rows in (
            (Kind.COMM, partial(bench.rows, draw)),
            (Kind.ALL_REDUCE, partial(bench.all_reduce_rows, reduce)),
        ):
            recorded = measured(kind=kind)
            todo = bench.agree(_missing(recorded, overwrite) if bench.rank == 0 else [])
            if bench.rank == 0:
                _record_parts(recorded, todo, rows)
            else:
                for indices in todo:
                    deque(rows(indices), maxlen=0)


def _parse_device(device: str, hardware: str | None) -> tuple[GpuProfile | None, str]:
    """The profile of a roofline (None for a real device) and the name of the hardware."""
    if device.startswith(_ROOFLINE):
        profile = get_profile(device.removeprefix(_ROOFLINE))
        return profile, hardware or profile.hardware
    if device not in ("cpu", "cuda"):
        raise OptionError(f"--device must be cpu, cuda or roofline:PROFILE, got {device!r}")
    if hardware is None:
        raise OptionError(
            f"--device {device} needs --hardware NAME, the profile that the numbers belong to"
        )
    return None, hardware


def _modelled(profile: GpuProfile) -> dict[str, Any]:
    return {
        "source": "modelled",
        "fingerprint": roofline.fingerprint(profile),
        "software": software_versions(measured=False),
    }


def _texts(limits: ComputeLimits | CommLimits, **more: object) -> dict[str, str]:
    """Options as text: they stand in the metadata, and their digest in the name of a part."""
    return {name: _text(value) for name, value in {**vars(limits), **more}.items()}


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(item.value for item in value)
    return str(value)


def _missing(recording: Recording, overwrite: bool) -> list[range]:
    return recording.parts() if overwrite else recording.missing_parts()


def _record(recording: Recording, measure: Measure, overwrite: bool) -> None:
    _record_parts(recording, _missing(recording, overwrite), measure)


def _record_parts(recording: Recording, todo: list[range], measure: Measure) -> None:
    skipped = len(recording.parts()) - len(todo)
    if skipped:
        logger.info("%d parts are already there; --overwrite measures them again", skipped)
    with progress(recording.kind.value, sum(map(len, todo))) as advance:
        for i, indices in enumerate(todo, start=1):
            url = record_part(recording, indices, measure, advance)
            logger.info("part %d of %d: %d samples in %s", i, len(todo), len(indices), url)


def main(argv: list[str] | None = None) -> None:
    """Runs the command line; a user's mistake is one line on stderr and exit code 2."""
    configure_logging()
    try:
        app(argv, standalone_mode=True)
    except (WorkerError, CostModelError) as error:
        _exit(str(error))
    except OSError as error:
        _exit(f"cannot read or write: {error}")


def _exit(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
