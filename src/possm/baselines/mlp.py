"""A multi-layer perceptron on the counts of the last second."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from possm.baselines.base import CountsDecoder
from possm.baselines.counts import Columns
from possm.baselines.readin import Readin
from possm.config import require
from possm.model.contract import DecoderConfig


@dataclass(frozen=True, kw_only=True)
class MlpConfig(DecoderConfig):
    """Architecture."""

    history_ms: int = 1000
    """How far back it sees; whole chunks."""
    hidden: int = 256
    """Size of every hidden layer."""
    num_layers: int = 2
    """Hidden layers."""
    input_dropout: float = 0.2
    """Of z-scored counts: a dropped count is the unit's mean."""
    dropout: float = 0.2
    """After every hidden layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("history_ms", "hidden", "num_layers"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("input_dropout", "dropout"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "0 or more, below 1")

    @property
    def history(self) -> int:
        """Chunks it sees, the newest included."""
        return max(1, round(self.history_ms / self.chunk_ms))


class MlpDecoder(CountsDecoder):
    """Counts of the last second -> hidden layers (GELU, norm, dropout) -> value and slope.

    Args:
        config: Architecture.
        num_units: Rows of the unit vocabulary, the blank unit (row 0) included.
        num_sessions: Rows of the session vocabulary.
    """

    def __init__(self, config: MlpConfig, *, num_units: int, num_sessions: int) -> None:
        super().__init__(config, num_units=num_units, num_sessions=num_sessions)
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.readin = Readin(num_units, num_sessions, config.hidden, history=config.history)
        layers: list[nn.Module] = []
        for number in range(config.num_layers):
            if number:
                layers.append(nn.Linear(config.hidden, config.hidden))
            layers += [nn.LayerNorm(config.hidden), nn.GELU(), nn.Dropout(config.dropout)]
        self.layers = nn.Sequential(*layers)
        self.readout = nn.Linear(config.hidden, 2 * self.num_outputs)

    def initial_memory(self, num_sequences: int, columns: Columns) -> tuple[Tensor, ...]:
        """(S, history - 1, U) counts."""
        return (self.readin.initial_state(num_sequences, columns),)

    def decode(
        self, counts: Tensor, session: Tensor, columns: Columns, memory: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As in `CountsDecoder.decode`."""
        read, after = self.readin.read(self.input_dropout(counts), memory[0], session, columns)
        return self.readout(self.layers(read)), (after,)
