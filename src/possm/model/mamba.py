"""Mamba: a short convolution, then states whose decay and input the input itself chooses.

Gu and Dao 2023, arXiv 2312.00752, with its defaults: 16 states a channel, convolution over 4 steps, twice
as many channels as the hidden size, step sizes of rank hidden / 16.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from possm.model.recurrent import BackboneState, Mixer, ResidualBackbone, log_uniform
from possm.model.scan import selective_scan

STATE_SIZE = 16
CONV_STEPS = 4
EXPAND = 2
STEP_RANGE = (0.001, 0.1)
"""Step sizes at the start."""


class Mamba(ResidualBackbone):
    """Layers of x + mamba(norm(x)).

    Parameters at (width 64, hidden 256, 1 layer): 454,912; at (256, 512, 4): 6,914,560. That is the linear
    map in, and the Mamba blocks with a LayerNorm each. The published totals, 0.68M and 8.96M for whole
    decoders, fit the defaults of the Mamba code; they leave open whether there were norms, without which
    these numbers are 454,400 and 6,910,464.

    State: two tensors per layer, (S, 3, inner), the newest inputs of the convolution, oldest first, and
    (S, 16, inner), the states; inner is twice the hidden size.
    """

    def __init__(self, width: int, *, hidden: int, num_layers: int, dropout: float) -> None:
        mixers = [MambaMixer(hidden, num_layers=num_layers) for _ in range(num_layers)]
        super().__init__(width, hidden=hidden, mixers=mixers, dropout=dropout)


class MambaMixer(Mixer):
    """One Mamba block; shapes in `Mixer`."""

    undecayed = ("log_rate", "skip")

    def __init__(self, hidden: int, *, num_layers: int) -> None:
        super().__init__()
        inner, self.rank = EXPAND * hidden, math.ceil(hidden / 16)
        self.linear_in = nn.Linear(hidden, 2 * inner, bias=False)
        bound = CONV_STEPS**-0.5
        self.conv_weight = nn.Parameter(torch.empty(CONV_STEPS, inner).uniform_(-bound, bound))
        self.conv_bias = nn.Parameter(torch.empty(inner).uniform_(-bound, bound))
        self.choose = nn.Linear(inner, self.rank + 2 * STATE_SIZE, bias=False)
        self.linear_step = nn.Linear(self.rank, inner)
        self.log_rate = nn.Parameter(torch.arange(1.0, STATE_SIZE + 1).log().repeat(inner, 1).T.contiguous())
        self.skip = nn.Parameter(torch.ones(inner))
        self.linear_out = nn.Linear(inner, hidden, bias=False)
        self._initialise(num_layers)

    @torch.no_grad()
    def _initialise(self, num_layers: int) -> None:
        """As in the Mamba code: chosen step sizes, and branches that add up to one layer's variance."""
        low, high = STEP_RANGE
        step = log_uniform(len(self.skip), low=low, high=high)
        self.linear_step.bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus gives the step back
        self.linear_step.weight.uniform_(-(self.rank**-0.5), self.rank**-0.5)
        self.linear_out.weight /= num_layers**0.5

    def initial_state(self, num_sequences: int) -> BackboneState:
        """Zeros (S, 3, inner) and (S, 16, inner)."""
        inner = len(self.skip)
        recent = self.skip.new_zeros(num_sequences, CONV_STEPS - 1, inner)
        return recent, self.skip.new_zeros(num_sequences, STATE_SIZE, inner)

    def forward(self, sequence: Tensor, state: BackboneState) -> tuple[Tensor, BackboneState]:
        """(C, S, hidden), state -> (C, S, hidden), state."""
        recent, held = state
        x, gate = self.linear_in(sequence).chunk(2, dim=-1)
        padded = torch.cat([recent.transpose(0, 1), x])
        x = functional.silu(self._convolve(padded))
        step, write, read = self.choose(x).split([self.rank, STATE_SIZE, STATE_SIZE], dim=-1)
        step = functional.softplus(self.linear_step(step))
        rate = -self.log_rate.exp()
        answer, held = selective_scan(x, step=step, rate=rate, write=write, read=read, state=held)
        answer = self.linear_out(torch.addcmul(answer, self.skip, x) * functional.silu(gate))
        return answer, (padded[len(sequence) :].transpose(0, 1).contiguous(), held)

    def _convolve(self, padded: Tensor) -> Tensor:
        """Every channel over its newest 4 steps: (3 + C, S, inner) -> (C, S, inner)."""
        if len(padded) == CONV_STEPS:
            return (padded * self.conv_weight.unsqueeze(1)).sum(0, keepdim=True) + self.conv_bias
        return _Convolution.apply(padded, self.conv_weight, self.conv_bias)


class _Convolution(torch.autograd.Function):
    """Every channel over its newest K steps: (K - 1 + C, S, I), weight (K, I), bias (I,) -> (C, S, I).

    The gradient is written out because the one torch derives takes twice as long.
    """

    @staticmethod
    def forward(ctx: Any, padded: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(padded, weight)
        length = len(padded) - (len(weight) - 1)
        total = bias.expand(length, *padded.shape[1:]).clone()
        for index, row in enumerate(weight):
            total.addcmul_(padded[index : index + length], row)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        padded, weight = ctx.saved_tensors
        grad_padded, grad_weight = torch.zeros_like(padded), torch.empty_like(weight)
        for index, row in enumerate(weight):
            part = slice(index, index + len(grad))
            grad_padded[part].addcmul_(grad, row)
            grad_weight[index] = (grad * padded[part]).sum((0, 1))
        return grad_padded, grad_weight, grad.sum((0, 1))
