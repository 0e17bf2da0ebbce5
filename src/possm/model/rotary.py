"""Rotary time embedding: a time difference turns pairs of features by angles proportional to it.

Half of each head rotates (32 of 64 features, 16 pairs) and half does not; periods are log-spaced,
both ends included (paper section 3.1; `RotaryTimeEmbedding` of POYO). Keys AND values rotate, so what
attention returns depends on time differences only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Rotary(nn.Module):
    """Angles of `num_pairs` feature pairs at a given time; it has no parameters.

    Args:
        num_pairs: Rotating feature pairs per head.
        t_min_s: Shortest period, seconds.
        t_max_s: Longest period, seconds.
    """

    omega: Tensor

    def __init__(self, num_pairs: int, *, t_min_s: float, t_max_s: float) -> None:
        super().__init__()
        periods = torch.logspace(math.log10(t_min_s), math.log10(t_max_s), num_pairs, dtype=torch.float64)
        # Rounded to float32 whatever the default dtype: a file does not hold it, and must rebuild the same.
        omega = (2 * math.pi / periods).float()
        self.register_buffer("omega", omega.to(torch.get_default_dtype()), persistent=False)

    def forward(self, time_s: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of every pair's angle: (...,) seconds -> two (..., num_pairs)."""
        angle = time_s.to(self.omega.dtype).unsqueeze(-1) * self.omega
        return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first 2P features of x (..., head) by the angles of P pairs; the others stay.

    Features are held as [P first members | P second members | the rest], so that a pair is
    (x[i], x[P + i]); which features form a pair is a matter of naming the rows of a projection.
    """
    pairs = cos.shape[-1]
    first, second, still = x.split([pairs, pairs, x.shape[-1] - 2 * pairs], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, still], dim=-1)
