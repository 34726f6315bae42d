"""Ranges of sample indices: what is covered, and what is not."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence


def merge(spans: Iterable[range]) -> list[range]:
    """The same indices in as few ranges as possible, in order."""
    merged: list[range] = []
    for span in sorted(spans, key=lambda span: span.start):
        if merged and span.start <= merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(merged[-1].stop, span.stop))
        else:
            merged.append(span)
    return merged


def gaps(span: range, covered: Sequence[range]) -> Iterator[range]:
    """What `covered`, which is merged, leaves of a range."""
    start = span.start
    for part in covered[_first(span, covered) :]:
        if part.start >= span.stop:
            break
        if part.start > start:
            yield range(start, part.start)
        start = max(start, part.stop)
    if start < span.stop:
        yield range(start, span.stop)


def num_covered(span: range, covered: Sequence[range]) -> int:
    """How many indices of a range are in `covered`, which is merged."""
    return len(span) - sum(map(len, gaps(span, covered)))


def _first(span: range, covered: Sequence[range]) -> int:
    """Where to begin in `covered`: at the last range that starts at or before the span."""
    return max(0, bisect_right(covered, span.start, key=lambda part: part.start) - 1)
