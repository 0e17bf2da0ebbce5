"""Which view answers which query: the bookkeeping of a decoder that looks at views of chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from possm.baselines.attention import Spans
from possm.batch import Queries


class Asked(NamedTuple):
    """The queries of one behavior, those of one view side by side."""

    time_s: Tensor
    """(Q,) float64: output time minus the end of the view that answers."""
    sequence: Tensor
    """(Q,) int64: the sequence of each."""
    place: Tensor
    """(Q,) int64: where each query of the batch is in this order."""
    offsets: list[int]
    """(V + 1,) where the queries of each view begin, and Q."""


def views_and_queries(
    queries: Mapping[str, Queries], *, num_chunks: int, chunk_s: float, stride: int = 1, phase: int = 0
) -> tuple[Tensor, dict[str, Asked]]:
    """The views that are asked, and what each of them is asked.

    The last view ends with the last chunk of a sequence and answers for `phase` chunks, or for `stride`
    where phase is 0; the views before end every `stride` chunks and answer for as many.

    Args:
        queries: By behavior.
        num_chunks: C.
        chunk_s: Length of a chunk.
        stride: 1 is causal: every chunk has its own view.
        phase: Below stride.

    Returns:
        (V,) int64, s * C + c of the chunk each view ends with, ascending; and the queries by behavior.
    """
    ends = {name: _end(asked.chunk, num_chunks, stride, phase) for name, asked in queries.items()}
    every = torch.cat([*ends.values()]) if ends else torch.zeros(0, dtype=torch.int64)
    views = every.unique()
    return views, {
        name: _sorted(asked, ends[name], views, num_chunks=num_chunks, chunk_s=chunk_s)
        for name, asked in queries.items()
    }


def query_spans(asked: Asked, first: int, last: int, *, width: int) -> tuple[Asked, Spans]:
    """The queries of the views `first` to `last`, and which of them look at which rows of these views.

    Args:
        asked: Queries.
        first: A view.
        last: The view after the last one.
        width: Rows a view has.
    """
    start = asked.offsets[first]
    edges = [offset - start for offset in asked.offsets[first : last + 1]]
    spans = Spans([], [])
    for number in range(last - first):
        if edges[number] < edges[number + 1]:
            spans.query.append((edges[number], edges[number + 1]))
            spans.key.append((number * width, (number + 1) * width))
    rows = slice(start, asked.offsets[last])
    return asked._replace(time_s=asked.time_s[rows], sequence=asked.sequence[rows]), spans


def _end(chunk: Tensor, num_chunks: int, stride: int, phase: int) -> Tensor:
    """The chunk with which the view that answers for a chunk ends."""
    before_last = num_chunks - 1 - chunk % num_chunks
    later = torch.where(before_last < phase, before_last, (before_last - phase) % stride)
    return chunk + later


def _sorted(queries: Queries, end: Tensor, views: Tensor, *, num_chunks: int, chunk_s: float) -> Asked:
    order = end.argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    time_s = queries.time_s.double() - (end - queries.chunk).double() * chunk_s
    offsets = torch.searchsorted(end[order], views).tolist()
    return Asked(time_s[order], queries.chunk[order] // num_chunks, place, [*offsets, len(order)])
