"""Softmax attention of one query over the ragged tokens of many chunks: the inner loop of training.

Written as one autograd function because the plain expression keeps a dozen (tokens x head) tensors for its
backward, and moving them through memory costs more than the arithmetic. Here tokens pass in blocks that
stay in cache, forward and backward, and only their attention weights are kept. `tests/model/test_attend.py`
holds it against the plain expression and its gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 8192
"""Tokens per block: 33 + 64 floats each are 3 MB, about the second-level cache of a core."""


class TokenTimes(NamedTuple):
    """What attention needs of the tokens besides the unit tables."""

    unit: Tensor
    """(N,) int64 rows of the tables."""
    time_s: Tensor
    """(N,) relative to the query."""
    multiplicity: Tensor
    """(N,) above 0: a token of multiplicity k weighs as k tokens."""
    offsets: Tensor
    """(G + 1,) int64: where the tokens of each chunk begin, and N."""


def attend(
    score: Tensor, value: Tensor, omega: Tensor, tokens: TokenTimes, rest: Tensor | None = None
) -> Tensor:
    """sum_n p_n R(t_n) v_n per chunk, p = softmax over its tokens of log(multiplicity) + score.

    Args:
        score: (units, 1 + 2F) coefficients of 1, cos(w_f t), sin(w_f t).
        value: (units, head), the first 2F features rotating in pairs (i, F + i).
        omega: (F,) angular frequencies.
        tokens: The tokens of G chunks.
        rest: Score of one token more in every chunk, whose value is 0: a tensor of one number; None has none.

    Returns:
        (G, head); 0 for an empty chunk.
    """
    return _Attend.apply(score, value, omega, tokens, rest)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, score: Tensor, value: Tensor, omega: Tensor, tokens: TokenTimes, rest: Tensor | None
    ) -> Tensor:
        out = value.new_zeros(len(tokens.offsets) - 1, value.shape[1])
        weights = []
        for chunks, block in _blocks(tokens):
            basis = _basis(block.time_s, omega)
            weight = _softmax(score, basis, block, rest)
            weights.append(weight)
            out[chunks] = _weighted_values(value, basis, weight, block)
        ctx.resting = rest is not None
        ctx.save_for_backward(score, value, omega, out, *tokens, *weights)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, Tensor | None]:
        score, value, omega, out, *others = ctx.saved_tensors
        tokens, weights = TokenTimes(*others[:4]), others[4:]
        grad_score, grad_value = torch.zeros_like(score), torch.zeros_like(value)
        grad_rest = score.new_zeros(1) if ctx.resting else None
        for (chunks, block), weight in zip(_blocks(tokens), weights, strict=True):
            basis = _basis(block.time_s, omega)
            by_score, by_value = _block_gradient(value, basis, weight, block, grad[chunks])
            _add_by_unit([grad_score, grad_value], [by_score, by_value], block.unit)
            if grad_rest is not None:  # its value is 0: d out / d score is -p out
                used = torch.zeros_like(out[chunks, 0]).scatter_add_(0, _segments(block), weight)
                grad_rest -= ((1 - used) * (grad[chunks] * out[chunks]).sum(1)).sum()
        return grad_score, grad_value, None, None, grad_rest


def _blocks(tokens: TokenTimes) -> Iterator[tuple[slice, TokenTimes]]:
    """Runs of whole chunks with about BLOCK tokens each; a run ends where the next would exceed it."""
    num_chunks, total = len(tokens.offsets) - 1, len(tokens.unit)
    if total <= BLOCK:
        yield slice(0, num_chunks), tokens
        return
    marks = torch.arange(BLOCK, total + BLOCK, BLOCK, device=tokens.offsets.device)
    cuts = torch.searchsorted(tokens.offsets, marks, right=True).sub_(1).clamp_(0, num_chunks)
    edges = sorted({0, *cuts.tolist(), num_chunks})
    starts = tokens.offsets[edges].tolist()
    for i in range(len(edges) - 1):
        rows, chunks = slice(starts[i], starts[i + 1]), slice(edges[i], edges[i + 1])
        offsets = tokens.offsets[edges[i] : edges[i + 1] + 1] - starts[i]
        yield chunks, TokenTimes(tokens.unit[rows], tokens.time_s[rows], tokens.multiplicity[rows], offsets)


def _basis(time_s: Tensor, omega: Tensor) -> Tensor:
    """1, cos(w_f t), sin(w_f t): (n, 1 + 2F)."""
    angle = time_s.unsqueeze(1) * omega
    return torch.cat([torch.ones_like(angle[:, :1]), angle.cos(), angle.sin()], dim=1)


def _softmax(score: Tensor, basis: Tensor, block: TokenTimes, rest: Tensor | None) -> Tensor:
    """(n,) attention weights, 1 in sum over each chunk, what the token at rest gets included."""
    segment = _segments(block)
    logit = score.index_select(0, block.unit).mul_(basis).sum(1)
    largest = logit.new_zeros(len(block.offsets) - 1)
    largest.scatter_reduce_(0, segment, logit, "amax", include_self=False)
    if rest is not None:
        largest = torch.maximum(largest, rest)
    weight = logit.sub_(largest.index_select(0, segment)).exp_().mul_(block.multiplicity)
    total = torch.zeros_like(largest) if rest is None else (rest - largest).exp()
    total = total.scatter_add_(0, segment, weight)
    return weight.div_(total.index_select(0, segment))


def _weighted_values(value: Tensor, basis: Tensor, weight: Tensor, block: TokenTimes) -> Tensor:
    """Rotate, weigh and add: (chunks of the block, head)."""
    num_pairs = basis.shape[1] // 2
    cos, sin = (basis[:, 1:] * weight.unsqueeze(1)).split(num_pairs, dim=1)
    turning, still = value.split([2 * num_pairs, value.shape[1] - 2 * num_pairs], dim=1)
    rows = turning.index_select(0, block.unit)
    first, second = rows.split(num_pairs, dim=1)
    rotated = torch.cat([first * cos, second * cos], dim=1)
    rotated[:, :num_pairs].addcmul_(second, sin, value=-1)
    rotated[:, num_pairs:].addcmul_(first, sin)
    every = torch.arange(len(block.unit), device=value.device)
    return torch.cat(
        [_bag(rotated, every, block), _bag(still.contiguous(), block.unit, block, weight)], dim=1
    )


def _block_gradient(
    value: Tensor, basis: Tensor, weight: Tensor, block: TokenTimes, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradient by each token's score coefficients (n, 1 + 2F) and by its value (n, head)."""
    num_pairs = basis.shape[1] // 2
    sizes = [num_pairs, num_pairs, value.shape[1] - 2 * num_pairs]
    segment = _segments(block)
    each = grad.index_select(0, segment)
    g1, g2, _ = each.split(sizes, dim=1)
    v = value.index_select(0, block.unit)
    v1, v2, v3 = v.split(sizes, dim=1)
    _, cos, sin = basis.split([1, num_pairs, num_pairs], dim=1)
    # d out / d weight: R(t) v . grad
    by_cos = (v1 * g1).addcmul_(v2, g2).mul_(cos)
    by_sin = (v1 * g2).addcmul_(v2, g1, value=-1).mul_(sin)
    by_weight = by_cos.add_(by_sin).sum(1).add_((v3 * each[:, 2 * num_pairs :]).sum(1))
    mean = by_weight.new_zeros(len(block.offsets) - 1)
    mean.scatter_add_(0, segment, weight * by_weight)
    by_logit = by_weight.sub_(mean.index_select(0, segment)).mul_(weight)
    # d out / d value: the inverse rotation of grad, weighed
    each.mul_(weight.unsqueeze(1))
    turned = (g1 * cos).addcmul_(g2, sin), (g2 * cos).addcmul_(g1, sin, value=-1)
    each[:, :num_pairs], each[:, num_pairs : 2 * num_pairs] = turned
    return basis * by_logit.unsqueeze(1), each


def _segments(block: TokenTimes) -> Tensor:
    """(n,) int64: the chunk of every token, counted inside the block."""
    return torch.repeat_interleave(block.offsets.diff(), output_size=len(block.unit))


def _bag(table: Tensor, index: Tensor, block: TokenTimes, weight: Tensor | None = None) -> Tensor:
    """Sum of (weighed) rows over each chunk."""
    return functional.embedding_bag(
        index, table, block.offsets, mode="sum", include_last_offset=True, per_sample_weights=weight
    )


def _add_by_unit(tables: list[Tensor], rows: list[Tensor], unit: Tensor) -> None:
    """table[unit[n]] += rows[n]. Sorted by unit first, the additions become sums over runs, which are
    several times faster than scattered ones, and whose order, so whose rounding, is always the same."""
    ordered, order = unit.sort(stable=True)
    units, counts = ordered.unique_consecutive(return_counts=True)
    offsets = functional.pad(counts.cumsum(0), (1, 0))
    for table, part in zip(tables, rows, strict=True):
        sums = functional.embedding_bag(order, part, offsets, mode="sum", include_last_offset=True)
        table.index_add_(0, units, sums)
