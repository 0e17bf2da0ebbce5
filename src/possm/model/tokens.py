"""What a token is before time enters: the embedding of its unit plus the embedding of its kind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
        kinds: Rows of the kinds of tokens that have a value; each has a direction that the value moves along.
    """

    def __init__(self, num_units: int, width: int, *, kinds: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.value_kinds = kinds
        self.unit = nn.Embedding(num_units, width)
        self.kind = nn.Embedding(NUM_KINDS, width)
        for table in (self.unit, self.kind):
            nn.init.normal_(table.weight, std=EMBEDDING_STD)
        if kinds:
            self.value = embedding_table(NUM_KINDS, width)

    def forward(self, rows: Tensor | None = None) -> Tensor:
        """The token of every unit: (units, width); or of some: (n,) int64 -> (n, width)."""
        units = self.unit.weight if rows is None else self.unit(rows)
        return units + self.kind.weight[0]

    def lines(self) -> tuple[Tensor, Tensor] | None:
        """Tokens with a value x are offset + x * slope: (K, units, width), (K, width); None without any."""
        if not self.value_kinds:
            return None
        kinds = list(self.value_kinds)
        return self.unit.weight + self.kind.weight[kinds].unsqueeze(1), self.value.weight[kinds]


def embedding_table(num_rows: int, width: int) -> nn.Embedding:
    """A table started as the released code starts them."""
    table = nn.Embedding(num_rows, width)
    with torch.no_grad():
        table.weight.normal_(std=EMBEDDING_STD)
    return table
