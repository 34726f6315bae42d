"""Options that several commands share, one by one and in groups (`cli.grouping`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import typer

from shardwright_benchmark_worker.logs import LogFormat
from shardwright_benchmark_worker.measure import noise

Device = Annotated[
    str, typer.Option(help="cpu, cuda, or roofline:PROFILE (an analytic model, not a measurement).")
]
Hardware = Annotated[
    str | None,
    typer.Option(help="Name of the hardware profile; needed for cpu and cuda.", show_default=False),
]
Out = Annotated[str, typer.Option(help="Root of the dataset: a directory or fsspec URL.")]
Samples = Annotated[
    int, typer.Option(help="How many samples to measure, the whole fleet together.")
]
Seed = Annotated[int, typer.Option(help="Seed of the sequence of samples.")]
Start = Annotated[int, typer.Option(help="Index of the first sample in that sequence.")]
PartSize = Annotated[
    int | None,
    typer.Option(
        help="Most rows in one Parquet part: what a worker loses when it is stopped. "
        "Default: 200, for a roofline 2000.",
        show_default=False,
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Measure parts again that are already there.")
]
WorkerIndex = Annotated[
    int | None,
    typer.Option(
        help="Which worker of a fleet this is, from 0: it takes every --num-workers-th part. "
        "Default: $JOB_COMPLETION_INDEX; under torchrun, none.",
        show_default=False,
    ),
]
NumWorkers = Annotated[
    int | None,
    typer.Option(
        help="How many workers share --samples. Default: $JOB_COMPLETIONS; under torchrun, 1.",
        show_default=False,
    ),
]
StoreRetry = Annotated[
    float,
    typer.Option(help="How long a store that cannot be reached is tried again, with pauses."),
]
LogFormatOption = Annotated[
    LogFormat | None,
    typer.Option(
        help="Default: console on a terminal, where a bar shows progress, json elsewhere.",
        envvar="SHARDWRIGHT_LOG_FORMAT",
        show_default=False,
    ),
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        help="Port of a Prometheus endpoint; 0 picks a free one. Default: none. "
        "Under torchrun, rank 0 serves it.",
        show_default=False,
    ),
]
MinBatch = Annotated[int, typer.Option(help="Smallest global batch drawn.")]
MaxBatch = Annotated[int, typer.Option(help="Largest global batch drawn.")]
Repetitions = Annotated[
    int, typer.Option(help="Timed runs that each sample gets at least (cpu, cuda).")
]
MaxRepetitions = Annotated[
    int, typer.Option(help="Timed runs of each sample at most, when its times are noisy.")
]
TargetCi = Annotated[
    float,
    typer.Option(
        "--target-ci-percent",
        help="Runs end when the 95 % confidence interval of the median is this narrow, "
        "half its width in percent of the median.",
    ),
]
MaxSampleSeconds = Annotated[
    float, typer.Option(help="After so long a sample gets no more than --repetitions.")
]
MaxDrift = Annotated[
    float,
    typer.Option(
        "--max-drift-percent",
        help="A row is measured again, then flagged, when a reference kernel is slower or faster "
        "than at the start by more than this: the device is throttled or shared.",
    ),
]
HeldOut = Annotated[
    bool,
    typer.Option(
        "--held-out",
        help="Draw what training data never has, to judge cost models: other tables of the pool, "
        "world sizes 6, 12, 24, 48 and 96 (rooflines).",
    ),
]
Warmup = Annotated[int, typer.Option(help="Untimed runs before them (cpu, cuda).")]


@dataclass(frozen=True, kw_only=True)
class Work:
    """Which samples are measured, by whom, and where they are recorded."""

    panel: ClassVar[str] = "Work"

    device: Device
    out: Out
    samples: Samples
    seed: Seed = 0
    hardware: Hardware = None
    start_index: Start = 0
    part_size: PartSize = None
    overwrite: Overwrite = False
    worker_index: WorkerIndex = None
    num_workers: NumWorkers = None
    store_retry_s: StoreRetry = 600.0


@dataclass(frozen=True, kw_only=True)
class Trust:
    """When a measurement is good enough (cpu, cuda)."""

    panel: ClassVar[str] = "Trust"

    max_repetitions: MaxRepetitions = 100
    target_ci_percent: TargetCi = 2.0
    max_sample_seconds: MaxSampleSeconds = 5.0
    max_drift_percent: MaxDrift = 15.0

    def repetitions(self, warmup: int, minimum: int) -> noise.Repetitions:
        """How often each sample is timed.

        Raises:
            OptionError: When one of the counts is out of range.
        """
        return noise.Repetitions(
            warmup, minimum, self.max_repetitions, self.target_ci_percent, self.max_sample_seconds
        )


@dataclass(frozen=True, kw_only=True)
class Watching:
    """How the work can be watched."""

    panel: ClassVar[str] = "Watching"

    log_format: LogFormatOption = None
    metrics_port: MetricsPort = None
