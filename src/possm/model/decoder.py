"""POSSM, top to bottom like the figure of the paper (arXiv 2506.05320, figure 2):

    spikes of a chunk -> tokens -> input cross-attention -> one latent
    latent, state     -> recurrent backbone              -> hidden state
    k hidden states   -> output cross-attention at any time asked -> behavior

There is one forward. Training passes the twenty chunks of a window, a stream passes one; the state that
comes out of a call goes into the next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from possm.batch import Batch, State
from possm.config import require
from possm.errors import ConfigError
from possm.model.backbones import BACKBONES, Backbone
from possm.model.contract import BehaviorConfig, DecoderConfig, DecoderModel
from possm.model.encoder import Encoder, UnitTables
from possm.model.readout import READOUTS, ReadoutAttention
from possm.model.rotary import Rotary
from possm.model.tokens import TokenEmbedding, embedding_table

__all__ = ["BehaviorConfig", "Possm", "PossmConfig"]


@dataclass(frozen=True, kw_only=True)
class PossmConfig(DecoderConfig):
    """Architecture. The defaults are the paper's small model; `PossmConfig.large()` is its large one."""

    backbone: str = "gru"
    """A name in BACKBONES."""
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

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.backbone in BACKBONES, "backbone", self.backbone, f"one of {', '.join(BACKBONES)}")
        for name in ("width", "hidden", "num_layers", "num_context", "head_width"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "0 or more, below 1")
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


class Possm(DecoderModel):
    """The decoder of the paper, for training and for streams.

    Without unit and session tables and the last linear map it has 405,696 parameters (small) or 7,657,216
    (large) with a GRU, the counts of the released code.

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
        pairs, longest = config.num_rotary_pairs, config.t_max_s
        self.token = TokenEmbedding(num_units, config.width)
        self.session = embedding_table(num_sessions, config.width)
        self.encoder = Encoder(
            config.width,
            head_width=config.head_width,
            rotary=Rotary(pairs, t_min_s=config.encoder_t_min_s, t_max_s=longest),
            latent_time_s=config.chunk_s / 2,
            dropout=config.dropout,
        )
        self.backbone: Backbone = BACKBONES[config.backbone](
            config.width, hidden=config.hidden, num_layers=config.num_layers, dropout=config.dropout
        )
        self.attention = ReadoutAttention(
            config.width,
            hidden=config.hidden,
            head_width=config.head_width,
            num_context=config.num_context,
            chunk_s=config.chunk_s,
            rotary=Rotary(pairs, t_min_s=config.readout_t_min_s, t_max_s=longest),
            dropout=config.dropout,
        )
        self.readouts = nn.ModuleDict()
        for name, behavior in config.behaviors.items():
            readout = READOUTS[behavior.readout](config.width, num_dimensions=behavior.num_dimensions)
            self.readouts[_module_name(name)] = readout

    def initial_state(self, num_sequences: int) -> State:
        """The state before the first chunk, for S sequences."""
        like = self.session.weight
        recent = like.new_zeros(num_sequences, self.config.num_context - 1, self.config.hidden)
        seen = torch.zeros(num_sequences, dtype=torch.int64, device=like.device)
        return State(self.backbone.initial_state(num_sequences), recent, seen)

    def tables(self) -> UnitTables:
        """What every unit answers; a stream makes it once, training once a batch."""
        return self.encoder.tables(self.token())

    def forward(
        self, batch: Batch, state: State | None = None, tables: UnitTables | None = None
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
        latents = self.encoder(batch.tokens, self.tables() if tables is None else tables)
        sequence = latents.view(num_sequences, batch.num_chunks, -1)
        hidden, backbone_state = self.backbone(sequence, state.backbone)
        history = torch.cat([state.recent, hidden], dim=1)
        contexts = self.attention.contexts(history)
        session = self.session(batch.session)
        outputs = {}
        for name, queries in batch.queries.items():
            readout = self.readouts[_module_name(name)]
            query = session + cast(nn.Embedding, readout.behavior).weight
            attended = self.attention(query, queries, contexts, num_chunks=batch.num_chunks, seen=state.seen)
            outputs[name] = readout(attended)
        return outputs, self._next_state(state, backbone_state, history, batch.num_chunks)

    def _next_state(
        self, state: State, backbone: tuple[Tensor, ...], history: Tensor, num_chunks: int
    ) -> State:
        kept = self.config.num_context - 1
        recent = history[:, history.shape[1] - kept :]
        return State(backbone, recent, (state.seen + num_chunks).clamp(max=kept))


def _module_name(behavior: str) -> str:
    """A name torch takes for a module: no dot, and not that of a method of ModuleDict."""
    return "@" + behavior.replace(".", "/")
