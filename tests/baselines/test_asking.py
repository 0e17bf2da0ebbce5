"""Which view answers which query, on examples that can be counted on fingers."""

import pytest
import torch

from possm.baselines.asking import query_spans, views_and_queries
from possm.batch import Queries

C = 6


def queries(*chunks):
    return Queries(torch.tensor(chunks, dtype=torch.int64), torch.arange(len(chunks)) / 100)


@pytest.mark.parametrize(
    ("stride", "phase", "ends"),
    [
        (1, 0, [0, 1, 2, 3, 4, 5]),
        (2, 0, [1, 1, 3, 3, 5, 5]),
        (4, 0, [1, 1, 5, 5, 5, 5]),
        (4, 1, [0, 4, 4, 4, 4, 5]),
        (4, 3, [2, 2, 2, 5, 5, 5]),
        (9, 0, [5, 5, 5, 5, 5, 5]),
        (9, 8, [5, 5, 5, 5, 5, 5]),
    ],
)
def test_a_view_answers_for_its_stride(stride, phase, ends):
    """Of two sequences, the second like the first."""
    asked = queries(*range(2 * C))
    views, by_name = views_and_queries({"a": asked}, num_chunks=C, chunk_s=0.05, stride=stride, phase=phase)
    both = [*ends, *(C + end for end in ends)]
    assert views.tolist() == sorted(set(both))
    late_s = torch.tensor([(end - chunk) * 0.05 for chunk, end in enumerate(both)])
    torch.testing.assert_close(by_name["a"].time_s[by_name["a"].place], (asked.time_s - late_s).double())
    assert by_name["a"].sequence[by_name["a"].place].tolist() == [0] * C + [1] * C


def test_only_views_that_are_asked():
    """In any order, by several behaviors, one of which asks nothing."""
    asked = {"a": queries(9, 2, 2), "b": queries(4), "c": queries()}
    views, by_name = views_and_queries(asked, num_chunks=C, chunk_s=0.05)
    assert views.tolist() == [2, 4, 9]
    a, b, c = (by_name[name] for name in "abc")
    torch.testing.assert_close(a.time_s, torch.tensor([0.01, 0.02, 0.0]).double())
    assert (a.offsets, b.offsets, c.offsets) == ([0, 2, 2, 3], [0, 0, 1, 1], [0, 0, 0, 0])
    assert a.sequence.tolist() == [0, 0, 1] and a.place.tolist() == [2, 0, 1]
    part, spans = query_spans(a, 1, 3, width=10)
    assert part.time_s.tolist() == [0.0] and spans == ([(0, 1)], [(10, 20)])
    assert query_spans(c, 0, 3, width=10)[1] == ([], [])


def test_nobody_asks():
    views, by_name = views_and_queries({}, num_chunks=C, chunk_s=0.05)
    assert len(views) == 0 and by_name == {}
