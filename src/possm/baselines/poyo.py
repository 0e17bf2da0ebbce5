"""A causal POYO: a transformer over the spike tokens of the last second (Azabou et al., NeurIPS 2023).

    spikes of 1 s -> tokens -> cross-attention -> latents on a grid -> self-attention layers
    latents -> cross-attention at any time asked -> behavior

The last second is a view. It steps by one chunk, and of each view only the answers of its newest chunk are
kept: how the POSSM paper scores POYO. Every view is encoded anew; the state is the tokens of the chunks
before, nothing computed. What differs from the released POYO-1.3M (torch_brain 0.2.1):

- 4 latents per 125 ms instead of 16: a quarter of the time on a CPU (docs/baselines.md has the numbers);
- no START and END token per unit; instead a blank token at the start of every chunk that has been seen;
- no dropout of attention weights (0.2 there), dropout of branches 0.2 instead of 0.4;
- a token of count k weighs as k tokens.

In training a view also answers for chunks before its newest (`train_answer_ms`), as POYO trains on the
queries of the whole window; those answers may use spikes after their time. In evaluation and in a stream none
does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from possm.baselines.asking import Asked, query_spans, views_and_queries
from possm.baselines.attention import CrossAttention, SelfAttentionLayer, Spans, attend_spans, exact_angles
from possm.baselines.history import chunk_numbers, join, newest, no_tokens, with_blanks
from possm.batch import Batch, State, Tokens
from possm.config import require
from possm.errors import ConfigError
from possm.model.contract import DecoderConfig, DecoderModel
from possm.model.layers import FeedForward
from possm.model.readout import READOUTS
from possm.model.rotary import Rotary, rotate
from possm.model.tokens import EMBEDDING_STD, TokenEmbedding, embedding_table

ANSWERED = ("continuous", "category")
"""Readouts that answer at any time."""
VIEWS_AT_ONCE = 64
"""Views encoded in one go: bounds the memory of a long call, changes nothing else."""


@dataclass(frozen=True, kw_only=True)
class PoyoConfig(DecoderConfig):
    """Architecture. Sizes are those of POYO-1.3M but for the number of latents."""

    history_ms: int = 1000
    """What one answer looks back on, rounded to whole chunks."""
    width: int = 64
    """Size of tokens and latents."""
    depth: int = 6
    """Self-attention layers."""
    head_width: int = 64
    """Size of a head."""
    cross_heads: int = 2
    """Heads of both cross-attentions."""
    self_heads: int = 8
    """Heads of self-attention."""
    latent_step_ms: int = 125
    """Grid of the latents."""
    latents_per_step: int = 4
    """Latents at each point of the grid (POYO-1.3M: 16)."""
    train_answer_ms: int = 1000
    """How far back a view answers in training, at most history_ms; chunk_ms is what evaluation does."""
    num_rotary_pairs: int = 16
    """Rotating feature pairs in a head; the other features do not rotate."""
    t_min_s: float = 1e-4
    """Shortest rotary period."""
    t_max_s: float = 4.0
    """Longest rotary period."""
    dropout: float = 0.2
    """In the feed-forward blocks."""
    branch_dropout: float = 0.2
    """Of what every self-attention layer adds (POYO-1.3M: 0.4)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = ("history_ms", "width", "depth", "head_width", "cross_heads", "self_heads", "latent_step_ms")
        for name in (*sizes, "latents_per_step", "train_answer_ms"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        answer = f"at most history_ms, {self.history_ms}"
        require(self.train_answer_ms <= self.history_ms, "train_answer_ms", self.train_answer_ms, answer)
        steps = self.history_ms >= self.latent_step_ms
        require(steps, "latent_step_ms", self.latent_step_ms, f"at most history_ms, {self.history_ms}")
        for name in ("dropout", "branch_dropout"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "0 or more, below 1")
        pairs = self.num_rotary_pairs
        require(2 <= 2 * pairs <= self.head_width, "num_rotary_pairs", pairs, "1 to half of head_width")
        times = 0 < self.t_min_s <= self.t_max_s < math.inf
        require(times, "t_min_s", self.t_min_s, f"above 0, at most {self.t_max_s}")

    @property
    def history(self) -> int:
        """Chunks of a view."""
        return max(1, round(self.history_ms / self.chunk_ms))

    @property
    def train_stride(self) -> int:
        """Chunks a view answers for in training."""
        return min(self.history, max(1, round(self.train_answer_ms / self.chunk_ms)))


class Known(NamedTuple):
    """All tokens of a call, the remembered before the new ones, ready to be attended to."""

    key: Tensor
    """(heads, N, head), rotated."""
    value: Tensor
    """(heads, N, head), rotated."""
    weight: Tensor
    """(N,) logarithm of the count."""
    offsets: Tensor
    """(S * K + 1,): first token of every chunk, K = history - 1 + C of each sequence, and N."""


class Poyo(DecoderModel):
    """The decoder, for training and for streams.

    Args:
        config: Architecture.
        num_units: Rows of the unit vocabulary, the blank unit (row 0) included.
        num_sessions: Rows of the session vocabulary.
    """

    latent_time_s: Tensor

    def __init__(self, config: PoyoConfig, *, num_units: int, num_sessions: int) -> None:
        super().__init__()
        _check_behaviors(config)
        self.config, width, dropout = config, config.width, config.dropout
        self.token = TokenEmbedding(num_units, width)
        self.session = embedding_table(num_sessions, width)
        self.latent = nn.Parameter(torch.randn(config.latents_per_step, width) * EMBEDDING_STD)
        grid = max(1, round(config.history * config.chunk_ms / config.latent_step_ms))
        times = (torch.arange(grid) + 0.5 - grid) * config.latent_step_ms / 1000
        times = times.repeat_interleave(config.latents_per_step).float()  # as in Rotary
        self.register_buffer("latent_time_s", times.to(torch.get_default_dtype()), persistent=False)
        self.rotary = Rotary(config.num_rotary_pairs, t_min_s=config.t_min_s, t_max_s=config.t_max_s)
        cross = {"heads": config.cross_heads, "head_width": config.head_width}
        self.encode = CrossAttention(width, **cross)
        self.encode_forward = FeedForward(width, dropout=dropout)
        inner = {"heads": config.self_heads, "head_width": config.head_width}
        self.layers = nn.ModuleList(
            SelfAttentionLayer(width, **inner, dropout=dropout, branch_dropout=config.branch_dropout)
            for _ in range(config.depth)
        )
        self.decode = CrossAttention(width, **cross)
        self.decode_forward = FeedForward(width, dropout=dropout)
        self.readouts = nn.ModuleList(
            READOUTS[behavior.readout](width, num_dimensions=behavior.num_dimensions)
            for behavior in config.behaviors.values()
        )

    def initial_state(self, num_sequences: int) -> State:
        """Nothing seen. The state is the tokens of the newest history - 1 chunks, blanks included."""
        like = self.session.weight
        empty = no_tokens(num_sequences * (self.config.history - 1), like)
        seen = torch.zeros(num_sequences, dtype=torch.int64, device=like.device)
        return State(_arrays(empty), like.new_zeros(num_sequences, 0, 1), seen)

    def tables(self) -> Tensor:
        """Keys and values of every unit, not yet rotated: (units, 2, heads, head)."""
        return self.encode.offer(self.token()).to(self.rotary.omega)

    def forward(
        self, batch: Batch, state: State | None = None, tables: Tensor | None = None
    ) -> tuple[dict[str, Tensor], State]:
        """Decode S x C chunks; arguments and results as in `DecoderModel.forward`."""
        config, num_sequences = self.config, len(batch.session)
        state = self.initial_state(num_sequences) if state is None else state
        tokens = join(Tokens(*state.backbone), with_blanks(batch.tokens), num_sequences)
        known = self._known(tokens, num_sequences, self.tables() if tables is None else tables)
        clock = {"num_chunks": batch.num_chunks, "chunk_s": config.chunk_s}
        views, asked = views_and_queries(batch.queries, **clock, **self._stride())
        session = self.session(batch.session)
        who = {name: session + self._readouts[name].behavior.weight for name in asked}
        parts = {name: [session.new_zeros(0, config.width)] for name in asked}
        for first in range(0, len(views), VIEWS_AT_ONCE):
            last = min(first + VIEWS_AT_ONCE, len(views))
            offer = self._offer(self._latents(known, views[first:last], batch.num_chunks))
            for name, queries in asked.items():
                part, spans = query_spans(queries, first, last, width=len(self.latent_time_s))
                parts[name].append(self._answer(who[name], offer, part, spans))
        outputs = {
            name: self._readouts[name](torch.cat(parts[name])[queries.place])
            for name, queries in asked.items()
        }
        kept = newest(tokens, num_sequences, config.history - 1)
        return outputs, State(_arrays(kept), state.recent, state.seen)

    def _stride(self) -> dict[str, int]:
        """Evaluation is causal. Training cuts the sequence anew each time, so that a view learns to answer
        for its newest chunk, and with a past of any length, as at the start of a stream."""
        if not self.training:
            return {}
        stride = self.config.train_stride
        return {"stride": stride, "phase": int(torch.randint(stride, ()))}

    def _known(self, tokens: Tokens, num_sequences: int, tables: Tensor) -> Known:
        """Look every token up and rotate it to its time after the start of its sequence's oldest chunk."""
        num_chunks = (len(tokens.offsets) - 1) // num_sequences
        start_s = chunk_numbers(tokens, num_chunks).double() * self.config.chunk_s
        cos, sin = exact_angles(self.rotary, start_s + tokens.time_s.double())
        rows = functional.embedding(tokens.unit, tables.flatten(1)).unflatten(1, tables.shape[1:])
        turned = rotate(rows, cos[:, None, None], sin[:, None, None])
        key, value = turned.permute(1, 2, 0, 3)
        return Known(key, value, tokens.count.to(key).log(), tokens.offsets)

    def _latents(self, known: Known, views: Tensor, num_chunks: int) -> Tensor:
        """Encode views, named by the chunk (s * C + c) each ends with: (V * L, width)."""
        length, grid_s = self.config.history, self.latent_time_s
        sequence, chunk = views // num_chunks, views % num_chunks
        first = sequence * (length - 1 + num_chunks) + chunk
        edges = known.offsets[torch.stack([first, first + length])].T.tolist()
        number = len(grid_s)
        spans = Spans([(i * number, (i + 1) * number) for i in range(len(views))], [(a, b) for a, b in edges])
        end_s = (chunk + length).double() * self.config.chunk_s
        cos, sin = exact_angles(self.rotary, end_s.unsqueeze(1) + grid_s)
        cos, sin = cos.flatten(0, 1).unsqueeze(1), sin.flatten(0, 1).unsqueeze(1)
        latents = self.latent.repeat(number // len(self.latent), 1)
        asking = self.encode.ask(latents).to(cos).repeat(len(views), 1, 1)
        query = rotate(asking, cos, sin).transpose(0, 1)
        attended = attend_spans(query, known.key, known.value, known.weight, spans).transpose(0, 1)
        x = latents.repeat(len(views), 1) + self.encode.merge(rotate(attended, cos, -sin))
        x = self.encode_forward(x).unflatten(0, (len(views), number))
        cos, sin = exact_angles(self.rotary, grid_s)
        for layer in self.layers:
            x = layer(x, cos.unsqueeze(1), sin.unsqueeze(1))
        return x.flatten(0, 1)

    def _offer(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """What queries attend to: keys, rotated to their times before the end of the view, and values."""
        cos, sin = exact_angles(self.rotary, self.latent_time_s)
        views = len(latents) // len(cos)
        key, value = self.decode.offer(latents).to(cos).permute(1, 2, 0, 3)
        return rotate(key, cos.repeat(views, 1), sin.repeat(views, 1)), value

    def _answer(self, who: Tensor, offer: tuple[Tensor, Tensor], asked: Asked, spans: Spans) -> Tensor:
        """The queries of one behavior to some views: (Q, width)."""
        cos, sin = exact_angles(self.rotary, asked.time_s)
        asking = functional.embedding(asked.sequence, self.decode.ask(who).flatten(1))
        asking = asking.unflatten(1, (self.config.cross_heads, -1)).to(cos)
        query = rotate(asking, cos.unsqueeze(1), sin.unsqueeze(1)).transpose(0, 1)
        attended = attend_spans(query, *offer, None, spans).transpose(0, 1)
        x = functional.embedding(asked.sequence, who) + self.decode.merge(attended)
        return self.decode_forward(x)

    @property
    def _readouts(self) -> dict[str, Any]:
        return dict(zip(self.config.behaviors, self.readouts, strict=True))


def _check_behaviors(config: PoyoConfig) -> None:
    if not config.behaviors:
        raise ConfigError("the decoder has nothing to decode", fix="name a behavior")
    for name, behavior in config.behaviors.items():
        if behavior.readout not in ANSWERED:
            raise ConfigError(
                "POYO answers at given times only",
                about=name,
                got=behavior.readout,
                wanted=f"one of {', '.join(ANSWERED)}",
                fix="choose another decoder",
            )


def _arrays(tokens: Tokens) -> tuple[Tensor, ...]:
    return tokens.unit, tokens.time_s, tokens.count, tokens.offsets
