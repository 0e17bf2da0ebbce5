"""S4D: every channel is filtered by 32 damped oscillations, the same at every step.

Gu et al. 2022, arXiv 2206.11893: the diagonal form of S4, here with its defaults (state size 64 = 32
conjugate pairs, S4D-Lin, zero-order hold), and with the output layer of S4 (GELU, linear map, GLU).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from possm.model.recurrent import BackboneState, Mixer, ResidualBackbone, log_uniform
from possm.model.scan import Pair, constant_scan

NUM_PAIRS = 32
"""Conjugate pairs of states in a channel: the state size 64 of S4."""
STEP_RANGE = (0.001, 0.1)
"""Step sizes at the start, the defaults of S4: slow modes forget over 20 to 2,000 chunks."""


class S4d(ResidualBackbone):
    """Layers of x + S4D(norm(x)).

    Parameters at (width 64, hidden 256, 1 layer): 182,016; at (256, 512, 4): 2,503,168. That is the linear
    map in, and in every layer the oscillations, the skip, the GLU output map and a LayerNorm. The published
    totals, 0.41M and 4.56M for whole decoders, fit the defaults of the S4 code; they leave open whether
    there were norms, without which these numbers are 181,504 and 2,499,072.

    State: one tensor (S, 2, hidden, 32) per layer, the real and imaginary parts of its oscillations.
    """

    def __init__(self, width: int, *, hidden: int, num_layers: int, dropout: float) -> None:
        mixers = [S4dMixer(hidden) for _ in range(num_layers)]
        super().__init__(width, hidden=hidden, mixers=mixers, dropout=dropout)


class S4dMixer(Mixer):
    """y = GLU(linear(GELU(filtered(x) + skip x))); shapes in `Mixer`."""

    undecayed = ("log_step", "log_damping", "frequency")

    def __init__(self, hidden: int) -> None:
        super().__init__()
        low, high = STEP_RANGE
        self.log_step = nn.Parameter(log_uniform(hidden, low=low, high=high).log())
        self.log_damping = nn.Parameter(torch.full((hidden, NUM_PAIRS), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(NUM_PAIRS).repeat(hidden, 1))
        self.output = nn.Parameter(torch.randn(2, hidden, NUM_PAIRS) * 0.5**0.5)
        self.skip = nn.Parameter(torch.randn(hidden))
        self.linear = nn.Linear(hidden, 2 * hidden)

    def initial_state(self, num_sequences: int) -> BackboneState:
        """Zeros (S, 2, hidden, 32)."""
        return (self.output.new_zeros(num_sequences, *self.output.shape),)

    def forward(self, sequence: Tensor, state: BackboneState) -> tuple[Tensor, BackboneState]:
        """(C, S, hidden), state -> (C, S, hidden), state."""
        decay, output = self.discrete()
        filtered, after = constant_scan(sequence, decay=decay, output=output, state=state[0])
        active = functional.gelu(filtered + self.skip * sequence)
        return functional.glu(self.linear(active), dim=-1), (after,)

    def discrete(self) -> tuple[Pair, Pair]:
        """Zero-order hold: rates a and outputs c become exp(step a) and c (exp(step a) - 1) / a.

        In real numbers, for export; |exp(step a)| is below 1 whatever the parameters are.
        """
        step, damping = self.log_step.exp().unsqueeze(1), -self.log_damping.exp()
        real, imaginary = step * damping, step * self.frequency
        size, cos, sin = real.exp(), imaginary.cos(), imaginary.sin()
        growth = torch.tanh(real / 2) * (size + 1)  # exp(real) - 1, exact near 0 as well
        rise = (growth * cos - 2 * (imaginary / 2).sin() ** 2, size * sin)  # exp(step a) - 1
        norm = damping**2 + self.frequency**2
        held = (
            (rise[0] * damping + rise[1] * self.frequency) / norm,
            (rise[1] * damping - rise[0] * self.frequency) / norm,
        )
        output = (
            self.output[0] * held[0] - self.output[1] * held[1],
            self.output[0] * held[1] + self.output[1] * held[0],
        )
        return (size * cos, size * sin), output
