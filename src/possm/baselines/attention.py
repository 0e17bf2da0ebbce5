"""Attention of a transformer over spike tokens: several heads, rotary times, ragged or dense.

The ragged one is written as an autograd function because its blocks overlap: views that step by 50 ms share
19 of their 20 chunks, and copying the tokens of every view would move twenty times the data.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from possm.model.layers import FeedForward
from possm.model.rotary import Rotary, rotate


class Spans(NamedTuple):
    """Which rows of the queries attend to which rows of the keys, block by block; plain Python numbers."""

    query: list[tuple[int, int]]
    """First row and end of each block's queries; together they are all queries, in order."""
    key: list[tuple[int, int]]
    """First row and end of each block's keys; they may overlap, and none may be empty."""


def attend_spans(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, spans: Spans) -> Tensor:
    """softmax(query key^T / sqrt(head) + bias) value, block by block.

    A block is computed on its own: what is in other blocks does not change a bit of it.

    Args:
        query: (heads, Nq, head).
        key: (heads, Nk, head).
        value: (heads, Nk, head).
        bias: (Nk,) added to the scores of a key, the logarithm of its multiplicity; None adds nothing.
        spans: The blocks.

    Returns:
        (heads, Nq, head).
    """
    return _AttendSpans.apply(query * query.shape[-1] ** -0.5, key, value, bias, spans)


class _AttendSpans(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, spans: Spans
    ) -> Tensor:
        out, weights = torch.empty_like(query, memory_format=torch.contiguous_format), []
        with torch.autocast(query.device.type, enabled=False):
            for (q0, q1), (k0, k1) in zip(*spans, strict=True):
                score = query[:, q0:q1] @ key[:, k0:k1].mT
                weight = (score if bias is None else score.add_(bias[k0:k1])).softmax(-1)
                out[:, q0:q1] = weight @ value[:, k0:k1]
                weights.append(weight)
        ctx.spans = spans
        ctx.save_for_backward(query, key, value, *weights)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, *weights = ctx.saved_tensors
        by_query, by_key, by_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for (q0, q1), (k0, k1), weight in zip(*ctx.spans, weights, strict=True):
            out_grad = grad[:, q0:q1]
            by_value[:, k0:k1] += weight.mT @ out_grad
            by_score = out_grad @ value[:, k0:k1].mT
            by_score -= (by_score * weight).sum(-1, keepdim=True)
            by_score *= weight
            by_query[:, q0:q1] = by_score @ key[:, k0:k1]
            by_key[:, k0:k1] += by_score.mT @ query[:, q0:q1]
        return by_query, by_key, by_value, None, None


class CrossAttention(nn.Module):
    """The projections of pre-norm cross-attention; who attends to whom is the caller's to say.

    Args:
        width: Size of queries, contexts and outputs.
        heads: Attention heads.
        head_width: Size of each.
    """

    def __init__(self, width: int, *, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(width)
        self.to_query = nn.Linear(width, heads * head_width, bias=False)
        self.to_key_value = nn.Linear(width, 2 * heads * head_width, bias=False)
        self.to_out = nn.Linear(heads * head_width, width)

    def ask(self, x: Tensor) -> Tensor:
        """(N, width) -> queries (N, heads, head)."""
        return self.to_query(self.norm_query(x)).unflatten(-1, (self.heads, -1))

    def offer(self, context: Tensor) -> Tensor:
        """(N, width) -> keys, then values: (N, 2, heads, head)."""
        return self.to_key_value(self.norm_context(context)).unflatten(-1, (2, self.heads, -1))

    def merge(self, attended: Tensor) -> Tensor:
        """(N, heads, head) -> (N, width)."""
        return self.to_out(attended.flatten(1))


class SelfAttentionLayer(nn.Module):
    """Pre-norm self-attention with rotating keys and values, then the feed-forward block.

    Args:
        width: Size of a latent.
        heads: Attention heads.
        head_width: Size of each.
        dropout: Inside the feed-forward block.
        branch_dropout: Of what attention and feed-forward add.
    """

    def __init__(
        self, width: int, *, heads: int, head_width: int, dropout: float, branch_dropout: float
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.to_query_key_value = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.to_out = nn.Linear(heads * head_width, width)
        self.feed_forward = FeedForward(width, dropout=dropout)
        self.dropout = nn.Dropout(branch_dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(F, L, width), angles of the L latents (L, 1, pairs) -> (F, L, width)."""
        projected = self.to_query_key_value(self.norm(x)).unflatten(-1, (3 * self.heads, -1))
        query, key, value = rotate(projected, cos, sin).transpose(1, 2).chunk(3, dim=1)
        attended = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        x = x + self.dropout(self.to_out(rotate(attended, cos, -sin).flatten(2)))
        return x + self.dropout(self.feed_forward(x) - x)


def exact_angles(rotary: Rotary, time_s: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every pair's angle, the angle itself in float64.

    A view lies up to half a minute after the start of a call, 300,000 turns of the fastest pair; float32
    would lose the differences within the view, on which attention rests.
    """
    angle = time_s.double().unsqueeze(-1) * rotary.omega.double()
    return angle.cos().to(rotary.omega.dtype), angle.sin().to(rotary.omega.dtype)
