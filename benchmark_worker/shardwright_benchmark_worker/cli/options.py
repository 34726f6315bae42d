"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Device = Annotated[
    str, typer.Option(help="cpu, cuda, or roofline:PROFILE (an analytic model, not a measurement).")
]
Hardware = Annotated[
    str | None,
    typer.Option(help="Name of the hardware profile; needed for cpu and cuda.", show_default=False),
]
Out = Annotated[str, typer.Option(help="Root of the dataset: a directory or fsspec URL.")]
Samples = Annotated[int, typer.Option(help="How many samples to measure.")]
Seed = Annotated[int, typer.Option(help="Seed of the sequence of samples.")]
Start = Annotated[int, typer.Option(help="Index of the first sample in that sequence.")]
PartSize = Annotated[int, typer.Option(help="Most rows in one Parquet part.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Measure parts again that are already there.")
]
MinBatch = Annotated[int, typer.Option(help="Smallest global batch drawn.")]
MaxBatch = Annotated[int, typer.Option(help="Largest global batch drawn.")]
Repetitions = Annotated[int, typer.Option(help="Timed runs of each sample (cpu, cuda).")]
HeldOut = Annotated[
    bool,
    typer.Option(
        "--held-out",
        help="Draw what training data never has, to judge cost models: other tables of the pool, "
        "world sizes 6, 12, 24, 48 and 96 (rooflines).",
    ),
]
Warmup = Annotated[int, typer.Option(help="Untimed runs before them (cpu, cuda).")]
