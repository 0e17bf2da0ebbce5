"""A window of the selective scan (scan.py): in torch, or on CUDA by mamba-ssm where that is installed.

The torch way goes step after step over all sequences and channels at once. A step is large enough to fill a
CPU, and every order that is parallel in time does more work; what costs is memory traffic, so sequences
are taken a few at a time, whose buffers stay in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

KEPT_EVERY = 5
"""Steps between the states that are kept for the gradient; those between are formed again."""
TILE = 2**17
"""State elements of the sequences taken together on a CPU: 512 KB of float32."""

Steps = Sequence[tuple[Tensor, ...]]


def selective_window(
    x: Tensor, step: Tensor, rate: Tensor, write: Tensor, read: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`selective_scan` over any number of steps; arguments as there, all of one dtype."""
    kernel = find_kernel(x)
    if kernel is None:
        return _SelectiveWindow.apply(x, step, rate, write, read, state)
    return _with_kernel(kernel, x, step, rate, write, read, state)


def find_kernel(x: Tensor) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """mamba-ssm's `selective_scan_fn`, where it is installed and takes tensors like x (CUDA, float32)."""
    if not x.is_cuda or x.dtype != torch.float32:
        return None
    try:
        from mamba_ssm.ops.selective_scan_interface import (  # type: ignore[import-not-found]
            selective_scan_fn,
        )
    except ImportError:
        return None
    return selective_scan_fn


def _with_kernel(
    kernel: Callable[..., tuple[Tensor, Tensor]],
    x: Tensor,
    step: Tensor,
    rate: Tensor,
    write: Tensor,
    read: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """The kernel takes time last and starts from zero; what an earlier state still shows is added after it.

    It hands no gradient back through the last state, which matters only where training carries states.
    """
    u, delta, b, c = (tensor.permute(1, 2, 0).contiguous() for tensor in (x, step, write, read))
    answer, after = kernel(u, delta, rate.T.contiguous(), b, c, return_last_state=True)
    answer, after = answer.permute(2, 0, 1), after.mT.contiguous()
    if state.any():
        left = (step.cumsum(0).unsqueeze(2) * rate).exp() * state  # (T, S, N, I)
        answer, after = answer + (read.unsqueeze(2) @ left).squeeze(2), after + left[-1]
    return answer, after


class _SelectiveWindow(torch.autograd.Function):
    """Keeps every KEPT_EVERYth state; its gradient forms the others again."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, step: Tensor, rate: Tensor, write: Tensor, read: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        drive, answer = step * x, torch.empty_like(x)
        after = state.clone(memory_format=torch.contiguous_format)
        kept = after.new_empty(-(-len(x) // KEPT_EVERY), *state.shape)
        for rows in _tiles(after):
            held, decay = after[rows], torch.empty_like(after[rows])
            steps = _steps(rows, step, drive, read, answer, column=write)
            for t, (step_t, drive_t, read_t, answer_t, write_t) in enumerate(steps):
                if t % KEPT_EVERY == 0:
                    kept[t // KEPT_EVERY, rows] = held
                _advance(held, step_t, rate, write_t, drive_t, decay=decay, out=held)
                torch.bmm(read_t, held, out=answer_t)
        ctx.save_for_backward(x, step, rate, write, read, kept)
        return answer, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_answer: Tensor, grad_after: Tensor) -> tuple[Tensor, ...]:
        x, step, rate, write, read, kept = ctx.saved_tensors
        drive, grad_answer = step * x, grad_answer.contiguous()
        grad_state = grad_after.clone(memory_format=torch.contiguous_format)
        grads = [torch.empty_like(tensor) for tensor in (step, drive, write, read)]
        grad_rate, tiles = torch.zeros_like(rate), _tiles(grad_state)
        buffers = _Buffers(grad_state[tiles[0]])
        for rows in tiles:
            forwards = list(_steps(rows, step, drive, column=write))
            backwards = list(_steps(rows, write, drive, step, grad_answer, *grads, column=read))
            grad_rate += buffers.retrace(kept[:, rows], rate, forwards, backwards, grad_state[rows])
        grad_step, grad_drive, grad_write, grad_read = grads
        grad_step.addcmul_(grad_drive, x)
        return grad_drive * step, grad_step, grad_rate, grad_write, grad_read, grad_state


class _Buffers:
    """Memory for the gradient of one tile after the other; `like` is a state of the largest."""

    def __init__(self, like: Tensor) -> None:
        self.decays = like.new_empty(KEPT_EVERY, *like.shape)
        self.states = like.new_empty(KEPT_EVERY + 1, *like.shape)

    def retrace(
        self, kept: Tensor, rate: Tensor, forwards: Steps, backwards: Steps, grad_state: Tensor
    ) -> Tensor:
        """Fill the gradients in `backwards`, from the last step to the first.

        `grad_state` comes as the gradient of the state after the last step, and leaves as that of the state
        before the first.

        Returns:
            The gradient of the rates, (N, I).
        """
        count = len(grad_state)
        decays, states = list(self.decays[:, :count]), list(self.states[:, :count])
        grad_rate = torch.zeros_like(grad_state)
        ones = rate.new_ones(1, 1, len(rate)).expand(count, 1, -1)
        for segment in reversed(range(len(kept))):
            part = slice(segment * KEPT_EVERY, (segment + 1) * KEPT_EVERY)
            states[0].copy_(kept[segment])
            for k, (step, drive, write) in enumerate(forwards[part]):
                _advance(states[k], step, rate, write, drive, decay=decays[k], out=states[k + 1])
            for k, now in reversed(list(enumerate(backwards[part]))):
                write, drive, step, grad_answer, grad_step, grad_drive, grad_write, grad_read, read = now
                grad_state.addcmul_(read, grad_answer)
                torch.bmm(grad_answer, states[k + 1].mT, out=grad_read)
                torch.bmm(drive, grad_state.mT, out=grad_write)
                torch.bmm(write, grad_state, out=grad_drive)
                grad_state.mul_(decays[k])
                product = torch.mul(grad_state, states[k], out=decays[k])  # the gradient of step * rate
                grad_rate.addcmul_(product, step)
                torch.bmm(ones, product.mul_(rate), out=grad_step)  # a sum over states, faster than sum()
        return grad_rate.sum(0)


def _advance(
    held: Tensor, step: Tensor, rate: Tensor, write: Tensor, drive: Tensor, *, decay: Tensor, out: Tensor
) -> None:
    """One step in place: (S, N, I), (S, 1, I), (N, I), (S, N, 1), (S, 1, I)."""
    torch.mul(step, rate, out=decay).exp_()
    torch.mul(held, decay, out=out).addcmul_(write, drive)


def _tiles(state: Tensor) -> list[slice]:
    """Sequences to take together: on a CPU as many as fit the cache, on an accelerator all."""
    count = max(1, TILE // state[0].numel()) if state.device.type == "cpu" else len(state)
    return [slice(first, first + count) for first in range(0, len(state), count)]


def _steps(rows: slice, *tensors: Tensor, column: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Every step's views: of `tensors` as matrices of one row, and last of `column` as of one column."""
    views = [tensor[:, rows].unsqueeze(2) for tensor in tensors]
    return zip(*views, column[:, rows].unsqueeze(3), strict=True)
