"""Where the parts of a dataset come from: groups that agree, and workers with what they did."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from shardwright_costmodel.dataset import Kind, PartMetadata

_WORKER_KEYS = ("worker", "host", "device")
"""What tells workers apart, the first that a fingerprint has."""
_OF_ONE_RUN = frozenset({"reference_ms", "clock_mhz", "memory_clock_mhz", "throttle_reasons"})
"""Facts of a moment, which differ between two runs of the same hardware."""


@dataclass(frozen=True)
class PartRecord:
    """A part that was read.

    Attributes:
        name: Without folder and ending.
        kind: What it holds.
        rows: How many.
        origin: Index of its `Origin`.
        seed: Of its samples; empty when it does not say.
        first: Index of its first sample; None when it does not say.
        last: Index of its last sample.
        worker: Who measured it.
        reference_ms: What the reference kernel took when measuring began; None when it does not
            say.
    """

    name: str
    kind: Kind
    rows: int
    origin: int
    seed: str
    first: int | None
    last: int | None
    worker: str
    reference_ms: float | None = None


@dataclass(frozen=True)
class Origin:
    """What several parts have in common.

    Attributes:
        facts: `hardware`, `source`, `fingerprint: <name>` and `software: <name>`, to its value.
    """

    facts: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, metadata: PartMetadata) -> Origin:
        """Reads the metadata of a part; facts of a moment are left out."""
        lasting = {k: v for k, v in metadata.fingerprint.items() if k not in _OF_ONE_RUN}
        return cls(
            (
                ("hardware", str(metadata.hardware)),
                ("source", str(metadata.source)),
                *_sorted("fingerprint", lasting),
                *_sorted("software", metadata.software),
            )
        )


def _sorted(prefix: str, facts: dict[str, str]) -> list[tuple[str, str]]:
    return [(f"{prefix}: {name}", str(value)) for name, value in sorted(facts.items())]


@dataclass
class Provenance:
    """Collects the parts of a dataset.

    Attributes:
        origins: Distinct origins, in the order found.
        parts: Every part.
    """

    origins: list[Origin] = field(default_factory=list)
    parts: list[PartRecord] = field(default_factory=list)

    def add(self, name: str, kind: Kind, rows: int, metadata: PartMetadata) -> None:
        """Takes note of a part."""
        origin = Origin.of(metadata)
        if origin not in self.origins:
            self.origins.append(origin)
        sampling = metadata.sampling
        first, last = (_whole(sampling.get(key)) for key in ("first_index", "last_index"))
        found = [metadata.fingerprint[key] for key in _WORKER_KEYS if key in metadata.fingerprint]
        self.parts.append(
            PartRecord(
                name=name,
                kind=kind,
                rows=rows,
                origin=self.origins.index(origin),
                seed=str(sampling.get("seed", "")),
                first=first,
                last=last,
                worker=str(found[0]) if found else "not said",
                reference_ms=_number(metadata.fingerprint.get("reference_ms")),
            )
        )

    def values(self, fact: str) -> list[str]:
        """Distinct values of a fact over the origins that state it, in the order found."""
        facts = (dict(origin.facts) for origin in self.origins)
        return list(dict.fromkeys(of[fact] for of in facts if fact in of))

    def shared(self) -> dict[str, str]:
        """Facts on which all origins that state them agree."""
        names = dict.fromkeys(name for origin in self.origins for name, _ in origin.facts)
        found = {name: self.values(name) for name in names}
        return {name: values[0] for name, values in found.items() if len(values) == 1}

    def differing(self) -> list[str]:
        """Names of facts on which origins differ."""
        names = dict.fromkeys(name for origin in self.origins for name, _ in origin.facts)
        return [name for name in names if len(self.values(name)) > 1]

    def progress(self) -> list[WorkerProgress]:
        """What each worker did of each sequence."""
        groups = defaultdict(list)
        for part in self.parts:
            groups[(part.worker, part.kind.value, part.seed)].append(part)
        return [
            WorkerProgress(worker, kind, seed, tuple(parts))
            for (worker, kind, seed), parts in sorted(groups.items())
        ]

    def gaps(self) -> list[tuple[str, str, int, int]]:
        """Kind, seed, first and last index of samples that no part holds though later ones are."""
        sequences = defaultdict(list)
        for part in self.parts:
            if part.first is not None and part.last is not None:
                sequences[(part.kind.value, part.seed)].append((part.first, part.last))
        found = []
        for (kind, seed), ranges in sorted(sequences.items()):
            reached: int | None = None
            for first, last in sorted(ranges):
                if reached is not None and first > reached + 1:
                    found.append((kind, seed, reached + 1, first - 1))
                reached = last if reached is None else max(reached, last)
        return found


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _whole(text: str | None) -> int | None:
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


@dataclass(frozen=True)
class WorkerProgress:
    """Parts of one worker, kind and seed."""

    worker: str
    kind: str
    seed: str
    parts: tuple[PartRecord, ...]

    @property
    def rows(self) -> int:
        """Rows in all parts."""
        return sum(part.rows for part in self.parts)

    @property
    def reference_ms(self) -> str:
        """What the reference kernel took at the start of its runs, from least to most."""
        found = [part.reference_ms for part in self.parts if part.reference_ms is not None]
        if not found:
            return "not said"
        low, high = f"{min(found):.3g}", f"{max(found):.3g}"
        return low if low == high else f"{low} to {high}"

    @property
    def indices(self) -> str:
        """First and last sample."""
        first = [part.first for part in self.parts if part.first is not None]
        last = [part.last for part in self.parts if part.last is not None]
        return f"{min(first):,} to {max(last):,}" if first and last else "not said"
