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
from torch.nn import functional

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

    def contexts(self, history: Tensor) -> Tensor:
        """What a query of each chunk attends to: (S, k - 1 + C, hidden) -> (S * C, 2 k head).

        Keys, then values, of the k hidden states, rotated to their times before the end of the chunk; the
        query brings its own time (R(t_c - t_q) = R(-t_q) R(t_c)).
        """
        num_context = len(self.context_time_s)
        num_chunks = history.shape[1] - (num_context - 1)
        projected = self.to_key_value(self.norm_context(history))
        cos, sin = self.rotary(self.context_time_s)
        rows = [projected[:, j : j + num_chunks] for j in range(num_context)]
        both = torch.stack(rows, dim=2).unflatten(-1, (2, -1))  # (S, C, k, 2, head)
        turned = rotate(both, cos.unsqueeze(1), sin.unsqueeze(1))
        return turned.transpose(2, 3).flatten(2).flatten(0, 1)

    def forward(
        self, embedding: Tensor, queries: Queries, contexts: Tensor, *, num_chunks: int, seen: Tensor
    ) -> Tensor:
        """Answer every query.

        Args:
            embedding: (S, width) of each sequence: what asks.
            queries: Q output times.
            contexts: Of `contexts`, (S * C, 2 k head).
            num_chunks: C.
            seen: (S,) how many chunks before the first of this call are known.

        Returns:
            (Q, width).
        """
        num_context = len(self.context_time_s)
        sequence, chunk = queries.chunk // num_chunks, queries.chunk % num_chunks
        # functional.embedding: a gather whose gradient is several times faster than that of indexing
        gathered = functional.embedding(queries.chunk, contexts).unflatten(1, (2, num_context, -1))
        key, value = gathered.unbind(1)  # (Q, k, head)
        cos, sin = self.rotary(queries.time_s)
        asking = functional.embedding(sequence, self.to_query(self.norm_query(embedding)))
        query = rotate(asking, cos, sin).unsqueeze(1) * self.to_query.out_features**-0.5
        score = (query * key).sum(-1)
        back = torch.arange(num_context - 1, -1, -1, device=chunk.device)  # chunks before the query's own
        unknown = back > (chunk + seen[sequence]).unsqueeze(1)
        weight = score.masked_fill(unknown, -torch.inf).softmax(dim=1)
        attended = rotate((weight.unsqueeze(-1) * value).sum(1), cos, -sin)
        return self.feed_forward(functional.embedding(sequence, embedding) + self.to_out(attended))


class ContinuousReadout(nn.Module):
    """A linear map to the D dimensions of a continuous behavior, in scaled units."""

    def __init__(self, width: int, *, num_dimensions: int) -> None:
        super().__init__()
        self.behavior = embedding_table(1, width)
        self.linear = nn.Linear(width, num_dimensions)

    def forward(self, attended: Tensor) -> Tensor:
        """(Q, width) -> (Q, D)."""
        return self.linear(attended)


class CategoryReadout(nn.Module):
    """A linear map to the logits of the classes of a category: one answer says how likely each of them is."""

    def __init__(self, width: int, *, num_dimensions: int) -> None:
        super().__init__()
        self.behavior = embedding_table(1, width)
        self.linear = nn.Linear(width, num_dimensions)

    def forward(self, attended: Tensor) -> Tensor:
        """(Q, width) -> (Q, classes) logits; their softmax is the probabilities."""
        return self.linear(attended)


class SequenceReadout(nn.Module):
    """A strided convolution over hidden states: each answer sees the newest `kernel` of them (paper, speech).

    The stride is in the queries: they name the chunks at whose end a frame is answered. Before the start of a
    sequence hidden states are zero.

    Args:
        hidden: Size of a hidden state.
        num_dimensions: Symbols and the blank.
        kernel: Hidden states an answer sees.
        dropout: Of what it sees.
    """

    def __init__(self, hidden: int, *, num_dimensions: int, kernel: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.kernel = kernel
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(kernel * hidden, num_dimensions)

    def forward(self, history: Tensor, queries: Queries, *, num_chunks: int, seen: Tensor) -> Tensor:
        """Answer every query.

        Args:
            history: (S, kept + C, hidden): of the chunks of this call and those before, kept >= kernel - 1.
            queries: At the ends of Q chunks; their times do not matter.
            num_chunks: C.
            seen: (S,) how many of the kept are known.

        Returns:
            (Q, symbols + 1) logits.
        """
        length, kept = history.shape[1], history.shape[1] - num_chunks
        sequence, chunk = queries.chunk // num_chunks, queries.chunk % num_chunks
        back = torch.arange(self.kernel - 1, -1, -1, device=chunk.device)
        row = (sequence * length + kept + chunk).unsqueeze(1) - back
        seen_states = functional.embedding(row, self.norm(history).flatten(0, 1))  # (Q, kernel, hidden)
        unknown = back > (chunk + seen[sequence]).unsqueeze(1)
        return self.linear(self.dropout(seen_states.masked_fill(unknown.unsqueeze(2), 0.0)).flatten(1))


READOUTS: dict[str, Callable[..., nn.Module]] = {
    "continuous": ContinuousReadout,
    "category": CategoryReadout,
    "sequence": SequenceReadout,
}
"""Readouts by kind. Those that answer at any time take (width, *, num_dimensions), have a one-row `behavior`
embedding and read what attention found; a sequence reads hidden states."""
