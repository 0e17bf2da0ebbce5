"""What a token is before time enters: the embedding of its unit plus the embedding of its kind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from possm.batch import Tokens, Values

BLANK = 0
"""Row of the blank unit, which stands in for an empty chunk."""
EMBEDDING_STD = 0.02
"""Embeddings start from N(0, 0.02^2), as in the released code."""
NUM_KINDS = 4
"""Rows of the token-type table of the released code; a spike or a count is kind 0."""


class TokenEmbedding(nn.Module):
    """Unit and kind tables (paper section 3.1): one row a unit, time left to the rotary embedding.

    Args:
        num_units: Rows of the unit table.
        width: Size of a token.
        kinds: Rows of the kinds of tokens that have a value; each has a matrix that makes, of the embedding
            of a unit, the direction that the value moves it along; and a direction for all units, 0 at first,
            for the sum of all values would drown the rest.
    """

    def __init__(self, num_units: int, width: int, *, kinds: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.value_kinds = kinds
        self.unit = nn.Embedding(num_units, width)
        self.kind = nn.Embedding(NUM_KINDS, width)
        for table in (self.unit, self.kind):
            nn.init.normal_(table.weight, std=EMBEDDING_STD)
        if kinds:
            self.value = nn.Embedding(NUM_KINDS, width)
            nn.init.zeros_(self.value.weight)
            # The same one for all: the power and the counts of a channel say much the same, and add up.
            turn = _turn(width)
            self.turn = nn.ParameterList(nn.Parameter(turn.detach().clone()) for _ in kinds)

    def forward(self, rows: Tensor | None = None) -> Tensor:
        """The token of every unit: (units, width); or of some: (n,) int64 -> (n, width)."""
        units = self.unit.weight if rows is None else self.unit(rows)
        return units + self.kind.weight[0]

    @torch.no_grad()
    def center(self, tokens: Tokens, values: Values | None) -> None:
        """Set the embedding of each kind against the mean token of a first batch.

        A latent is a mean over a hundred tokens. What tokens have in common stays in it while what sets them
        apart averages out, so the common part would be ten times as large as all that a chunk can tell.
        """
        unit, kind = self.unit.weight, self.kind.weight
        if len(tokens.unit):
            kind[0] = -(tokens.count.to(unit) @ unit[tokens.unit]) / tokens.count.sum()
        if values is not None:
            kind[list(self.value_kinds)] = -unit[values.unit[values.unit > 0]].mean(0)

    def lines(self) -> tuple[Tensor, Tensor] | None:
        """Tokens with a value x are offset + x * slope: both (K, units, width); None without any.

        The slope must differ from unit to unit: all channels have a token in every bin, so that with one
        slope for all of them a mean over tokens would tell the sum of values, and nothing else. The paper
        says that a token has a value embedding, not how unit and value meet.
        """
        if not self.value_kinds:
            return None
        kinds, unit = list(self.value_kinds), self.unit.weight
        own = torch.stack([unit @ turn for turn in self.turn])
        return unit + self.kind.weight[kinds].unsqueeze(1), own + self.value.weight[kinds].unsqueeze(1)


def _turn(width: int) -> nn.Parameter:
    """A random rotation: a unit's own direction is at first as long as its embedding, and another one."""
    return nn.Parameter(nn.init.orthogonal_(torch.empty(width, width)))


def embedding_table(num_rows: int, width: int) -> nn.Embedding:
    """A table started as the released code starts them."""
    table = nn.Embedding(num_rows, width)
    with torch.no_grad():
        table.weight.normal_(std=EMBEDDING_STD)
    return table
