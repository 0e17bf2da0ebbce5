"""Tokens with a value: a unit, what was measured of it, and how much (paper section 4.3, speech).

    token(u, kind, x) = unit_u + kind + x * slope_kind        then a layer norm, keys and values, as any token

Every channel has a value in every bin, zeros included, so there are hundreds of these tokens in a chunk. But
a token is a straight line in x, and its norm only divides by the length of that line's point:

    norm(a + x w) = (a + x w) / sqrt(mean a^2 + 2 x mean aw + x^2 mean w^2 + eps)   (a, w less their means)

so keys and values, too, are lines in x divided by one number. All matrices are therefore met once per unit
(`ValueTables`), and a token costs a few multiplications; sums over tokens are products of whole tables.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from possm.batch import Values
from possm.model.rotary import Rotary, rotate


class ValueTables(NamedTuple):
    """Keys and values of units as lines in x: (offset + x * slope) / length(x) + bias. K kinds of U units."""

    key: Tensor
    """(K * U, head): offset of the key."""
    value: Tensor
    """(K * U, head): offset of the value."""
    square: Tensor
    """(K * U,): mean a^2 + eps."""
    cross: Tensor
    """(K * U,): 2 mean aw."""
    slope_key: Tensor
    """(K, head)."""
    slope_value: Tensor
    """(K, head)."""
    slope_square: Tensor
    """(K,): mean w^2."""
    bias_key: Tensor
    """(1, head): what the shift of the norm adds to every key."""
    bias_value: Tensor
    """(1, head)."""


def value_tables(
    offset: Tensor, slope: Tensor, *, norm: nn.LayerNorm, to_key_value: nn.Linear
) -> ValueTables:
    """Project every unit once.

    Args:
        offset: (K, U, width): unit plus kind.
        slope: (K, width): embedding of the value.
        norm: Of tokens.
        to_key_value: (width) -> (2 head), without bias.
    """
    a = offset - offset.mean(-1, keepdim=True)
    w = slope - slope.mean(-1, keepdim=True)
    keys, values = to_key_value(norm.weight * a).flatten(0, 1).chunk(2, dim=-1)
    slope_keys, slope_values = to_key_value(norm.weight * w).chunk(2, dim=-1)
    bias_keys, bias_values = to_key_value(norm.bias.unsqueeze(0)).chunk(2, dim=-1)
    return ValueTables(
        key=keys,
        value=values,
        square=a.square().mean(-1).flatten() + norm.eps,
        cross=2 * (a * w.unsqueeze(1)).mean(-1).flatten(),
        slope_key=slope_keys,
        slope_value=slope_values,
        slope_square=w.square().mean(-1),
        bias_key=bias_keys,
        bias_value=bias_values,
    )


class ValueAttention(nn.Module):
    """Softmax over the value tokens of a chunk, for several queries.

    Args:
        kinds: Rows of the kinds that tables are made of, in their order.
        rotary: Angles of the encoder.
    """

    place: Tensor

    def __init__(self, kinds: tuple[int, ...], rotary: Rotary) -> None:
        super().__init__()
        place = torch.zeros(max(kinds) + 1, dtype=torch.int64)
        place[list(kinds)] = torch.arange(len(kinds))
        self.register_buffer("place", place, persistent=False)
        self.rotary = rotary

    def forward(
        self, query: Tensor, time_s: Tensor, tables: ValueTables, values: Values
    ) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            query: (L, head), scaled.
            time_s: (L,) of the queries, since the start of the chunk.
            tables: Of the units.
            values: Tokens of S x C chunks.

        Returns:
            (S * C, L, head), meaningless for a chunk without tokens, and (S * C, L) the logarithm of the sum
            of exp(score), about -1e38 for a chunk without tokens.
        """
        score, length = self._scores(query, time_s, tables, values)
        there = values.unit.unsqueeze(1) > 0
        rank = torch.arange(values.unit.shape[1], device=there.device)
        there = there & (rank < values.size.unsqueeze(2))  # (S, C, M)
        score = score.masked_fill(~there.unsqueeze(1), torch.finfo(score.dtype).min)
        weight = score.softmax(-1)
        attended = self._sums(weight, length, tables, values)
        cos, sin = self.rotary(-time_s)
        attended = rotate(attended, cos.unsqueeze(1), sin.unsqueeze(1))  # (S, L, C, head)
        total = score.logsumexp(-1)
        return attended.transpose(1, 2).flatten(0, 1), total.transpose(1, 2).flatten(0, 1)

    def _scores(
        self, query: Tensor, time_s: Tensor, tables: ValueTables, values: Values
    ) -> tuple[Tensor, Tensor]:
        """(S, L, C, M) scores, and (S, 1, C, M) one over the length of each token."""
        kind, row = self._rows(values, tables)
        turned = rotate(query, *self.rotary(time_s)).T
        cos, sin = self.rotary(values.time_s)

        def asked(keys: Tensor) -> Tensor:
            return (rotate(keys, cos, sin) @ turned).transpose(1, 2).unsqueeze(2)  # (S, L, 1, M)

        x = values.value.to(tables.key.dtype).unsqueeze(1)  # (S, 1, C, M)

        def per_token(table: Tensor, index: Tensor) -> Tensor:
            return functional.embedding(index, table.unsqueeze(1)).squeeze(2)[:, None, None]

        square = per_token(tables.square, row) + x * per_token(tables.cross, row)
        length = (square + x.square() * per_token(tables.slope_square, kind)).rsqrt()
        line = asked(functional.embedding(row, tables.key)) + x * asked(tables.slope_key[kind])
        return line * length + asked(tables.bias_key.expand(*kind.shape, -1)), length

    def _sums(self, weight: Tensor, length: Tensor, tables: ValueTables, values: Values) -> Tensor:
        """Weighted sums of the turned values: (S, L, C, head)."""
        kind, row = self._rows(values, tables)
        cos, sin = self.rotary(values.time_s)
        shape = weight.shape
        divided = weight * length
        scaled = divided * values.value.to(weight.dtype).unsqueeze(1)

        def summed(weights: Tensor, table: Tensor) -> Tensor:
            return weights.flatten(1, 2) @ rotate(table, cos, sin)

        total = summed(divided, functional.embedding(row, tables.value))
        total = total + summed(scaled, tables.slope_value[kind])
        total = total + summed(weight, tables.bias_value.expand(*kind.shape, -1))
        return total.unflatten(1, shape[1:3])

    def _rows(self, values: Values, tables: ValueTables) -> tuple[Tensor, Tensor]:
        """(S, M) place of each token's kind, and its row in the tables of units."""
        kind = self.place[values.kind]
        return kind, kind * (len(tables.key) // len(tables.slope_key)) + values.unit
