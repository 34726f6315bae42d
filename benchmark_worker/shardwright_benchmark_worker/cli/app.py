"""The commands together, and how their errors reach the user."""

from __future__ import annotations

import logging
import os
import sys
import time
from typing import NoReturn

import typer

from shardwright_benchmark_worker import logs
from shardwright_benchmark_worker.cli.comm import comm
from shardwright_benchmark_worker.cli.compute import compute
from shardwright_benchmark_worker.cli.replay import replay
from shardwright_benchmark_worker.cli.report import report
from shardwright_benchmark_worker.cli.status import status
from shardwright_benchmark_worker.errors import LostRankError, WorkerError
from shardwright_benchmark_worker.progress import logger
from shardwright_benchmark_worker.stopping import Stopped, stop_on_signals
from shardwright_benchmark_worker.store import is_passing
from shardwright_costmodel.errors import CostModelError

_CULPRIT_LEAVES_S = 5.0
"""How much later a rank leaves that lost another one: torchrun reports the first to leave, and the
one that broke the connections may still be on its way out."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Measures fused embedding operators and collectives into a dataset; replays plans.",
)
app.command()(compute)
app.command()(comm)
app.command()(replay)
app.command()(report)
app.command()(status)


def main(argv: list[str] | None = None) -> None:
    """Runs the command line.

    An error is one line on stderr. Exit status: 0 done; 2 a mistake, which starting again does not
    mend; 1 a store that is away or full, or a lost rank; 128 + its number when a signal ended it.
    """
    logs.configure()
    stop_on_signals()
    try:
        app(argv, standalone_mode=True)
    except Stopped as stopped:
        logger.info("stopped", extra={"signal": stopped.signal.name})
        raise
    except LostRankError as error:
        _say(str(error))
        time.sleep(_CULPRIT_LEAVES_S)
        sys.exit(error.exit_status)
    except WorkerError as error:
        _exit(str(error), error.exit_status)
    except CostModelError as error:
        _exit(str(error), 2)
    except OSError as error:
        _exit(f"cannot read or write: {error}", 1 if is_passing(error) else 2)


def _exit(message: str, status: int) -> NoReturn:
    _say(message)
    if "RANK" in os.environ:
        # taking apart what torch holds takes seconds, in which this rank's connections are closed
        # already and others, which find it lost, could leave before it with another exit status
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)
    sys.exit(status)


def _say(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
