"""Tokens with a value: a unit, what was measured of it, and how much (paper section 4.3, speech).

    token(u, kind, x) = unit_u + kind + x * slope(u, kind)    then a layer norm, keys and values, as any token

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
    """(K * U, head)."""
    slope_value: Tensor
    """(K * U, head)."""
    slope_square: Tensor
    """(K * U,): mean w^2."""
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
        slope: (K, U, width): what a value of 1 adds.
        norm: Of tokens.
        to_key_value: (width) -> (2 head), without bias.
    """
    a = offset - offset.mean(-1, keepdim=True)
    w = slope - slope.mean(-1, keepdim=True)
    keys, values = to_key_value(norm.weight * a).flatten(0, 1).chunk(2, dim=-1)
    slope_keys, slope_values = to_key_value(norm.weight * w).flatten(0, 1).chunk(2, dim=-1)
    bias_keys, bias_values = to_key_value(norm.bias.unsqueeze(0)).chunk(2, dim=-1)
    return ValueTables(
        key=keys,
        value=values,
        square=a.square().mean(-1).flatten() + norm.eps,
        cross=2 * (a * w).mean(-1).flatten(),
        slope_key=slope_keys,
        slope_value=slope_values,
        slope_square=w.square().mean(-1).flatten(),
        bias_key=bias_keys,
        bias_value=bias_values,
    )


class Slots(NamedTuple):
    """What the tokens of a layout answer to all queries, whatever their values; a stream keeps it."""

    unit: Tensor
    """(S, M), as `kind` and `time_s`: which layout it is of."""
    kind: Tensor
    time_s: Tensor
    rank: Tensor
    """(M,) int64: place in the chunk; past every chunk for what is no token."""
    square: Tensor
    """(S, 1, 1, M), as `cross` and `slope_square`: of the length of each token."""
    cross: Tensor
    slope_square: Tensor
    base: Tensor
    """(S, L, 1, M): score at value 0, before it is divided by the length."""
    slope: Tensor
    """(S, L, 1, M): of the score."""
    bias: Tensor
    """(S, L, 1, M): what the shift of the norm adds."""
    value: Tensor
    """(S, M, head), turned to the token's time, as the next two."""
    slope_value: Tensor
    bias_value: Tensor

    def fits(self, values: Values) -> bool:
        """Whether these tokens have this layout."""
        pairs = ((self.unit, values.unit), (self.kind, values.kind), (self.time_s, values.time_s))
        return all(torch.equal(mine, theirs) for mine, theirs in pairs)


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
        self.num_kinds = len(kinds)
        self.rotary = rotary

    def slots(self, query: Tensor, time_s: Tensor, tables: ValueTables, values: Values) -> Slots:
        """What can be said before the values are known.

        Args:
            query: (L, head), scaled.
            time_s: (L,) of the queries, since the start of the chunk.
            tables: Of the units.
            values: Tokens of S x C chunks.
        """
        kind = self.place[values.kind]
        row = kind * (len(tables.key) // self.num_kinds) + values.unit
        cos, sin = self.rotary(values.time_s)
        asking = rotate(query, *self.rotary(time_s)).T

        def asked(keys: Tensor) -> Tensor:
            return (rotate(keys, cos, sin) @ asking).transpose(1, 2).unsqueeze(2)

        def each(table: Tensor) -> Tensor:
            return functional.embedding(row, table.unsqueeze(1)).squeeze(2)[:, None, None]

        rank = torch.arange(row.shape[1], device=row.device)
        return Slots(
            unit=values.unit,
            kind=values.kind,
            time_s=values.time_s,
            rank=torch.where(values.unit > 0, rank, len(rank)).unsqueeze(1),
            square=each(tables.square),
            cross=each(tables.cross),
            slope_square=each(tables.slope_square),
            base=asked(functional.embedding(row, tables.key)),
            slope=asked(functional.embedding(row, tables.slope_key)),
            bias=asked(tables.bias_key.expand(*kind.shape, -1)),
            value=rotate(functional.embedding(row, tables.value), cos, sin),
            slope_value=rotate(functional.embedding(row, tables.slope_value), cos, sin),
            bias_value=rotate(tables.bias_value.expand(*kind.shape, -1), cos, sin),
        )

    def forward(self, slots: Slots, time_s: Tensor, values: Values) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            slots: Of `slots`, for these tokens.
            time_s: (L,) of the queries.
            values: Tokens of S x C chunks.

        Returns:
            (S * C, L, head), meaningless for a chunk without tokens, and (S * C, L, M) scores, about -1e38
            for what is no token.
        """
        x = values.value.to(slots.value.dtype).unsqueeze(1)  # (S, 1, C, M)
        length = (slots.square + x * (slots.cross + x * slots.slope_square)).rsqrt()
        score = (slots.base + x * slots.slope) * length + slots.bias  # (S, L, C, M)
        there = slots.rank < values.size.unsqueeze(2)
        score = score.masked_fill(~there.unsqueeze(1), torch.finfo(score.dtype).min)
        weight = score.softmax(-1)
        divided = weight * length
        sums = divided.flatten(1, 2) @ slots.value
        sums = sums + (divided * x).flatten(1, 2) @ slots.slope_value
        sums = sums + weight.flatten(1, 2) @ slots.bias_value
        cos, sin = self.rotary(-time_s)
        attended = rotate(sums.unflatten(1, weight.shape[1:3]), cos.unsqueeze(1), sin.unsqueeze(1))
        return attended.transpose(1, 2).flatten(0, 1), score.transpose(1, 2).flatten(0, 1)
