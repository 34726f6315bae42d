"""The commands together, and how their errors reach the user."""

from __future__ import annotations

import sys

import typer

from shardwright_benchmark_worker.cli.comm import comm
from shardwright_benchmark_worker.cli.compute import compute
from shardwright_benchmark_worker.errors import WorkerError
from shardwright_benchmark_worker.progress import configure_logging
from shardwright_costmodel.errors import CostModelError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Measures fused embedding operators and collectives into a dataset.",
)
app.command()(compute)
app.command()(comm)


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
