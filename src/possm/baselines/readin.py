"""The first map of the count-based decoders, a row of weights a unit; and how far back they look."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from possm.baselines.counts import Columns


class Readin(nn.Linear):
    """Linear in the counts of the newest `history` chunks of the sequence's own session.

    Every unit has a row of weights, (units, history * width), and every session an offset, so sessions share
    nothing here. It is an `nn.Linear` (turned round) so that weight decay finds its matrix.

    Args:
        num_units: Rows of the unit vocabulary.
        num_sessions: Rows of the session vocabulary.
        width: Size of the output.
        history: Chunks it sees, the newest included.
    """

    def __init__(self, num_units: int, num_sessions: int, width: int, *, history: int = 1) -> None:
        super().__init__(history * width, num_units, bias=False)
        self.width, self.history = width, history
        fan_in = max(1, num_units // num_sessions) * history
        nn.init.uniform_(self.weight, -(fan_in**-0.5), fan_in**-0.5)
        self.offset = nn.Parameter(torch.zeros(num_sessions, width))

    def initial_state(self, num_sequences: int, columns: Columns) -> Tensor:
        """Before the first chunk every unit fired at its mean: zeros (S, history - 1, U)."""
        return self.weight.new_zeros(num_sequences, self.history - 1, columns.unit.shape[1])

    def read(
        self, counts: Tensor, before: Tensor, session: Tensor, columns: Columns
    ) -> tuple[Tensor, Tensor]:
        """Map the counts of C chunks.

        Args:
            counts: (S, C, U) z-scored.
            before: (S, history - 1, U): of the chunks before them.
            session: (S,) row of each sequence's session.
            columns: Where units are.

        Returns:
            (S, C, width), and the newest history - 1 counts.
        """
        seen = torch.cat([before, counts], dim=1)
        lagged = seen.unfold(1, self.history, 1)  # (S, C, U, history), newest last
        parts = {}
        for one in session.unique().tolist():
            weight = self.weight[columns.unit[one]].view(-1, self.width)  # (U * history, width)
            parts[one] = lagged[session == one].flatten(2) @ weight + self.offset[one]
        after = seen[:, seen.shape[1] - (self.history - 1) :]
        if len(parts) == 1:
            return next(iter(parts.values())), after
        place = torch.cat([(session == one).nonzero().squeeze(1) for one in parts])
        return torch.cat(list(parts.values()))[place.argsort()], after
