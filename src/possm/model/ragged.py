"""Sums over runs of rows, and gathers whose gradient is such a sum: the primitives of ragged batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class _GatherRows(torch.autograd.Function):
    """`table[index]`; the backward adds rows without the sort that `index_select`'s backward may do."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.num_rows = table.shape[0]
        return table.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        add_rows = torch.ops.aten.embedding_dense_backward
        return add_rows(grad.contiguous(), index, ctx.num_rows, -1, False), None


class _SegmentSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, segment: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(segment)
        every = torch.arange(rows.shape[0], device=rows.device)
        return functional.embedding_bag(every, rows, offsets, mode="sum", include_last_offset=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (segment,) = ctx.saved_tensors
        return grad.index_select(0, segment), None, None


def gather_rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows of a table: (R, D), (N,) int64 -> (N, D)."""
    return _GatherRows.apply(table, index)


def segment_sum(rows: Tensor, segment: Tensor, offsets: Tensor) -> Tensor:
    """Sum runs of rows: (N, D) -> (G, D).

    Args:
        rows: (N, D), run after run.
        segment: (N,) int64, the run of each row.
        offsets: (G + 1,) int64, where each run begins, and N.
    """
    return _SegmentSum.apply(rows, segment, offsets)


def segment_max(values: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    """Largest value of each run, without gradient: (N,) -> (G,); an empty run gives 0."""
    out = values.new_zeros(num_segments)
    return out.scatter_reduce_(0, segment, values.detach(), "amax", include_self=False)
