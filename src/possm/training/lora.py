"""Low-rank rows: new unit embeddings that differ from where they start by a product of two small matrices.

The paper finetunes embeddings with LoRA (appendix D.9: 9,160 weights instead of 15,600, equal scores); its
details are not published. Here the rows of n new units are

    E = E0 + A B,    A (n, rank) from 0,    B (rank, width) from the table's principal directions

where E0 is what the rows start from and B holds the leading right singular vectors of the pretrained rows
(less their mean), each as long as the standard deviation of the rows along it: a step of A moves a unit along
the directions in which units differ, by as much as they differ. A and B are both trained, (n + width) * rank
weights; session rows are trained as they are. When the run ends, the product is written into the table.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from possm.model.contract import DecoderModel


class LowRankRows(nn.Module):
    """Some rows of a table as a start plus a product: (rows of the table) + A B.

    Args:
        rows: (n,) int64, which.
        basis: (rank, width): B before the first step.
    """

    rows: Tensor

    def __init__(self, rows: Tensor, basis: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows)
        self.A = nn.Parameter(basis.new_zeros(len(rows), len(basis)))
        self.B = nn.Parameter(basis.clone())

    def forward(self, table: Tensor) -> Tensor:
        """The table (units, width) with these rows moved."""
        return table.index_add(0, self.rows, self.A @ self.B)


def principal_rows(table: Tensor, rank: int) -> Tensor:
    """(rank or fewer, width): the directions in which rows differ most, each as long as their deviation."""
    centred = table - table.mean(dim=0)
    _, size, directions = torch.linalg.svd(centred, full_matrices=False)
    kept = min(rank, int((size > 1e-6 * size.max()).sum()))
    return directions[:kept] * (size[:kept] / len(table) ** 0.5).unsqueeze(1)


def make_low_rank(model: DecoderModel, name: str, rows: Tensor, *, known: Tensor, rank: int) -> list[str]:
    """Train these rows of a table as a product from now on.

    Args:
        model: Is changed.
        name: Of the table's weight, such as "token.unit.weight".
        rows: (n,) int64.
        known: (m, width) the pretrained rows, which give the basis.
        rank: Of the product; at most the width and the number of different pretrained rows.

    Returns:
        Names of the weights to train in its place.
    """
    place = name.removesuffix(".weight")
    low_rank = LowRankRows(rows, principal_rows(known, rank).to(known))
    parametrize.register_parametrization(model.get_submodule(place), "weight", low_rank)
    return [f"{place}.parametrizations.weight.0.{matrix}" for matrix in ("A", "B")]


def merged(model: DecoderModel) -> DecoderModel:
    """A copy of the model with all products written into their tables; as plain as any other."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Embedding) and parametrize.is_parametrized(module, "weight"):
            plain = nn.Embedding.from_pretrained(module.weight.detach().clone(), freeze=False)
            model.set_submodule(name, plain)  # torch's own remover breaks all other copies of the module
    return model
