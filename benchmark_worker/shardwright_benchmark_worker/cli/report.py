"""`shardwright-worker report`."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated

import fsspec
import typer

from shardwright_benchmark_worker.errors import OptionError
from shardwright_benchmark_worker.progress import logger, progress


def report(
    data: Annotated[str, typer.Option(help="Root of the dataset: a directory or fsspec URL.")],
    out: Annotated[str, typer.Option(help="HTML file to write: a path or fsspec URL.")],
) -> None:
    """Writes an HTML report of a dataset: coverage, noise, outliers, provenance."""
    try:
        # matplotlib is an extra of its own, and takes a second to load
        from shardwright_benchmark_worker.report.document import page
    except ModuleNotFoundError as error:
        raise OptionError(
            f"reports need {error.name}: pip install 'shardwright-benchmark-worker[report]'"
        ) from error
    from shardwright_benchmark_worker.report.survey import part_urls, survey

    urls = part_urls(data)
    with progress("reading parts", 2 * sum(map(len, urls.values()))) as advance:
        found = survey(data, urls, advance)
    for part, fault in found.broken.items():
        logger.warning("%s cannot be read and is left out: %s", part, fault)
    package = "shardwright-benchmark-worker"
    html = page(found, datetime.now(UTC), f"{package} {version(package)}").html()
    with fsspec.open(out, "w", encoding="utf-8") as file:
        file.write(html)
    logger.info("%d parts in %s", len(found.provenance.parts), out)
