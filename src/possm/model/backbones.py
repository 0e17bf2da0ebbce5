"""Recurrent backbones: (sequence, state) -> (sequence, state), the same call for a window and for one step.

A new backbone is one class that keeps the contract in recurrent.py, and one line in BACKBONES.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from possm.config import require
from possm.model.mamba import Mamba
from possm.model.recurrent import Backbone, BackboneState
from possm.model.s4d import S4d

__all__ = ["BACKBONES", "OFFLINE", "Backbone", "BackboneState", "BiGru", "Gru"]


class Gru(Backbone):
    """torch's GRU: unidirectional, dropout between layers, zero initial state (paper appendix B.2)."""

    def __init__(self, width: int, *, hidden: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        between = dropout if num_layers > 1 else 0.0
        self.gru = nn.GRU(width, hidden, num_layers, batch_first=True, dropout=between)

    def initial_state(self, num_sequences: int) -> BackboneState:
        """Zeros: one tensor (layers, S, hidden)."""
        like = next(self.gru.parameters())
        return (like.new_zeros(self.gru.num_layers, num_sequences, self.gru.hidden_size),)

    def forward(self, sequence: Tensor, state: BackboneState) -> tuple[Tensor, BackboneState]:
        """(S, C, width), state -> (S, C, hidden), state."""
        hidden, last = self.gru(sequence, state[0])
        return hidden, (last,)


class BiGru(Backbone):
    """torch's GRU in both directions, for sequences that are over before they are decoded (paper appendix).

    Half of the hidden state is of each direction. It keeps nothing from call to call.
    """

    def __init__(self, width: int, *, hidden: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        require(hidden % 2 == 0, "hidden", hidden, "even, for half of it is of each direction")
        between = dropout if num_layers > 1 else 0.0
        self.gru = nn.GRU(
            width, hidden // 2, num_layers, batch_first=True, dropout=between, bidirectional=True
        )

    def initial_state(self, num_sequences: int) -> BackboneState:
        """Nothing."""
        return ()

    def forward(
        self, sequence: Tensor, state: BackboneState, lengths: Tensor | None = None
    ) -> tuple[Tensor, BackboneState]:
        """(S, C, width), (), (S,) chunks before the padding -> (S, C, hidden), ()."""
        if lengths is None:
            return self.gru(sequence)[0], ()
        packed = nn.utils.rnn.pack_padded_sequence(
            sequence, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
        )
        hidden, _ = nn.utils.rnn.pad_packed_sequence(
            self.gru(packed)[0], batch_first=True, total_length=sequence.shape[1]
        )
        return hidden, ()


BACKBONES: dict[str, Callable[..., Backbone]] = {"gru": Gru, "s4d": S4d, "mamba": Mamba}
"""Backbones by the name a config gives; each takes (width, *, hidden, num_layers, dropout)."""

OFFLINE: dict[str, Callable[..., BiGru]] = {"bigru": BiGru}
"""Those that look ahead, and so decode no stream; their call takes lengths, too."""
