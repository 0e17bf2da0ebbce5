"""The feed-forward block that follows both cross-attentions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class FeedForward(nn.Module):
    """Pre-norm GEGLU block with residual: x + W2 dropout(a * gelu(b)), [a, b] = W1 norm(x).

    The inner width is four times the outer one (released code, `FeedForward(mult=4)`).
    """

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 8 * width)
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        value, gate = self.up(self.norm(x)).chunk(2, dim=-1)
        return x + self.down(self.dropout(value * functional.gelu(gate)))
