"""An encoder with more to it than the small model's: several latents per chunk, and tokens with a value.

    tokens of a chunk -> input cross-attention of L latents -> self-attention among them -> concatenated

Spikes are attended exactly as `encoder` does, once per latent; values as `values` does; where a chunk has
both, one softmax runs over all of them. With one latent and spikes only this is `Encoder`, which is what the
decoder then uses.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from possm.batch import Tokens, Values
from possm.model.attend import TokenTimes, attend
from possm.model.encoder import LATENT_STD, Encoder, score_coefficients
from possm.model.layers import FeedForward
from possm.model.rotary import Rotary, rotate
from possm.model.tokens import BLANK, EMBEDDING_STD
from possm.model.values import Slots, ValueAttention, ValueTables, value_tables


class LatentTables(NamedTuple):
    """What every unit answers to the queries of all latents."""

    query: Tensor
    """(L, head), scaled."""
    time_s: Tensor
    """(L,) of the latents, since the start of the chunk."""
    score: Tensor
    """(L, units, 1 + 2F): as in `encoder.UnitTables`."""
    value: Tensor
    """(units, head)."""
    values: ValueTables | None
    """Where tokens have values."""
    kept: dict[str, Slots]
    """The layout that was met last: a stream has the same all the time."""


class LatentEncoder(Encoder):
    """L latents per chunk, side by side.

    Args:
        width: Size of tokens and latents.
        num_latents: L; latent l sits at the centre of the l-th of L parts of the chunk.
        num_layers: Layers of self-attention among the latents of a chunk.
        num_heads: Heads of these.
        kinds: Rows of the kinds of tokens that have a value.
        head_width: Size of the one head of the cross-attention.
        rotary: Its angles.
        chunk_s: Length of a chunk.
        dropout: Of feed-forward blocks.
        rest: As in `Encoder`; without kinds only.
    """

    def __init__(
        self,
        width: int,
        *,
        num_latents: int,
        num_layers: int,
        num_heads: int,
        kinds: tuple[int, ...],
        head_width: int,
        rotary: Rotary,
        chunk_s: float,
        dropout: float,
        rest: float = 0.0,
    ) -> None:
        super().__init__(
            width,
            head_width=head_width,
            rotary=rotary,
            latent_time_s=chunk_s / 2,
            dropout=dropout,
            rest=rest,
        )
        self.latent = nn.Parameter(torch.randn(num_latents, width) * EMBEDDING_STD)
        self.offset = nn.Parameter(torch.zeros(num_latents, width))
        self.latent_times_s = tuple((row + 0.5) * chunk_s / num_latents for row in range(num_latents))
        self.attend_values = ValueAttention(kinds, rotary) if kinds else None
        self.layers = nn.ModuleList(
            LatentLayer(width, num_heads=num_heads, dropout=dropout) for _ in range(num_layers)
        )
        nn.init.zeros_(self.feed_forward.down.weight)  # as in LatentLayer

    def latent_tables(self, token: Tensor, lines: tuple[Tensor, Tensor] | None) -> LatentTables:
        """Project every unit once.

        Args:
            token: (units, width) of spikes.
            lines: Offset and slope, both (K, units, width), of tokens with a value, where there are any.
        """
        dtype = self.rotary.omega.dtype
        query = self.to_query(self.norm_latent(self.latent)) * self.to_query.out_features**-0.5
        key, value = self.to_key_value(self.norm_token(token)).chunk(2, dim=-1)
        values = None
        if lines is not None:
            made = value_tables(*lines, norm=self.norm_token, to_key_value=self.to_key_value)
            values = ValueTables(*(table.to(dtype) for table in made))
        pairs = len(self.rotary.omega)
        score = torch.stack([score_coefficients(row.unsqueeze(0), key, pairs=pairs) for row in query])
        time_s = self.rotary.omega.new_tensor(self.latent_times_s)
        return LatentTables(query.to(dtype), time_s, score.to(dtype), value.to(dtype), values, {})

    def read(self, tokens: Tokens, values: Values | None, tables: LatentTables) -> Tensor:
        """Tokens of G chunks -> (G, L * width)."""
        attended = self._attended(tokens, values, tables)
        latents = self.feed_forward(self.latent + self.offset + self.to_out(attended))
        for layer in self.layers:
            latents = layer(latents)
        return latents.flatten(1)

    @torch.no_grad()
    def spread_all(self, tokens: Tokens, values: Values | None, tables: LatentTables) -> None:
        """As `Encoder.spread`, scaled over all latents together, but each about a mean of zero of its own:
        they sit at other times, so their means differ by far more than they vary, and a backbone would see
        little but these constants."""
        self.settle(tokens)
        answer = self._attended(tokens, values, tables) @ self.to_out.weight.T
        there = tokens.offsets.diff() > 0
        if values is not None:
            there = there | (values.size.flatten() > 0)
        answer = answer[there]
        if len(answer) < 2 or not bool(answer.std(dim=0).mean() > 0):
            return
        scale = LATENT_STD / answer.std(dim=0).mean()
        self.to_out.weight.mul_(scale)
        self.offset.copy_(-scale * answer.mean(dim=0) - self.to_out.bias)

    def _attended(self, tokens: Tokens, values: Values | None, tables: LatentTables) -> Tensor:
        """(G, L, head), one softmax over everything in a chunk."""
        if values is None or self.attend_values is None or tables.values is None:
            return self._of_spikes(tokens, tables)
        empty = (values.size.flatten() == 0)[:, None, None]
        slots = tables.kept.get("slots")
        if slots is None or not slots.fits(values):
            slots = self.attend_values.slots(tables.query, tables.time_s, tables.values, values)
            tables.kept["slots"] = slots
        of_values, score = self.attend_values(slots, tables.time_s, values)
        if not len(tokens.unit):
            return torch.where(empty, self._blanks(tables), of_values)
        share = (self._log_total(tokens, tables) - score.logsumexp(-1)).sigmoid().unsqueeze(-1)  # of spikes
        share = torch.where(empty, torch.ones_like(share), share)
        share = torch.where((tokens.offsets.diff() == 0)[:, None, None] & ~empty, 0.0, share)
        return share * self._of_spikes(tokens, tables) + (1 - share) * of_values

    def _of_spikes(self, tokens: Tokens, tables: LatentTables) -> Tensor:
        """(G, L, head); a chunk without spikes is one blank token."""
        dtype = tables.value.dtype
        count = tokens.count.to(dtype)
        parts = []
        for score, time_s in zip(tables.score, self.latent_times_s, strict=True):
            times = TokenTimes(tokens.unit, tokens.time_s.to(dtype) - time_s, count, tokens.offsets)
            rest = None if self.rest is None else self.rest.to(dtype)
            parts.append(attend(score, tables.value, self.rotary.omega, times, rest))
        empty = (tokens.offsets.diff() == 0)[:, None, None]
        return torch.where(empty, self._blanks(tables), torch.stack(parts, dim=1))

    def _log_total(self, tokens: Tokens, tables: LatentTables) -> Tensor:
        """Logarithm of the sum over the spikes of each chunk of count * exp(score): (G, L)."""
        segment = torch.repeat_interleave(tokens.offsets.diff(), output_size=len(tokens.unit))
        parts = []
        for score, time_s in zip(tables.score, self.latent_times_s, strict=True):
            cos, sin = self.rotary(tokens.time_s - time_s)
            basis = torch.cat([torch.ones_like(cos[:, :1]), cos, sin], dim=1)
            logit = (functional.embedding(tokens.unit, score) * basis).sum(1)
            logit = logit + tokens.count.to(logit).log()
            largest = logit.new_zeros(len(tokens.offsets) - 1)
            largest = largest.scatter_reduce(0, segment, logit.detach(), "amax", include_self=False)
            total = torch.zeros_like(largest).scatter_add(0, segment, (logit - largest[segment]).exp())
            parts.append(largest + total.clamp(min=torch.finfo(total.dtype).tiny).log())
        return torch.stack(parts, dim=1)

    def _blanks(self, tables: LatentTables) -> Tensor:
        """What each latent gets of the one blank token of an empty chunk, at its start: (L, head)."""
        blank = tables.value[BLANK].expand(len(tables.time_s), -1)
        if self.rest is not None:
            return torch.zeros_like(blank)
        return rotate(blank, *self.rotary(-tables.time_s))


class LatentLayer(nn.Module):
    """Pre-norm self-attention among the latents of one chunk, then a feed-forward block; both add nothing at
    first.

    Args:
        width: Size of a latent.
        num_heads: Must divide it.
        dropout: Of the feed-forward block.
    """

    def __init__(self, width: int, *, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.to_all = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Linear(width, width)
        self.feed_forward = FeedForward(width, dropout=dropout)
        for last in (self.to_out, self.feed_forward.down):  # the backbone begins with what attention found
            nn.init.zeros_(last.weight)

    def forward(self, latents: Tensor) -> Tensor:
        """(G, L, width) -> (G, L, width)."""
        parts = self.to_all(self.norm(latents)).unflatten(-1, (3, self.num_heads, -1))  # (G, L, 3, heads, d)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value)
        return self.feed_forward(latents + self.to_out(attended.transpose(1, 2).flatten(2)))
