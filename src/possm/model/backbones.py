"""Recurrent backbones: (sequence, state) -> (sequence, state), the same call for a window and for one step.

A new backbone is one class that keeps the contract in recurrent.py, and one line in BACKBONES.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from possm.model.mamba import Mamba
from possm.model.recurrent import Backbone, BackboneState
from possm.model.s4d import S4d

__all__ = ["BACKBONES", "Backbone", "BackboneState", "Gru"]


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


BACKBONES: dict[str, Callable[..., Backbone]] = {"gru": Gru, "s4d": S4d, "mamba": Mamba}
"""Backbones by the name a config gives; each takes (width, *, hidden, num_layers, dropout)."""
