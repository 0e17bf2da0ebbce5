"""Output cross-attention: k hidden states -> behavior at any time asked (paper section 3.1, eq. 2).

A query is the embedding of the session plus that of the behavior, at the output time. It attends to the
hidden states of its chunk and of the k - 1 chunks before it, whose times are the ends of those chunks.
All times are relative to the end of the query's chunk, so a stream of any length loses no precision
(later revision of the released decoder).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from possm.batch import Queries
from possm.model.layers import FeedForward
from possm.model.rotary import Rotary, rotate
from possm.model.tokens import embedding_table


class ReadoutAttention(nn.Module):
    """One head over k hidden states, shared by all behaviors.

    Args:
        width: Size of a query.
        hidden: Size of a hidden state.
        head_width: Size of the attention head.
        num_context: k, the hidden states a query sees.
        chunk_s: Time between hidden states.
        rotary: Its angles.
        dropout: Of the feed-forward block.
    """

    context_time_s: Tensor

    def __init__(
        self,
        width: int,
        *,
        hidden: int,
        head_width: int,
        num_context: int,
        chunk_s: float,
        rotary: Rotary,
        dropout: float,
    ) -> None:
        super().__init__()
        self.norm_query = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(hidden)
        self.to_query = nn.Linear(width, head_width, bias=False)
        self.to_key_value = nn.Linear(hidden, 2 * head_width, bias=False)
        self.to_out = nn.Linear(head_width, width)
        self.feed_forward = FeedForward(width, dropout=dropout)
        self.rotary = rotary
        times = ((torch.arange(num_context) - (num_context - 1)) * chunk_s).float()  # as in Rotary
        self.register_buffer("context_time_s", times.to(torch.get_default_dtype()), persistent=False)

    def key_value(self, history: Tensor) -> Tensor:
        """Project every hidden state once: (S, k - 1 + C, hidden) -> (S, k - 1 + C, 2 head)."""
        return self.to_key_value(self.norm_context(history))

    def forward(self, embedding: Tensor, queries: Queries, key_value: Tensor, seen: Tensor) -> Tensor:
        """Answer every query: embedding (S, width) of each sequence, Q queries -> (Q, width)."""
        num_context = len(self.context_time_s)
        num_chunks = key_value.shape[1] - (num_context - 1)
        sequence, chunk = queries.chunk // num_chunks, queries.chunk % num_chunks
        row = chunk.unsqueeze(1) + torch.arange(num_context, device=chunk.device)  # (Q, k) of the history
        key, value = key_value[sequence.unsqueeze(1), row].chunk(2, dim=-1)  # (Q, k, head)
        cos, sin = self.rotary(self.context_time_s - queries.time_s.unsqueeze(1))
        query = self.to_query(self.norm_query(embedding))[sequence].unsqueeze(1)
        score = (query * rotate(key, cos, sin)).sum(-1) * self.to_query.out_features**-0.5
        real = row >= (num_context - 1 - seen)[sequence].unsqueeze(1)
        weight = score.masked_fill(~real, -torch.inf).softmax(dim=1)
        attended = (weight.unsqueeze(-1) * rotate(value, cos, sin)).sum(1)
        return self.feed_forward(embedding[sequence] + self.to_out(attended))


class ContinuousReadout(nn.Module):
    """A linear map to the D dimensions of a continuous behavior, in scaled units."""

    def __init__(self, width: int, *, num_dimensions: int) -> None:
        super().__init__()
        self.behavior = embedding_table(1, width)
        self.linear = nn.Linear(width, num_dimensions)

    def forward(self, attended: Tensor) -> Tensor:
        """(Q, width) -> (Q, D)."""
        return self.linear(attended)


READOUTS: dict[str, Callable[..., nn.Module]] = {"continuous": ContinuousReadout}
"""Readouts by kind; each takes (width, *, num_dimensions) and has a one-row `behavior` embedding."""
