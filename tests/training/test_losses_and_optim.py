"""The loss against numbers worked out by hand; schedule, parameter groups and the average of the weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import toys
from possm.batch import Batch, Targets
from possm.errors import ConfigError
from possm.model.decoder import Possm
from possm.training.losses import squared_error, total_loss
from possm.training.optim import OptimConfig, learning_rate, make_optimizer, update_average

ANSWER = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, -1.0]])
WANTED = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 3.0]])
# mean over dimensions of the squares: 2, 1, 12.5


@pytest.mark.parametrize(
    ("weights", "loss"),
    [
        ([1.0, 1.0, 1.0], 15.5 / 3),
        ([5.0, 0.1, 0.0], (10 + 0.1) / 5.1),
        ([0.0, 0.0, 0.2], 12.5),
        ([0.0, 0.0, 0.0], 0.0),
    ],
)
def test_weighted_squared_error(weights, loss):
    assert squared_error(ANSWER, Targets(WANTED, torch.tensor(weights))).item() == pytest.approx(
        loss, rel=1e-6
    )


def test_nothing_to_learn_from_has_a_gradient_of_zero():
    answer = torch.zeros(0, 2, requires_grad=True)
    loss = squared_error(answer, Targets(torch.zeros(0, 2), torch.zeros(0)))
    loss.backward()
    assert loss.item() == 0
    weighed = ANSWER.clone().requires_grad_()
    squared_error(weighed, Targets(WANTED, torch.zeros(3))).backward()
    assert torch.equal(weighed.grad, torch.zeros(3, 2))


def test_behaviors_add_up_by_weight():
    targets = {"a": Targets(WANTED, torch.ones(3)), "b": Targets(WANTED, torch.tensor([0.0, 1.0, 0.0]))}
    batch = Batch(None, None, 1, {}, targets)
    kinds = {"a": "continuous", "b": "continuous"}
    loss = total_loss({"a": ANSWER, "b": ANSWER}, batch, kinds=kinds, behavior_weights={"b": 10.0})
    assert loss.item() == pytest.approx(15.5 / 3 + 10 * 1.0)


def test_schedule():
    config = OptimConfig(learning_rate=0.1, warmup=0.1)
    rates = [learning_rate(step, 200, config) for step in range(200)]
    np.testing.assert_allclose(rates[:20], 0.1 * np.arange(1, 21) / 20)
    assert max(rates) == pytest.approx(0.1)
    assert np.argmax(rates) in (19, 20)
    assert rates[110] == pytest.approx(0.05)  # half way down half a cosine
    assert 0 < rates[-1] < 1e-4
    assert (np.diff(rates[20:]) < 0).all()


@pytest.mark.parametrize("total", [1, 2, 3])
def test_schedule_of_a_very_short_run(total):
    rates = [learning_rate(step, total, OptimConfig(learning_rate=0.1, warmup=0.0)) for step in range(total)]
    assert rates[0] == 0.1
    assert min(rates) > 0


def test_schedule_with_a_plateau():
    """The paper's: constant for the first half, then half a cosine."""
    config = OptimConfig(learning_rate=0.004, warmup=0.0, hold=0.5)
    rates = np.array([learning_rate(step, 1000, config) for step in range(1000)])
    np.testing.assert_array_equal(rates[:501], 0.004)
    assert rates[750] == pytest.approx(0.002, rel=0.01)
    assert (np.diff(rates[501:]) < 0).all() and rates[-1] < 1e-7


def test_what_is_decayed_goes_by_row_or_has_a_rate_of_its_own():
    model = Possm(toys.tiny_config(), num_units=5, num_sessions=2)
    groups = make_optimizer(model, OptimConfig(weight_decay=0.3, token_rate=0.1)).param_groups
    names = {id(p): name for name, p in model.named_parameters()}

    def those(key, value):
        return {names[id(p)] for group in groups if group[key] == value for p in group["params"]}

    endings = {name.rsplit(".", 1)[-1] for name in those("weight_decay", 0.3)}
    assert endings == {"weight", "weight_ih_l0", "weight_hh_l0"}
    assert {"encoder.to_query.weight", "encoder.to_out.weight"} <= those("weight_decay", 0.3)
    tables = {"token.unit.weight", "token.kind.weight", "session.weight", "readouts.@vel.behavior.weight"}
    assert those("rows", True) == tables
    assert tables | {"encoder.latent", "encoder.to_out.bias"} <= those("weight_decay", 0.0)
    tokens_and_encoder = {name for name in names.values() if name.startswith(("token.", "encoder."))}
    assert those("scale", 0.1) == tokens_and_encoder and len(tokens_and_encoder) > 10
    assert len(those("scale", 0.1)) + len(those("scale", 1.0)) == len(names)


def test_without_rows_of_units_there_is_nothing_to_centre():
    with pytest.raises(ConfigError, match="no rows of units"):
        make_optimizer(torch.nn.Linear(2, 2), OptimConfig(centre_units=True))


def test_units_may_have_a_rate_of_their_own_and_be_centred():
    model = Possm(toys.tiny_config(), num_units=5, num_sessions=2)
    names = {id(p): name for name, p in model.named_parameters()}
    config = OptimConfig(token_rate=0.1, unit_rate=0.5, centre_units=True)
    groups = make_optimizer(model, config).param_groups
    own = [group for group in groups if group["centred"]]
    assert [[names[id(p)] for p in group["params"]] for group in own] == [["token.unit.weight"]]
    assert own[0]["scale"] == 0.5 and own[0]["rows"]
    kind = next(g for g in groups for p in g["params"] if names[id(p)] == "token.kind.weight")
    assert kind["scale"] == 0.1 and not kind["centred"]
    with pytest.raises(ConfigError, match="unit_rate"):
        OptimConfig(unit_rate=0.0)


def test_a_matrix_with_a_row_for_each_unit_is_a_table():
    """Decayed as any matrix, but only in the rows a batch has."""
    model = nn.Sequential(nn.Linear(2, 5), nn.Linear(5, 2))
    groups = make_optimizer(model, OptimConfig(weight_decay=0.3), tables=["0.weight", "gone"]).param_groups
    table = next(group for group in groups if group["rows"])
    assert [id(p) for p in table["params"]] == [id(model[0].weight)]
    assert table["weight_decay"] == 0.3
    assert sum(len(group["params"]) for group in groups) == 4


def test_frozen_parameters_are_left_alone():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    groups = make_optimizer(model, OptimConfig()).param_groups
    assert [id(p) for group in groups for p in group["params"]] == [id(model[1].weight), id(model[1].bias)]


def test_average_of_weights():
    average, model = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        average.weight.fill_(0.0)
    wanted, config = 0.0, OptimConfig(ema=0.8)
    for step in range(60):
        with torch.no_grad():
            model.weight.fill_(math.sin(step))
        decay = min(0.8, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * math.sin(step)
        update_average(average, model, step, config)
        assert average.weight.item() == pytest.approx(wanted, abs=1e-6)


def test_no_average():
    average, model = nn.Linear(2, 2), nn.Linear(2, 2)
    update_average(average, model, 100, OptimConfig(ema=0.0))
    assert torch.equal(average.weight, model.weight)
