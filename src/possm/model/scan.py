"""h[t] = decay[t] * h[t-1] + drive[t], read out at every step: the maths of both state-space backbones.

It is the only maths here with two evaluation orders. One step is a few plain operations, which also export.
A window is made for training. Both start from a state and end with one, and both are stable for any decay
of magnitude 0 to 1: nothing is ever divided by a product of decays.

States are 16 to 64 times as large as what goes in and comes out, so a window of them is never held:
`constant_scan` does not form them, `selective_scan` forms them a second time for its gradient.

Time is the first axis, so that a step is one contiguous slice. The state keeps its precision under autocast.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from possm.model.selective import selective_window

Pair = tuple[Tensor, Tensor]
"""Real and imaginary part: complex tensors neither export nor save."""

BLOCK = 32
"""Steps that `constant_scan` takes at once; 20, 32 and 80 were measured about equally fast."""


def selective_scan(
    x: Tensor, *, step: Tensor, rate: Tensor, write: Tensor, read: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """A decay that the input chooses: y[t] = read[t] . h[t].

    Every channel i has N states: h[t, n, i] decays by exp(step[t, i] rate[n, i]) and is driven by
    write[t, n] step[t, i] x[t, i].

    Args:
        x: (T, S, I) input.
        step: (T, S, I), 0 or more.
        rate: (N, I), 0 or less.
        write: (T, S, N).
        read: (T, S, N).
        state: (S, N, I): h before the first step.

    Returns:
        y (T, S, I), and the state after the last step.
    """
    if len(x) > 1:
        with torch.autocast(state.device.type, enabled=False):
            x, step, rate, write, read = (t.to(state.dtype) for t in (x, step, rate, write, read))
            return selective_window(x, step, rate, write, read, state)
    decay = torch.exp(step.transpose(0, 1) * rate)
    after = decay * state + write[0].unsqueeze(2) * (step * x).transpose(0, 1)
    return (read[0].unsqueeze(1) @ after).transpose(0, 1), after


def constant_scan(drive: Tensor, *, decay: Pair, output: Pair, state: Tensor) -> tuple[Tensor, Tensor]:
    """The same complex decay at every step: y[t] = 2 Re(sum_n output[n] h[t, n]).

    The factor 2 stands for the conjugate of every state. A window is evaluated in blocks by four matrix
    products per channel: inputs to outputs (the convolution with 2 Re(sum_n output[n] decay[n]^k)), state to
    outputs, and both to the next state.

    Args:
        drive: (T, S, H) real.
        decay: Real and imaginary part, (H, N) each; magnitude at most 1.
        output: Real and imaginary part, (H, N) each.
        state: (S, 2, H, N): real and imaginary part of h before the first step.

    Returns:
        y (T, S, H), and the state after the last step.
    """
    if len(drive) > 1:
        with torch.autocast(state.device.type, enabled=False):
            return _constant_window(drive.to(state.dtype), decay, output, state)
    real, imaginary = state.unbind(1)
    after = (
        real * decay[0] - imaginary * decay[1] + drive[0].unsqueeze(-1),
        real * decay[1] + imaginary * decay[0],
    )
    answer = 2 * (after[0] * output[0] - after[1] * output[1]).sum(-1)
    return answer.unsqueeze(0), torch.stack(after, dim=1)


def _constant_window(drive: Tensor, decay: Pair, output: Pair, state: Tensor) -> tuple[Tensor, Tensor]:
    powers = _Powers.apply(torch.complex(*decay), min(len(drive), BLOCK))
    seen = 2 * (torch.complex(*output) * powers).conj_physical()  # seen[k] . h: what h shows k steps later
    toeplitz = _toeplitz(seen.real[:-1].sum(-1).T)
    answers = []
    for block in _Turn.apply(drive).split(BLOCK, dim=2):
        answer, state = _constant_block(block, powers, seen, toeplitz, state)
        answers.append(answer)
    return _Turn.apply(torch.cat(answers, dim=2)), state


def _constant_block(
    drive: Tensor, powers: Tensor, seen: Tensor, toeplitz: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """L steps: drive (H, S, L), powers and seen (1 + L or more, H, N), toeplitz (H, L or more, the same)."""
    length = drive.shape[2]
    held = torch.complex(*state.unbind(1))
    shown = _matrices(held) @ _matrices(seen[1 : length + 1]).mT
    gathered = drive @ _matrices(powers[:length].flip(0))  # (H, S, 2N)
    after = held * powers[length] + torch.view_as_complex(gathered.unflatten(2, (-1, 2))).transpose(0, 1)
    return drive @ toeplitz[:, :length, :length] + shown, torch.stack([after.real, after.imag], dim=1)


def _matrices(numbers: Tensor) -> Tensor:
    """Complex (L, H, N) -> real (H, L, 2N), the two parts of a number side by side."""
    return torch.view_as_real(numbers).flatten(2).transpose(0, 1)


def _toeplitz(kernel: Tensor) -> Tensor:
    """(H, L) -> (H, L, L), whose element (s, t) is kernel[t - s], and 0 where t is before s."""
    length = kernel.shape[1]
    return functional.pad(kernel, (length - 1, 0)).unfold(1, length, 1).flip(1)


class _Powers(torch.autograd.Function):
    """base^0 .. base^count: complex (H, N) -> (count + 1, H, N).

    By doubling, so that a power is a product of powers: as exact as step after step, unlike exp(k log base).
    """

    @staticmethod
    def forward(ctx: Any, base: Tensor, count: int) -> Tensor:
        powers = base.new_ones(count + 1, *base.shape)
        powers[1] = base
        done = 1
        while done < count:
            size = min(done, count - done)
            torch.mul(powers[1 : size + 1], powers[done], out=powers[done + 1 : done + size + 1])
            done += size
        ctx.save_for_backward(powers)
        return powers

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (powers,) = ctx.saved_tensors
        exponents = torch.arange(1, len(powers), device=grad.device, dtype=powers.real.dtype)
        slopes = (powers[:-1] * exponents.view(-1, 1, 1)).conj_physical()
        return (slopes * grad[1:]).sum(0), None


class _Turn(torch.autograd.Function):
    """(A, B, C) -> (C, B, A), contiguous both ways: a batched product copies other matrices one by one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.permute(2, 1, 0).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.permute(2, 1, 0).contiguous()
