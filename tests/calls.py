"""One batch cut into many calls, for decoders that must answer alike however a recording is cut."""

from __future__ import annotations

from dataclasses import replace

import torch
from safetensors.torch import load, save

from possm.batch import Batch, Queries, State, Tokens
from toys import batch_of, random_sample

BEHAVIORS = {"cursor.pos": 37.0, "hand.vel": 100.0}
"""Behavior -> queries a second; 37 Hz leaves some chunks with one query and some with two."""


def two_sequences(*, num_chunks: int, units: int, tokens: int, dtype: torch.dtype, seed: int = 0) -> Batch:
    """Two sequences of unequal numbers of tokens, of two sessions, with chunks that are empty."""
    sizes = {"num_chunks": num_chunks, "units": units, "behaviors": BEHAVIORS}
    one = random_sample(**sizes, tokens=tokens, seed=2 * seed, empty=(0, 4, 5))
    other = random_sample(**sizes, tokens=tokens // 2, seed=2 * seed + 1, empty=(num_chunks - 1,))
    return batch_of(one, other, dtype=dtype)


def cut(batch: Batch, first: int, last: int) -> tuple[Batch, dict[str, torch.Tensor]]:
    """Chunks `first` to `last` of every sequence; and which rows of the answers these are."""
    num_sequences, num_chunks = len(batch.session), batch.num_chunks
    groups = [s * num_chunks + c for s in range(num_sequences) for c in range(first, last)]
    offsets = batch.tokens.offsets
    rows = torch.cat([torch.arange(int(offsets[g]), int(offsets[g + 1])) for g in groups])
    sizes = offsets.diff()[torch.tensor(groups)]
    ends = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    tokens = batch.tokens
    part = Tokens(tokens.unit[rows], tokens.time_s[rows], tokens.count[rows], ends)
    queries, places = {}, {}
    for name, asked in batch.queries.items():
        sequence, chunk = asked.chunk // num_chunks, asked.chunk % num_chunks
        inside = (chunk >= first) & (chunk < last)
        moved = sequence * (last - first) + chunk - first
        queries[name], places[name] = Queries(moved[inside], asked.time_s[inside]), inside
    return replace(batch, tokens=part, num_chunks=last - first, queries=queries), places


def saved_and_loaded(state: State) -> State:
    """A state that has been in a file."""
    arrays = {f"backbone.{i}": array for i, array in enumerate(state.backbone)}
    arrays |= {"recent": state.recent, "seen": state.seen}
    arrays = load(save({name: array.contiguous() for name, array in arrays.items()}))
    backbone = tuple(arrays[f"backbone.{i}"] for i in range(len(state.backbone)))
    return State(backbone, arrays["recent"], arrays["seen"])


@torch.inference_mode()
def in_calls(model, batch: Batch, size: int) -> tuple[dict[str, torch.Tensor], State]:
    """The answers of calls of `size` chunks each, the state saved and loaded in between."""
    edges = [*range(0, batch.num_chunks, size), batch.num_chunks]
    parts: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {name: [] for name in batch.queries}
    state, tables = None, model.tables()
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        part, places = cut(batch, first, last)
        got, state = model(part, None if state is None else saved_and_loaded(state), tables)
        for name, values in got.items():
            parts[name].append((places[name], values))
    answers = {}
    for name, pieces in parts.items():
        answers[name] = torch.full((len(pieces[0][0]), pieces[0][1].shape[1]), torch.nan).to(pieces[0][1])
        for place, values in pieces:
            answers[name][place] = values
    return answers, state
