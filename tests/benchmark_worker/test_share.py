from __future__ import annotations

import pytest

from shardwright_benchmark_worker.errors import OptionError
from shardwright_benchmark_worker.share import Share

POD = {"JOB_COMPLETION_INDEX": "3", "JOB_COMPLETIONS": "8"}


def test_the_workers_of_a_fleet_take_every_part_once() -> None:
    parts = [range(i, i + 1) for i in range(10)]
    taken = [Share(index, 4).take(parts) for index in range(4)]
    assert sorted(sum(taken, []), key=lambda part: part.start) == parts
    assert {len(own) for own in taken} == {2, 3}


def test_a_worker_alone_takes_everything() -> None:
    assert Share.of(None, None, {}) == Share(0, 1)


def test_the_pod_of_an_indexed_job_knows_its_share() -> None:
    assert Share.of(None, None, POD) == Share(3, 8)


def test_options_win_over_the_pod() -> None:
    assert Share.of(1, 2, POD) == Share(1, 2)
    assert Share.of(0, None, POD) == Share(0, 8)


@pytest.mark.parametrize(
    ("worker_index", "num_workers", "environ", "complaint"),
    [
        (2, None, {}, r"--worker-index \(2\) and --num-workers \(not given\) belong together"),
        (None, 2, {}, "belong together"),
        (None, None, {"JOB_COMPLETION_INDEX": "3"}, "set JOB_COMPLETION_INDEX and JOB_COMPLETIONS"),
        (None, None, {**POD, "JOB_COMPLETIONS": "3"}, "--worker-index must be in 0 .. 2.*got 3"),
        (None, None, {**POD, "JOB_COMPLETIONS": "many"}, "JOB_COMPLETIONS must be a number"),
        (-1, 2, {}, "--worker-index must be in 0 .. 1"),
        (0, 0, {}, "--num-workers must be in 1 .. 1000000, got 0"),
    ],
)
def test_senseless_shares_are_refused(
    worker_index: int | None, num_workers: int | None, environ: dict[str, str], complaint: str
) -> None:
    with pytest.raises(OptionError, match=complaint):
        Share.of(worker_index, num_workers, environ)
