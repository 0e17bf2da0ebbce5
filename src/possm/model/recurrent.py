"""What backbones share: the contract, and the residual stack under S4D and Mamba.

The contract (backbones.py lists who keeps it):

    backbone(sequence (S, C, width), state) -> (hidden (S, C, hidden), state)
    backbone.initial_state(S) -> state        a tuple of tensors whose first or second axis is S

Feeding C chunks at once or one by one, the state carried over, gives the same hidden states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

BackboneState = tuple[Tensor, ...]


class Backbone(nn.Module):
    """The contract above, for type checkers."""

    def initial_state(self, num_sequences: int) -> BackboneState:
        """The state before the first chunk, for S sequences."""
        raise NotImplementedError

    def forward(self, sequence: Tensor, state: BackboneState) -> tuple[Tensor, BackboneState]:
        """(S, C, width), state -> (S, C, hidden), state."""
        raise NotImplementedError


class Mixer(nn.Module):
    """One layer's way to mix over time; it works time first, so that a step is one contiguous slice."""

    undecayed: ClassVar[tuple[str, ...]] = ()
    """Parameters that weight decay should leave: rates and their logarithms, where 0 is no neutral value."""

    def initial_state(self, num_sequences: int) -> BackboneState:
        """Tensors whose first axis is S."""
        raise NotImplementedError

    def forward(self, sequence: Tensor, state: BackboneState) -> tuple[Tensor, BackboneState]:
        """(C, S, hidden), state -> (C, S, hidden), state."""
        raise NotImplementedError


class ResidualBackbone(Backbone):
    """A linear map in, then layers of x + dropout(mixer(norm(x))).

    Pre-norm as in the S4 and Mamba code; their last norm is the one with which the readout of the decoder
    begins. The state is the states of the layers, one after the other.
    """

    def __init__(self, width: int, *, hidden: int, mixers: Sequence[Mixer], dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(width, hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in mixers)
        self.mixers = nn.ModuleList(mixers)
        self.dropout = nn.Dropout(dropout)

    def initial_state(self, num_sequences: int) -> BackboneState:
        """Zeros; every tensor has S as its first axis."""
        return tuple(tensor for mixer in self.mixers for tensor in mixer.initial_state(num_sequences))  # type: ignore[operator]

    def forward(self, sequence: Tensor, state: BackboneState) -> tuple[Tensor, BackboneState]:
        """(S, C, width), state -> (S, C, hidden), state."""
        hidden = self.linear(sequence.transpose(0, 1))
        share = len(state) // len(self.mixers)
        states: BackboneState = ()
        for index, (norm, mixer) in enumerate(zip(self.norms, self.mixers, strict=True)):
            mixed, after = mixer(norm(hidden), state[index * share : (index + 1) * share])
            hidden = hidden + self.dropout(mixed)
            states += after
        return hidden.transpose(0, 1), states


def log_uniform(size: int, *, low: float, high: float) -> Tensor:
    """Random numbers whose logarithm is uniform, the step sizes at which S4 and Mamba start: (size,)."""
    return low * (high / low) ** torch.rand(size)
