"""AdamW that leaves the rows of a table alone for as long as no batch mentions them.

A batch holds the units of a few sessions; the table holds those of all. With plain AdamW the moments of an
absent row decay and move it on, for steps it had no part in. Here, as in the paper's SparseLamb, a row whose
gradient is zero keeps its weights and its moments. Each row counts its own steps, so that its bias correction
is right whenever it first appears.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def tables_of(model: nn.Module) -> list[Tensor]:
    """The weights of all embeddings: one row a unit, session, kind or behavior."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    return [weight for table in tables for weight in table.parameters(recurse=False)]


class RowAdamW(torch.optim.AdamW):
    """AdamW; groups with ``rows=True`` hold tables, of which a step changes the rows with a gradient only;
    with ``centred=True`` by the gradient less its mean over these rows.

    Args:
        groups: Parameter groups; all keys but ``rows`` and ``centred`` are those of `torch.optim.AdamW`.
        lr: Learning rate.
        anchors: Parameter -> where `anchor_decay` pulls it to, of the same shape (L2-SP, Li et al. 2018).
        anchor_decay: Strength of that pull, in the same sense as ``weight_decay``: a step moves a weight
            towards its anchor by lr * anchor_decay of the distance.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        anchors: Mapping[Any, Tensor] | None = None,
        anchor_decay: float = 0.0,
    ) -> None:
        super().__init__([{"rows": False, "centred": False, **group} for group in groups], lr=lr)
        self.anchors, self.anchor_decay = dict(anchors or {}), anchor_decay

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; parameters without a gradient are left alone."""
        loss = closure() if closure is not None else None
        held = [(p, p.grad, group) for group in self.param_groups if group["rows"] for p in group["params"]]
        for table, _, _ in held:
            table.grad = None  # AdamW passes over what has no gradient
        super().step()
        self._pull()
        for table, gradient, group in held:
            table.grad = gradient
            if gradient is not None:
                self._step_rows(table, gradient, group)
        return loss

    def _pull(self) -> None:
        if not self.anchor_decay:
            return
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p in self.anchors:
                    p.lerp_(self.anchors[p], group["lr"] * self.anchor_decay)

    def _step_rows(self, table: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """AdamW (Loshchilov and Hutter 2019, algorithm 2) on the rows that have a gradient."""
        rows = gradient.reshape(len(table), -1).ne(0).any(dim=1).nonzero().squeeze(1)
        if not len(rows):
            return
        state = self.state[table]
        if not state:
            state["step"] = torch.zeros(len(table), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
        (beta1, beta2), lr = group["betas"], group["lr"]
        row_gradient, weight = gradient[rows], table[rows]
        if group["centred"] and len(rows) > 1:
            row_gradient = row_gradient - row_gradient.mean(dim=0)
        first = state["exp_avg"][rows].lerp_(row_gradient, 1 - beta1)
        second = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(row_gradient, row_gradient, value=1 - beta2)
        on_host = rows.to(state["step"].device)
        steps = (state["step"][on_host] + 1).to(weight).view(-1, *[1] * (table.ndim - 1))
        if table in self.anchors and self.anchor_decay:
            weight.lerp_(self.anchors[table][rows], lr * self.anchor_decay)
        weight.mul_(1 - lr * group["weight_decay"])
        size = (second / (1 - beta2**steps)).sqrt_().add_(group["eps"])
        weight.sub_(lr * (first / (1 - beta1**steps)) / size)
        state["step"][on_host] += 1
        for name, value in (("exp_avg", first), ("exp_avg_sq", second)):
            state[name].index_copy_(0, rows, value)
        table.index_copy_(0, rows, weight)
