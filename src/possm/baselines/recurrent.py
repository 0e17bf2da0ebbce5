"""GRU, S4D and Mamba on binned counts: POSSM's backbones without its tokens and attention."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from possm.baselines.base import CountsDecoder
from possm.baselines.counts import Columns
from possm.baselines.readin import Readin
from possm.config import require
from possm.model.backbones import BACKBONES, Backbone
from possm.model.contract import DecoderConfig


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig(DecoderConfig):
    """Architecture. `possm.training.presets` holds settings tuned for each backbone."""

    backbone: str = "gru"
    """A name in BACKBONES."""
    width: int = 64
    """Size of what the counts are mapped to, per session."""
    hidden: int = 256
    """Size of the hidden state."""
    num_layers: int = 1
    """Layers of the backbone."""
    input_dropout: float = 0.2
    """Of z-scored counts: a dropped unit fires at its mean."""
    dropout: float = 0.2
    """Before the backbone, between its layers, and before the readout."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.backbone in BACKBONES, "backbone", self.backbone, f"one of {', '.join(BACKBONES)}")
        for name in ("width", "hidden", "num_layers"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("input_dropout", "dropout"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "0 or more, below 1")


class RecurrentDecoder(CountsDecoder):
    """Counts -> linear map of the session -> backbone -> norm -> value and slope.

    Args:
        config: Architecture.
        num_units: Rows of the unit vocabulary, the blank unit (row 0) included.
        num_sessions: Rows of the session vocabulary.
    """

    def __init__(self, config: RecurrentConfig, *, num_units: int, num_sessions: int) -> None:
        super().__init__(config, num_units=num_units, num_sessions=num_sessions)
        self.readin = Readin(num_units, num_sessions, config.width)
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.backbone: Backbone = BACKBONES[config.backbone](
            config.width, hidden=config.hidden, num_layers=config.num_layers, dropout=config.dropout
        )
        self.norm = nn.LayerNorm(config.hidden)
        self.readout = nn.Linear(config.hidden, 2 * self.num_outputs)

    def initial_memory(self, num_sequences: int, columns: Columns) -> tuple[Tensor, ...]:
        """The backbone's."""
        return self.backbone.initial_state(num_sequences)

    def decode(
        self, counts: Tensor, session: Tensor, columns: Columns, memory: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As in `CountsDecoder.decode`."""
        before = self.readin.initial_state(len(session), columns)
        latents, _ = self.readin.read(self.input_dropout(counts), before, session, columns)
        hidden, memory = self.backbone(self.dropout(latents), memory)
        return self.readout(self.dropout(self.norm(hidden))), memory
