"""`python -m shardwright_benchmark_worker.launch`: torchrun for the worker, with its exit status.

torchrun ends with 1 whatever its ranks end with, and starts them again whatever the reason. Whoever
runs the job, such as Kubernetes, could not tell a mistake from what may pass. And ranks that it has
started again may not find each other (`FRESH_STORE`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from torch.distributed import run as torchrun
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher import api as launcher

from shardwright_benchmark_worker.errors import LostRankError, OptionError

MISTAKE = OptionError.exit_status
MAY_PASS = LostRankError.exit_status

FRESH_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""Variable of torch: 1 gives ranks a new store at every start. Otherwise they may read addresses of
those before them, which are gone (pytorch issues 135712 and 167288, seen with torch 2.13)."""


class Agent(LocalElasticAgent):
    """Watches the ranks of this host; after a mistake of one it does not start them again."""

    def _monitor_workers(self, worker_group: Any) -> Any:
        result = super()._monitor_workers(worker_group)
        if exit_status(result.failures) == MISTAKE:
            raise ChildFailedError("comm", result.failures)
        return result


def exit_status(failures: Mapping[int, ProcessFailure]) -> int:
    """Of a job whose ranks failed so: a mistake of one outweighs the ranks that it took along.

    Returns:
        2 when a rank ended with 2; otherwise 1.
    """
    mistaken = any(failure.exitcode == MISTAKE for failure in failures.values())
    return MISTAKE if mistaken else MAY_PASS


def main(argv: list[str] | None = None) -> None:
    """Runs `shardwright-worker COMMAND ...` on every rank.

    The command line is that of torchrun, with a command of the worker in place of a script. Exit
    status: 0 done; 2 a mistake, of torchrun's options too, and nothing is started again for it; 1
    what may pass, after `--max-restarts`; 128 + its number when a signal ended it.

    Args:
        argv: Without the program's name; None: of this process.
    """
    arguments = torchrun.get_args_parser().parse_args(argv)
    arguments.training_script_args.insert(0, arguments.training_script)
    arguments.training_script, arguments.module = "shardwright_benchmark_worker", True
    os.environ.setdefault(FRESH_STORE, "1")
    # torch offers no other way to choose the agent
    launcher.LocalElasticAgent = Agent  # type: ignore[attr-defined]
    try:
        torchrun.run(arguments)  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        _exit(_what_happened(error.failures), exit_status(error.failures))
    except SignalException as stopped:
        sys.exit(128 + stopped.sigval)
    except RendezvousError as error:
        _exit(f"the hosts of the job do not find each other: {error}", MAY_PASS)
    except ValueError as error:
        _exit(f"an option of torchrun: {error}", MISTAKE)


def _what_happened(failures: Mapping[int, ProcessFailure]) -> str:
    """Each rank that failed here, in words; torch stops the others by SIGTERM."""
    ends = (f"rank {rank} {_end(failure)}" for rank, failure in sorted(failures.items()))
    return f"{', '.join(ends)}; the ranks' own lines say why"


def _end(failure: ProcessFailure) -> str:
    if failure.exitcode < 0:
        return f"was killed by {failure.signal_name()}"
    return f"ended with {failure.exitcode}"


def _exit(message: str, status: int) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
