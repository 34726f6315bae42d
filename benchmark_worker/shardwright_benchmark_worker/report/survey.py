"""Goes over a dataset twice: once to count, once to find the rows that their neighbours belie.

One piece of a part is in memory at a time, so that neither many parts nor a huge one need much.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shardwright_benchmark_worker.report.columns import Collectives, Operators
from shardwright_benchmark_worker.report.neighbours import (
    FAR,
    FAR_FACTOR,
    Neighbourhood,
    Suspect,
    Worst,
    collective_sizes,
    operator_sizes,
)
from shardwright_benchmark_worker.report.provenance import Provenance
from shardwright_benchmark_worker.report.tallies import CollectiveTally, OperatorTally, usable
from shardwright_costmodel.dataset import Kind, Part, list_parts, read_pieces
from shardwright_costmodel.errors import DatasetError

Array = npt.NDArray[Any]
OnPart = Callable[[], None]
Rows = Operators | Collectives


@dataclass
class Survey:
    """What there is to say about a dataset.

    Attributes:
        url: Its root.
        provenance: Where its parts come from.
        broken: Parts that cannot be read, and why.
        operators: Of `compute/`.
        collectives: By kind, of the other folders.
        worst: By kind, rows far from their neighbours.
    """

    url: str
    provenance: Provenance = field(default_factory=Provenance)
    broken: dict[str, str] = field(default_factory=dict)
    operators: OperatorTally = field(default_factory=OperatorTally)
    collectives: dict[Kind, CollectiveTally] = field(
        default_factory=lambda: {kind: CollectiveTally() for kind in Kind if kind != Kind.COMPUTE}
    )
    worst: dict[Kind, Worst] = field(default_factory=lambda: {kind: Worst() for kind in Kind})

    def tallies(self) -> dict[Kind, OperatorTally | CollectiveTally]:
        """What was counted of each kind."""
        return {Kind.COMPUTE: self.operators, **self.collectives}

    def rows(self, kind: Kind) -> int:
        """Rows of a kind in parts that could be read."""
        return self.tallies()[kind].count


def part_urls(root_url: str) -> dict[Kind, list[str]]:
    """The parts of a dataset.

    Raises:
        DatasetError: When there is none, or the root cannot be listed.
    """
    try:
        urls = {kind: list_parts(root_url, kind) for kind in Kind}
    except (ImportError, OSError, ValueError) as error:
        raise DatasetError(f"{root_url}: cannot be listed: {error}") from error
    if not any(urls.values()):
        folders = ", ".join(f"{kind.value}/" for kind in Kind)
        raise DatasetError(
            f"{root_url}: holds no *.parquet part under {folders}; measure some with "
            "'shardwright-worker compute' or 'comm', or give the root of another dataset"
        )
    return urls


def survey(root_url: str, urls: dict[Kind, list[str]], on_part: OnPart = lambda: None) -> Survey:
    """Reads every part twice. A broken part is named in the result, and the others still count.

    Args:
        root_url: Root of the dataset.
        urls: As `part_urls` gives them.
        on_part: Called after each reading, twice a part.
    """
    found = Survey(root_url)
    for kind, url in _all(urls):
        with _naming(url, found.broken):
            _count(found, kind, url)
        on_part()
    neighbourhoods = {kind: tally.neighbourhoods() for kind, tally in found.tallies().items()}
    for kind, url in _all(urls):
        if part_name(url) not in found.broken:
            with _naming(url, found.broken):
                for piece, rows in _pieces(url, kind):
                    _find_suspects(found.worst[kind], piece, rows, neighbourhoods[kind])
        on_part()
    return found


def part_name(url: str) -> str:
    """Folder and name of a part."""
    path = PurePosixPath(url)
    return f"{path.parent.name}/{path.name}"


def _all(urls: dict[Kind, list[str]]) -> Iterator[tuple[Kind, str]]:
    return ((kind, url) for kind, of_kind in urls.items() for url in of_kind)


@contextmanager
def _naming(url: str, broken: dict[str, str]) -> Iterator[None]:
    """Takes note of a part that cannot be read."""
    try:
        yield
    except (DatasetError, pa.ArrowException) as error:
        broken[part_name(url)] = str(error).removeprefix(f"{url}: ")


def _count(found: Survey, kind: Kind, url: str) -> None:
    num_rows = 0
    for piece, rows in _whole(url, kind):
        if isinstance(rows, Operators):
            found.operators.add(part_name(url), rows)
        else:
            found.collectives[kind].add(part_name(url), rows)
        num_rows += piece.table.num_rows
    found.provenance.add(part_name(url), kind, num_rows, piece.metadata)


def _whole(url: str, kind: Kind) -> Iterator[tuple[Part, Rows]]:
    """The pieces of a part, once its last row is known to be sound: a broken part counts nowhere.

    Few parts have more than one piece, and those alone are gone through beforehand.
    """
    pieces = _pieces(url, kind)
    first = next(pieces)
    if next(pieces, None) is None:
        yield first
        return
    deque(pieces, maxlen=0)
    yield from _pieces(url, kind)


def _pieces(url: str, kind: Kind) -> Iterator[tuple[Part, Rows]]:
    return ((piece, _columns(kind, piece)) for piece in read_pieces(url, kind))


def _columns(kind: Kind, piece: Part) -> Rows:
    if kind is Kind.COMPUTE:
        return Operators.of(piece)
    if kind is Kind.COMM:
        return Collectives.of_all_to_all(piece)
    return Collectives.of_reduction(piece)


def _find_suspects(
    worst: Worst,
    piece: Part,
    rows: Rows,
    neighbourhoods: tuple[Neighbourhood | None, ...],
) -> None:
    good = np.flatnonzero(usable(rows))
    sizes = operator_sizes(rows) if isinstance(rows, Operators) else collective_sizes(rows)
    quantities = ("forward", "backward") if rows.times_ms.shape[1] > 1 else ("time",)
    for i, (quantity, neighbourhood) in enumerate(zip(quantities, neighbourhoods, strict=False)):
        if neighbourhood is None or not len(good):
            continue
        times_ms = rows.times_ms[good, i]
        expected_ms, deviation = neighbourhood.expected_ms(sizes[good])
        factor = np.abs(np.log(times_ms / expected_ms))
        distance = np.where(factor >= np.log(FAR_FACTOR), factor / deviation, 0.0)
        candidates = np.argsort(-distance)[:20]
        suspects = [
            Suspect(
                deviations=float(distance[j]),
                part=part_name(piece.url),
                row=piece.first_row + int(good[j]),
                quantity=quantity,
                time_ms=float(times_ms[j]),
                expected_ms=float(expected_ms[j]),
                what=_in_words(rows, int(good[j])),
            )
            for j in candidates
            if distance[j] >= FAR
        ]
        worst.add(suspects, int((distance >= FAR).sum()), expected_ms, times_ms)


def _in_words(rows: Rows, i: int) -> str:
    if isinstance(rows, Operators):
        return (
            f"{rows.num_tables[i]:.0f} tables, batch {rows.batch[i]:,.0f}, "
            f"{rows.lookups[i]:,.0f} lookups, {_mib(rows.gathered_bytes[i])} gathered, "
            f"{rows.optimizer[i]}, {rows.placement[i]}"
        )
    hosts = rows.world[i] / rows.per_host[i]
    return (
        f"{rows.world[i]:.0f} devices on {hosts:.0f} hosts, "
        f"{_mib(rows.busiest_bytes[i])} on the busiest"
    )


def _mib(num_bytes: Any) -> str:
    return f"{num_bytes / 2**20:,.3g} MiB" if num_bytes < 2**30 else f"{num_bytes / 2**30:.3g} GiB"
