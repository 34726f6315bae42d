"""Which parts of a dataset one worker of a fleet measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from shardwright_benchmark_worker.errors import OptionError

INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
"""Kubernetes sets it in every pod of an Indexed Job."""
COUNT_VARIABLE = "JOB_COMPLETIONS"
"""Kubernetes does not tell a pod its Job's `completions`; the manifest sets this."""

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """Every `num_workers`-th part, from the one at `worker_index` on.

    Parts have the same names whoever measures them, so a fleet may be restarted with more or fewer
    workers, and two workers of one index do the same work twice but no harm.

    Attributes:
        worker_index: Which worker, from 0.
        num_workers: Of how many.
    """

    worker_index: int = 0
    num_workers: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.num_workers <= 1_000_000:
            raise OptionError(f"--num-workers must be in 1 .. 1000000, got {self.num_workers}")
        if not 0 <= self.worker_index < self.num_workers:
            raise OptionError(
                f"--worker-index must be in 0 .. {self.num_workers - 1}, as --num-workers is "
                f"{self.num_workers}, got {self.worker_index}"
            )

    @classmethod
    def of(
        cls, worker_index: int | None, num_workers: int | None, environ: Mapping[str, str]
    ) -> Share:
        """The share that options name, else that of this pod in an Indexed Job, else everything.

        Raises:
            OptionError: When only one of the two numbers is known, or one makes no sense.
        """
        if worker_index is None:
            worker_index = _number(environ, INDEX_VARIABLE)
        if num_workers is None:
            num_workers = _number(environ, COUNT_VARIABLE)
        if worker_index is None and num_workers is None:
            return cls()
        if worker_index is None or num_workers is None:
            raise OptionError(
                f"--worker-index ({_shown(worker_index)}) and --num-workers "
                f"({_shown(num_workers)}) belong together: give both, or set {INDEX_VARIABLE} and "
                f"{COUNT_VARIABLE}"
            )
        return cls(worker_index, num_workers)

    def take(self, parts: Sequence[T]) -> list[T]:
        """This worker's of all parts, which must be in the same order for all workers."""
        return list(parts[self.worker_index :: self.num_workers])


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise OptionError(f"the variable {name} must be a number, got {text!r}") from None


def _shown(value: int | None) -> str:
    return "not given" if value is None else str(value)
