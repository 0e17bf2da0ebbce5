"""Rows without a gradient are left alone; rows with one get AdamW as if there were no others."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import toys
from possm.model.decoder import Possm
from possm.training.optim import OptimConfig, make_optimizer, update_average
from possm.training.rows import RowAdamW, tables_of

GROUP = {"weight_decay": 0.0, "rows": True}


def gradients(rows, seed):
    """A gradient for these of 6 rows of 3, zero elsewhere."""
    gradient = torch.zeros(6, 3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    gradient[rows] = torch.randn(len(rows), 3, generator=generator, dtype=torch.float64)
    return gradient


def table_and_optimizer(**changes):
    table = nn.Parameter(torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    return table, RowAdamW([{"params": [table], **GROUP, **changes}], lr=0.1)


@settings(max_examples=30)
@given(
    history=st.lists(st.sets(st.integers(0, 5)), min_size=1, max_size=12),
    weight_decay=st.sampled_from([0.0, 0.3]),
)
def test_each_row_is_as_if_alone(history, weight_decay):
    """A row ends where plain AdamW takes it that sees only the steps the row has a gradient in."""
    table, optimizer = table_and_optimizer(weight_decay=weight_decay)
    alone = [nn.Parameter(table[row].detach().clone()) for row in range(6)]
    plain = [torch.optim.AdamW([p], lr=0.1, weight_decay=weight_decay) for p in alone]
    for number, rows in enumerate(history):
        table.grad = gradients(sorted(rows), number)
        optimizer.step()
        for row in rows:
            alone[row].grad = table.grad[row].clone()
            plain[row].step()
    np.testing.assert_allclose(table.detach(), torch.stack(alone).detach(), rtol=1e-12, atol=1e-14)


@settings(max_examples=30)
@given(history=st.lists(st.sets(st.integers(0, 5)), min_size=1, max_size=12))
def test_centred_rows_do_not_see_what_they_have_in_common(history):
    """They end where gradients less their mean over the rows that have one take them; one alone keeps its."""
    (one, centred), (other, plain) = table_and_optimizer(centred=True), table_and_optimizer()
    for number, rows in enumerate(history):
        rows = sorted(rows)
        own = gradients(rows, number)
        other.grad = own.clone()
        if len(rows) > 1:
            other.grad[rows] -= own[rows].mean(dim=0)
        own[rows] += 0.0 if len(rows) == 1 else torch.tensor([3.0, -1.0, 50.0], dtype=torch.float64)
        one.grad = own
        centred.step()
        plain.step()
        assert torch.equal(one.grad, own)
    np.testing.assert_allclose(one.detach(), other.detach(), rtol=1e-6, atol=1e-9)


def test_absent_rows_keep_weights_and_moments():
    table, optimizer = table_and_optimizer(weight_decay=0.5)
    for number, rows in enumerate([[0, 1, 2], [1, 2], [2], [5]]):
        before = table.detach().clone()
        moments = {k: v.clone() for k, v in optimizer.state[table].items()}
        table.grad = gradients(rows, number)
        optimizer.step()
        others = [row for row in range(6) if row not in rows]
        assert torch.equal(table[others], before[others])
        assert not (table[rows] == before[rows]).any()
        for name, value in moments.items():
            assert torch.equal(optimizer.state[table][name][others], value[others]), name
    assert optimizer.state[table]["step"].tolist() == [1, 2, 3, 0, 0, 1]


def test_plain_adamw_would_move_them():
    """What is avoided: a row seen once goes on moving for as long as its moments last."""
    table, _ = table_and_optimizer()
    plain = torch.optim.AdamW([table], lr=0.1, weight_decay=0.0)
    for number, rows in enumerate([[0], [1], [1]]):
        table.grad = gradients(rows, number)
        plain.step()
        if number == 0:
            seen_once = table[0].detach().clone()
    assert not torch.isclose(table[0], seen_once).any()


def test_no_gradient_no_step():
    table, optimizer = table_and_optimizer()
    before = table.detach().clone()
    optimizer.step()
    table.grad = torch.zeros_like(table)
    optimizer.step()
    assert torch.equal(table, before)
    assert not optimizer.state[table]


def test_the_pull_of_anchors():
    """lr * decay of the way back, for weights with a gradient only; without one, nothing moves."""
    matrix, table = nn.Parameter(torch.full((2, 2), 3.0)), nn.Parameter(torch.full((3, 2), 3.0))
    anchors = {p: torch.ones_like(p) for p in (matrix, table)}
    groups = [{"params": [matrix], "weight_decay": 0.0}, {"params": [table], **GROUP}]
    optimizer = RowAdamW(groups, lr=0.1, anchors=anchors, anchor_decay=2.0)
    matrix.grad, table.grad = torch.full((2, 2), 1e-30), torch.zeros(3, 2)
    table.grad[1] = 1e-30  # too small for AdamW to notice (eps 1e-8)
    optimizer.step()
    np.testing.assert_allclose(matrix.detach(), 3 - 0.2 * 2, rtol=1e-6)
    np.testing.assert_allclose(table.detach()[:, 0], [3, 3 - 0.2 * 2, 3], rtol=1e-6)


def test_the_tables_of_a_decoder_are_found():
    model = Possm(toys.tiny_config(), num_units=5, num_sessions=2)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)] for p in tables_of(model)}
    assert found == {
        "token.unit.weight",
        "token.kind.weight",
        "session.weight",
        "readouts.@vel.behavior.weight",
    }


def test_a_decoder_over_several_sessions():
    """In a batch of one session the units of the others have no gradient at all, so their rows stay."""
    model = Possm(toys.tiny_config(), num_units=9, num_sessions=2)
    optimizer = make_optimizer(model, OptimConfig(learning_rate=0.1))
    average = copy.deepcopy(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step in range(4):
        sample = toys.random_sample(num_chunks=4, units=5, seed=2 * step)  # units 1 to 4, session 0
        answers, _ = model(toys.batch_of(sample))
        optimizer.zero_grad(set_to_none=True)
        answers["vel"].square().mean().backward()
        optimizer.step()
        update_average(average, model, step, OptimConfig(ema=0.9))
    for which in (model, average):
        after = dict(which.named_parameters())
        for name, seen in (("token.unit.weight", slice(1, 5)), ("session.weight", slice(0, 1))):
            rest = [r for r in range(len(after[name])) if r not in range(*seen.indices(99))]
            assert not (after[name][seen] == before[name][seen]).any()
            assert torch.equal(after[name][rest], before[name][rest]), name
    with torch.no_grad():  # and it does learn
        assert functional.mse_loss(after["token.unit.weight"], before["token.unit.weight"]) > 1e-4


@pytest.mark.parametrize("rows", [26_032])
def test_state_survives_saving(rows):
    table = nn.Parameter(torch.randn(rows, 4))
    optimizer = RowAdamW([{"params": [table], **GROUP}], lr=0.1)
    table.grad = torch.zeros_like(table)
    table.grad[7] = 1.0
    optimizer.step()
    other_table = nn.Parameter(table.detach().clone())
    other = RowAdamW([{"params": [other_table], **GROUP}], lr=0.1)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, two in ((table, optimizer), (other_table, other)):
        one.grad = torch.zeros_like(one)
        one.grad[7:9] = 2.0
        two.step()
    assert torch.equal(table, other_table)
    assert other.state[other_table]["step"][6:10].tolist() == [0, 2, 1, 0]
