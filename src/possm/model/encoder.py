"""Input cross-attention: the tokens of one chunk -> one latent (paper section 3.1, eq. 1).

One learned latent per chunk, at the centre of the chunk, asks every token of the chunk. Its query is the
same for all chunks, so what a unit answers depends on the unit and on the time within the chunk only:

    score(u, t) = q . R(t - t_latent) k_u = a_u + sum_f b_uf cos(w_f (t - t_latent)) + c_uf sin(...)

Everything with a matrix in it is therefore done once per unit (`UnitTables`); a spike costs a gather of
1 + 2F coefficients, a gather of its value, and a rotation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from possm.batch import Tokens
from possm.model.attend import TokenTimes, attend
from possm.model.layers import FeedForward
from possm.model.rotary import Rotary, rotate
from possm.model.tokens import BLANK, EMBEDDING_STD

LATENT_STD = 0.3
"""How much latents vary over chunks before the first step."""


class UnitTables(NamedTuple):
    """What every unit answers to the latent's query; made once, reused by every chunk."""

    score: Tensor
    """(units, 1 + 2F): a_u, then b_uf, then c_uf of the formula above."""
    value: Tensor
    """(units, head): unrotated values."""


class Encoder(nn.Module):
    """One latent per chunk.

    Args:
        width: Size of tokens and latents.
        head_width: Size of the one attention head.
        rotary: Its angles.
        latent_time_s: Where in the chunk the latent sits: the centre.
        dropout: Of the feed-forward block.
        rest: Where above 0, every chunk has one token more, with a score that is learnt and the value 0. The
            others share what it leaves: of many spikes the latent gets more than of few, where a mean over
            spikes tells whose they were but not how many. What it weighs before the first step, in chunks of
            mean size: 10 lets spikes add up almost linearly, 1 tells few from many but not many from a burst.
    """

    def __init__(
        self,
        width: int,
        *,
        head_width: int,
        rotary: Rotary,
        latent_time_s: float,
        dropout: float,
        rest: float = 0.0,
    ) -> None:
        super().__init__()
        self.rest = nn.Parameter(torch.zeros(1)) if rest else None
        self.first_rest = rest
        self.latent = nn.Parameter(torch.randn(1, width) * EMBEDDING_STD)
        self.norm_latent = nn.LayerNorm(width)
        self.norm_token = nn.LayerNorm(width)
        self.to_query = nn.Linear(width, head_width, bias=False)
        self.to_key_value = nn.Linear(width, 2 * head_width, bias=False)
        self.to_out = nn.Linear(head_width, width)
        self.feed_forward = FeedForward(width, dropout=dropout)
        self.rotary = rotary
        self.latent_time_s = latent_time_s

    def tables(self, token: Tensor) -> UnitTables:
        """Project every unit once: (units, width) -> tables, also under autocast in the dtype of the angles:
        half precision would round times within a chunk by many turns of the fast features."""
        query = self.to_query(self.norm_latent(self.latent)) * self.to_query.out_features**-0.5
        key, value = self.to_key_value(self.norm_token(token)).chunk(2, dim=-1)
        score = score_coefficients(query, key, pairs=len(self.rotary.omega))
        return UnitTables(score.to(self.rotary.omega), value.to(self.rotary.omega))

    def forward(self, tokens: Tokens, tables: UnitTables) -> Tensor:
        """Tokens of G chunks -> latents (G, width)."""
        attended = self.attend(tokens, tables)
        return self.feed_forward(self.latent + self.to_out(attended))

    def attend(self, tokens: Tokens, tables: UnitTables) -> Tensor:
        """Softmax over the tokens of each chunk, a token of count k weighing as k tokens: (G, head)."""
        dtype = tables.value.dtype
        time_s = tokens.time_s.to(dtype) - self.latent_time_s
        times = TokenTimes(tokens.unit, time_s, tokens.count.to(dtype), tokens.offsets)
        if self.rest is not None:
            return attend(tables.score, tables.value, self.rotary.omega, times, self.rest.to(dtype))
        attended = attend(tables.score, tables.value, self.rotary.omega, times)
        empty = (tokens.offsets.diff() == 0).unsqueeze(1)
        return torch.where(empty, self._blank(tables), attended)

    @torch.no_grad()
    def spread(self, tokens: Tokens, tables: UnitTables) -> None:
        """Scale and shift what is learnt of a chunk so that it varies from chunk to chunk.

        With random weights the mean over a hundred tokens is nearly the same in every chunk: latents of norm
        2 vary by 0.03, and training takes hundreds of steps to find what varies. Here `to_out` is scaled to
        a standard deviation of LATENT_STD over the chunks given, and its bias set against their mean, as in
        data-dependent initialization (Salimans and Kingma 2016, section 3). The paper does not say how it
        starts; sizes and forward are unchanged. docs/training.md has what it is worth.

        Args:
            tokens: Of a batch of training data.
            tables: Of the weights as they are.
        """
        self.settle(tokens)
        answer = self.attend(tokens, tables) @ self.to_out.weight.T
        if len(answer) < 2 or not bool(answer.std(dim=0).mean() > 0):
            return
        scale = LATENT_STD / answer.std(dim=0).mean()
        self.to_out.weight.mul_(scale)
        self.to_out.bias.copy_(-scale * answer.mean(dim=0))

    @torch.no_grad()
    def settle(self, tokens: Tokens) -> None:
        """Let the token at rest weigh as many chunks of mean size as it was asked to."""
        if self.rest is not None and bool(tokens.count.sum() > 0):
            self.rest.fill_(math.log(self.first_rest * float(tokens.count.sum()) / (len(tokens.offsets) - 1)))

    def _blank(self, tables: UnitTables) -> Tensor:
        """What attention finds in an empty chunk: nothing beside a token at rest; else one blank token at its
        start, over which the softmax is 1."""
        if self.rest is not None:
            return torch.zeros_like(tables.value[BLANK : BLANK + 1])
        start = tables.value.new_tensor([-self.latent_time_s])
        return rotate(tables.value[BLANK : BLANK + 1], *self.rotary(start))


def score_coefficients(query: Tensor, key: Tensor, *, pairs: int) -> Tensor:
    """a_u, then b_uf, then c_uf of the formula above: one query (1, head) and all keys -> (units, 1 + 2F)."""
    q1, q2, q_still = query.split([pairs, pairs, query.shape[1] - 2 * pairs], dim=1)
    k1, k2, k_still = key.split([pairs, pairs, key.shape[1] - 2 * pairs], dim=1)
    constant = k_still @ q_still.T
    return torch.cat([constant, q1 * k1 + q2 * k2, q2 * k1 - q1 * k2], dim=1)
