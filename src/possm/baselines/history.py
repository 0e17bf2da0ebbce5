"""Ragged history: the tokens of the chunks before a call, joined with those of the call.

A decoder that looks back over raw tokens keeps those of its last chunks as its state. Tokens stay ragged, as
everywhere (`possm.batch.Tokens`): chunk c of sequence s is group s * C + c.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from possm.batch import Tokens
from possm.model.tokens import BLANK


def no_tokens(num_groups: int, like: Tensor) -> Tokens:
    """Chunks of which nothing is known, not even that they were silent."""
    rows = torch.zeros(0, dtype=torch.int64, device=like.device)
    offsets = torch.zeros(num_groups + 1, dtype=torch.int64, device=like.device)
    return Tokens(rows, like.new_zeros(0), like.new_zeros(0), offsets)


def with_blanks(tokens: Tokens) -> Tokens:
    """The same tokens, a blank one added at the start of every chunk.

    So there is always something to attend to, and a chunk that was silent differs from one that was never
    seen.
    """
    sizes = tokens.offsets.diff()
    group = torch.arange(len(sizes), device=sizes.device)
    blank = tokens.offsets[:-1] + group
    total = len(tokens.unit)
    place = torch.arange(total, device=sizes.device) + torch.repeat_interleave(
        group + 1, sizes, output_size=total
    )
    unit = tokens.unit.new_full((total + len(sizes),), BLANK)
    time_s, count = tokens.time_s.new_zeros(len(unit)), tokens.count.new_ones(len(unit))
    unit[place], time_s[place], count[place] = tokens.unit, tokens.time_s, tokens.count
    return Tokens(unit, time_s, count, torch.cat([blank, blank.new_tensor([len(unit)])]))


def join(past: Tokens, present: Tokens, num_sequences: int) -> Tokens:
    """The chunks of every sequence: first the past ones, then the present ones."""
    if num_sequences == 1:
        return _chain(past, present)
    before, now = (len(tokens.offsets) - 1 for tokens in (past, present))
    first = torch.arange(before, device=past.offsets.device).view(num_sequences, -1)
    second = before + torch.arange(now, device=past.offsets.device).view(num_sequences, -1)
    return pick(_chain(past, present), torch.cat([first, second], dim=1).flatten())


def newest(tokens: Tokens, num_sequences: int, keep: int) -> Tokens:
    """The last `keep` chunks of every sequence."""
    groups = torch.arange(len(tokens.offsets) - 1, device=tokens.offsets.device).view(num_sequences, -1)
    return pick(tokens, groups[:, groups.shape[1] - keep :].flatten())


def pick(tokens: Tokens, groups: Tensor) -> Tokens:
    """Some chunks, in this order."""
    sizes = tokens.offsets.diff()[groups]
    offsets = functional.pad(sizes.cumsum(0), (1, 0))
    shift = torch.repeat_interleave(tokens.offsets[groups] - offsets[:-1], sizes)
    rows = torch.arange(len(shift), device=shift.device) + shift
    return Tokens(tokens.unit[rows], tokens.time_s[rows], tokens.count[rows], offsets)


def chunk_numbers(tokens: Tokens, num_chunks: int) -> Tensor:
    """(N,) int64: the chunk of every token, counted from the first of its sequence."""
    sizes = tokens.offsets.diff()
    number = torch.arange(len(sizes), device=sizes.device) % num_chunks
    return torch.repeat_interleave(number, sizes, output_size=len(tokens.unit))


def _chain(one: Tokens, other: Tokens) -> Tokens:
    return Tokens(
        torch.cat([one.unit, other.unit]),
        torch.cat([one.time_s, other.time_s]),
        torch.cat([one.count, other.count]),
        torch.cat([one.offsets[:-1], other.offsets + len(one.unit)]),
    )
