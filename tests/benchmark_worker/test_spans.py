from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shardwright_benchmark_worker.spans import gaps, merge, num_covered

spans = st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda p: range(p[0], p[0] + p[1]))


@given(st.lists(spans, max_size=8))
def test_merged_spans_hold_the_same_indices_without_overlap(some: list[range]) -> None:
    merged = merge(some)
    assert [i for span in merged for i in span] == sorted({i for span in some for i in span})
    assert all(a.stop < b.start for a, b in zip(merged, merged[1:], strict=False))


@given(spans, st.lists(spans, max_size=8))
def test_gaps_are_what_is_not_covered(span: range, some: list[range]) -> None:
    covered = merge(some)
    left = list(gaps(span, covered))
    indices = {i for part in some for i in part}
    assert [i for gap in left for i in gap] == [i for i in span if i not in indices]
    assert left == merge(left), "each gap is as long as it can be"
    assert num_covered(span, covered) == len(indices & set(span))
