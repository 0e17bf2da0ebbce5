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
    """Unit and kind tables (paper section 3.1): one row a unit, time left to the rotary embedding."""

    def __init__(self, num_units: int, width: int) -> None:
        super().__init__()
        self.unit = nn.Embedding(num_units, width)
        self.kind = nn.Embedding(NUM_KINDS, width)
        for table in (self.unit, self.kind):
            nn.init.normal_(table.weight, std=EMBEDDING_STD)

    def forward(self) -> Tensor:
        """The token of every unit: (units, width)."""
        return self.unit.weight + self.kind.weight[0]


def embedding_table(num_rows: int, width: int) -> nn.Embedding:
    """A table started as the released code starts them."""
    table = nn.Embedding(num_rows, width)
    with torch.no_grad():
        table.weight.normal_(std=EMBEDDING_STD)
    return table
