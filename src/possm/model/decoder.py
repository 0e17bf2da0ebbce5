"""POSSM, top to bottom like the figure of the paper (arXiv 2506.05320, figure 2):

    spikes of a chunk -> tokens -> input cross-attention -> one latent (or several, `latents`)
    latent, state     -> recurrent backbone              -> hidden state
    k hidden states   -> output cross-attention at any time asked -> behavior
                         (of a sequence: a strided convolution over hidden states)

There is one forward. Training passes the twenty chunks of a window, a stream passes one; the state that
comes out of a call goes into the next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from possm.batch import KINDS, Batch, State
from possm.config import require
from possm.errors import ConfigError
from possm.model.backbones import BACKBONES, OFFLINE, Backbone, BiGru
from possm.model.contract import BehaviorConfig, DecoderConfig, DecoderModel
from possm.model.encoder import Encoder, UnitTables
from possm.model.latents import LatentEncoder, LatentTables
from possm.model.readout import READOUTS, ReadoutAttention, SequenceReadout
from possm.model.rotary import Rotary
from possm.model.tokens import BLANK, TokenEmbedding, embedding_table

__all__ = ["BehaviorConfig", "Possm", "PossmConfig"]


@dataclass(frozen=True, kw_only=True)
class PossmConfig(DecoderConfig):
    """Architecture. The defaults are the paper's small model; `PossmConfig.large()` is its large one."""

    backbone: str = "gru"
    """A name in BACKBONES, or in OFFLINE for a decoder that reads a whole sequence before it answers."""
    width: int = 64
    """Size of unit embeddings, tokens and latents (paper: 64 or 256)."""
    hidden: int = 256
    """Size of the hidden state (paper: 256 or 512)."""
    num_layers: int = 1
    """Layers of the backbone (paper: 1 or 4)."""
    num_context: int = 3
    """k, the hidden states an output may look at (paper: 3)."""
    head_width: int = 64
    """Size of the one attention head."""
    num_rotary_pairs: int = 16
    """Rotating feature pairs in a head; the other features do not rotate."""
    encoder_t_min_s: float = 1e-4
    """Shortest rotary period of the encoder."""
    readout_t_min_s: float = 1e-2
    """Shortest rotary period of the readout."""
    t_max_s: float = 10.0
    """Longest rotary period of both."""
    dropout: float = 0.2
    """In the feed-forward blocks and between backbone layers."""
    rest: float = 10.0
    """Weight of a token at rest in every chunk, by which a latent tells how many spikes there were (see
    `Encoder`); 0 has none, as the paper's. Only where spikes are all that is read: there is a value in every
    bin."""
    inputs: tuple[str, ...] = ("spikes",)
    """What it reads, names in KINDS: spikes; counts or power, with a value in every bin (paper, speech)."""
    num_latents: int = 1
    """Latents per chunk, side by side in the input of the backbone (paper: 1; speech 4)."""
    latent_layers: int = 0
    """Layers of self-attention among the latents of a chunk (paper: none; speech 1)."""
    latent_heads: int = 2
    """Heads of these (paper, speech: 2)."""
    day_layer: bool = False
    """Whether every session has a linear map of its own between encoder and backbone; it starts as the
    identity."""
    sequence_kernel: int = 14
    """Hidden states that an answer of a sequence sees."""
    sequence_stride: int = 4
    """Chunks from one answer of a sequence to the next."""

    def __post_init__(self) -> None:
        super().__post_init__()
        backbones = ", ".join([*BACKBONES, *OFFLINE])
        require(
            self.backbone in BACKBONES or self.looks_ahead, "backbone", self.backbone, f"one of {backbones}"
        )
        for name in ("width", "hidden", "num_layers", "num_context", "head_width"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "0 or more, below 1")
        require(0 <= self.rest < math.inf, "rest", self.rest, "finite, 0 or more")
        check_inputs(self.inputs)
        for name in ("num_latents", "sequence_kernel", "sequence_stride"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(self.latent_layers >= 0, "latent_layers", self.latent_layers, "0 or more")
        divides = self.latent_heads >= 1 and self.width % self.latent_heads == 0
        require(
            divides or not self.latent_layers,
            "latent_heads",
            self.latent_heads,
            f"a divisor of the width, {self.width}",
        )
        pairs = self.num_rotary_pairs
        require(2 <= 2 * pairs <= self.head_width, "num_rotary_pairs", pairs, "1 to half of head_width")
        for name in ("encoder_t_min_s", "readout_t_min_s"):
            shortest = getattr(self, name)
            require(
                0 < shortest <= self.t_max_s < math.inf, name, shortest, f"above 0, at most {self.t_max_s}"
            )

    @classmethod
    def large(cls, **changes: object) -> PossmConfig:
        """The paper's large model (o-POSSM): 256-wide tokens, four layers of 512."""
        return cls(**{"width": 256, "hidden": 512, "num_layers": 4, **changes})  # type: ignore[arg-type]

    @property
    def frame_chunks(self) -> int:
        """Chunks from one answer of a sequence to the next."""
        return self.sequence_stride

    @property
    def looks_ahead(self) -> bool:
        """Whether it reads a whole sequence before it answers."""
        return self.backbone in OFFLINE

    @property
    def strictly_causal(self) -> bool:
        """Whether an output at t uses spikes before t only."""
        return super().strictly_causal and not self.looks_ahead

    @property
    def kept(self) -> int:
        """Hidden states that are remembered from call to call, for readouts that look back."""
        kinds = {behavior.readout for behavior in self.behaviors.values()}
        looked_at = [self.sequence_kernel] * ("sequence" in kinds)
        return max(looked_at + [self.num_context] * (kinds != {"sequence"})) - 1

    @property
    def plain(self) -> bool:
        """Whether the encoder is the small model's: spikes only, one latent, nothing after it."""
        return self.inputs == ("spikes",) and self.num_latents == 1 and not self.latent_layers


def check_inputs(inputs: tuple[str, ...]) -> None:
    """Raise a ConfigError unless these are different names in KINDS."""
    known = f"one or more of {', '.join(KINDS)}"
    require(bool(inputs) and set(inputs) <= set(KINDS), "inputs", inputs, known)
    require(len(set(inputs)) == len(inputs), "inputs", inputs, "each once")


def value_kinds(inputs: tuple[str, ...]) -> tuple[int, ...]:
    """Numbers of those kinds whose tokens have a value."""
    return tuple(KINDS[name] for name in inputs if KINDS[name])


class Possm(DecoderModel):
    """The decoder of the paper, for training and for streams.

    Without unit and session tables and the last linear map it has 405,696 parameters (small) or 7,657,216
    (large) with a GRU, the counts of the released code; and one more with `rest`.

    Args:
        config: Architecture.
        num_units: Rows of the unit vocabulary, the blank unit (row 0) included.
        num_sessions: Rows of the session vocabulary.
    """

    def __init__(self, config: PossmConfig, *, num_units: int, num_sessions: int) -> None:
        super().__init__()
        slashed = [name for name in config.behaviors if "/" in name]
        require(not slashed, "behavior names", slashed, "names without a slash")
        if not config.behaviors:
            raise ConfigError("the decoder has nothing to decode", fix="name a behavior")
        self.config = config
        self.token = TokenEmbedding(num_units, config.width, kinds=value_kinds(config.inputs))
        self.session = embedding_table(num_sessions, config.width)
        self.encoder = _encoder(config)
        if config.day_layer:
            self.day = DayLayer(num_sessions, config.num_latents * config.width)
        self.backbone: Backbone = {**BACKBONES, **OFFLINE}[config.backbone](
            config.num_latents * config.width,
            hidden=config.hidden,
            num_layers=config.num_layers,
            dropout=config.dropout,
        )
        if any(behavior.readout != "sequence" for behavior in config.behaviors.values()):
            self.attention = _attention(config)
        self.readouts = nn.ModuleDict()
        for name, behavior in config.behaviors.items():
            self.readouts[_module_name(name)] = _readout(config, behavior)

    def see(self, batch: Batch) -> None:
        """Make latents vary over the chunks of a first batch (`TokenEmbedding.center`, `Encoder.spread`)."""
        self.token.center(batch.tokens, batch.values)
        tables = self.tables()
        if isinstance(tables, LatentTables):
            cast(LatentEncoder, self.encoder).spread_all(batch.tokens, batch.values, tables)
        else:
            self.encoder.spread(batch.tokens, tables)

    def initial_state(self, num_sequences: int) -> State:
        """The state before the first chunk, for S sequences."""
        like = self.session.weight
        recent = like.new_zeros(num_sequences, self.config.kept, self.config.hidden)
        seen = torch.zeros(num_sequences, dtype=torch.int64, device=like.device)
        return State(self.backbone.initial_state(num_sequences), recent, seen)

    def tables(self) -> UnitTables | LatentTables:
        """What every unit answers; a stream makes it once, training once a batch."""
        if isinstance(self.encoder, LatentEncoder):
            return self.encoder.latent_tables(self.token(), self.token.lines())
        return self.encoder.tables(self.token())

    def forward(
        self, batch: Batch, state: State | None = None, tables: UnitTables | LatentTables | None = None
    ) -> tuple[dict[str, Tensor], State]:
        """Decode S x C chunks.

        Args:
            batch: Tokens and queries, as tensors on the decoder's device.
            state: What the previous call returned; None at the start of the sequences.
            tables: `self.tables()`, where the caller keeps it; None makes it.

        Returns:
            Behavior -> (Q, D) answers in scaled units, and the state after the last chunk.
        """
        num_sequences = len(batch.session)
        state = self.initial_state(num_sequences) if state is None else state
        if tables is None:
            batch, tables = self._tables_for(batch)
        sequence = self.encode(batch, tables)
        if self.config.day_layer:
            sequence = self.day(sequence, batch.session)
        hidden, backbone_state = self._recur(sequence, state.backbone, batch)
        history = torch.cat([state.recent, hidden], dim=1)
        contexts = self._contexts(history)
        session = self.session(batch.session)
        outputs = {}
        for name, queries in batch.queries.items():
            readout = self.readouts[_module_name(name)]
            if isinstance(readout, SequenceReadout):
                outputs[name] = readout(history, queries, num_chunks=batch.num_chunks, seen=state.seen)
                continue
            assert contexts is not None
            query = session + cast(nn.Embedding, readout.behavior).weight
            attended = self.attention(query, queries, contexts, num_chunks=batch.num_chunks, seen=state.seen)
            outputs[name] = readout(attended)
        return outputs, self._next_state(state, backbone_state, history, batch.num_chunks)

    def encode(self, batch: Batch, tables: UnitTables | LatentTables) -> Tensor:
        """The latents of every chunk, side by side: (S, C, num_latents * width)."""
        if isinstance(tables, LatentTables):
            latents = cast(LatentEncoder, self.encoder).read(batch.tokens, batch.values, tables)
        else:
            latents = self.encoder(batch.tokens, tables)
        return latents.view(len(batch.session), batch.num_chunks, -1)

    def _tables_for(self, batch: Batch) -> tuple[Batch, UnitTables | LatentTables]:
        """The tables a batch needs. In training those of its own units, counted anew: of 26,000 units a batch
        has a thousand, and the others would cost most of a step. Elsewhere all, so that the rounding of an
        answer does not depend on which other units fire."""
        if not self.training or isinstance(self.encoder, LatentEncoder):
            return batch, self.tables()
        unit = batch.tokens.unit
        here = torch.zeros(self.token.unit.num_embeddings, dtype=torch.bool, device=unit.device)
        here[unit] = True
        here[BLANK] = True
        tables = self.encoder.tables(self.token(here.nonzero().squeeze(1)))
        tokens = replace(batch.tokens, unit=(here.cumsum(0) - 1)[unit])
        return replace(batch, tokens=tokens), tables

    def _recur(
        self, sequence: Tensor, state: tuple[Tensor, ...], batch: Batch
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        if isinstance(self.backbone, BiGru):
            return self.backbone(sequence, state, batch.lengths)
        return self.backbone(sequence, state)

    def _contexts(self, history: Tensor) -> Tensor | None:
        """What attention looks at, of the newest hidden states; None where nothing asks through it."""
        if not hasattr(self, "attention"):
            return None
        return self.attention.contexts(history[:, self.config.kept - (self.config.num_context - 1) :])

    def _next_state(
        self, state: State, backbone: tuple[Tensor, ...], history: Tensor, num_chunks: int
    ) -> State:
        kept = self.config.kept
        recent = history[:, history.shape[1] - kept :]
        return State(backbone, recent, (state.seen + num_chunks).clamp(max=kept))


class DayLayer(nn.Module):
    """A linear map for every session, which starts as the identity.

    Args:
        num_sessions: Rows of the session vocabulary.
        width: Of what it maps.
    """

    def __init__(self, num_sessions: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Embedding(num_sessions, width * width)
        self.bias = nn.Embedding(num_sessions, width)
        nn.init.zeros_(self.weight.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, sequence: Tensor, session: Tensor) -> Tensor:
        """(S, C, width), (S,) -> (S, C, width)."""
        matrix = self.weight(session).unflatten(1, (self.width, self.width))
        return sequence + torch.baddbmm(self.bias(session).unsqueeze(1), sequence, matrix)


def _attention(config: PossmConfig) -> ReadoutAttention:
    return ReadoutAttention(
        config.width,
        hidden=config.hidden,
        head_width=config.head_width,
        num_context=config.num_context,
        chunk_s=config.chunk_s,
        rotary=Rotary(config.num_rotary_pairs, t_min_s=config.readout_t_min_s, t_max_s=config.t_max_s),
        dropout=config.dropout,
    )


def _readout(config: PossmConfig, behavior: BehaviorConfig) -> nn.Module:
    size = behavior.num_dimensions
    if behavior.readout == "sequence":
        kernel, dropout = config.sequence_kernel, config.dropout
        return SequenceReadout(config.hidden, num_dimensions=size, kernel=kernel, dropout=dropout)
    return READOUTS[behavior.readout](config.width, num_dimensions=size)


def _encoder(config: PossmConfig) -> Encoder:
    rotary = Rotary(config.num_rotary_pairs, t_min_s=config.encoder_t_min_s, t_max_s=config.t_max_s)
    sizes = {
        "head_width": config.head_width,
        "rotary": rotary,
        "dropout": config.dropout,
        "rest": config.rest if config.inputs == ("spikes",) else 0.0,
    }
    if config.plain:
        return Encoder(config.width, latent_time_s=config.chunk_s / 2, **sizes)  # type: ignore[arg-type]
    return LatentEncoder(
        config.width,
        num_latents=config.num_latents,
        num_layers=config.latent_layers,
        num_heads=config.latent_heads,
        kinds=value_kinds(config.inputs),
        chunk_s=config.chunk_s,
        **sizes,  # type: ignore[arg-type]
    )


def _module_name(behavior: str) -> str:
    """A name torch takes for a module: no dot, and not that of a method of ModuleDict."""
    return "@" + behavior.replace(".", "/")
