"""Configs to JSON and back, and errors that say what came, what was wanted and what to do."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from possm.config import from_json, require, to_json
from possm.errors import CheckpointError, ConfigError, PossmError, RecordingError, StreamError
from possm.model.decoder import BehaviorConfig, PossmConfig
from possm.training.loop import TrainConfig
from possm.training.optim import OptimConfig


def through_json(config):
    return from_json(type(config), json.loads(json.dumps(to_json(config))))


@dataclass(frozen=True)
class Leaf:
    size: int = 1
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tree:
    leaf: Leaf = Leaf()
    maybe: Leaf | None = None
    by_name: dict[str, Leaf] = field(default_factory=dict)
    several: tuple[Leaf, ...] = ()
    limit: float | None = None


@pytest.mark.parametrize(
    "config",
    [
        Tree(),
        Tree(Leaf(2, ("a", "b")), Leaf(3), {"x": Leaf(4, ("c",))}, (Leaf(5), Leaf(6)), 0.1),
        PossmConfig(behaviors={"cursor.vel": BehaviorConfig(num_dimensions=2)}),
        PossmConfig.large(chunk_ms=20, lead_ms=0),
        OptimConfig(ema=0.5),
    ],
    ids=["defaults", "nested", "decoder", "large", "optim"],
)
def test_round_trip(config):
    assert through_json(config) == config


@pytest.mark.parametrize(
    ("values", "class_", "fix"),
    [
        ({"widht": 3}, PossmConfig, "did you mean 'width'?"),
        ({"leaf": {"sise": 3}}, Tree, "did you mean 'size'?"),
        ({"by_name": {"x": {"nams": []}}}, Tree, "did you mean 'names'?"),
        ({"qqqq": 1}, Tree, "remove it"),
    ],
)
def test_an_unknown_key_is_an_error(values, class_, fix):
    with pytest.raises(ConfigError, match="has no setting") as caught:
        from_json(class_, values)
    assert caught.value.fix == fix


def test_a_stored_value_is_checked_too():
    with pytest.raises(ConfigError, match="width"):
        from_json(PossmConfig, {"width": 0})
    with pytest.raises(ConfigError, match="PossmConfig cannot be made"):
        from_json(PossmConfig, {"width": "wide"})
    with pytest.raises(ConfigError, match="num_dimensions"):
        from_json(BehaviorConfig, {})


@pytest.mark.parametrize(
    "change",
    [
        {"behavior": ()},
        {"behavior": "cursor.vel"},
        {"window_s": 0.0},
        {"window_s": float("nan")},
        {"batch_size": 0},
        {"epochs": 0},
        {"valid_every": 0},
        {"precision": "float16"},
        {"behavior_weights": {"other": 1.0}},
        {"behavior_weights": {"vel": -1.0}},
        {"interval_weights": {"reach": float("nan")}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_training_refuses(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        TrainConfig(**{"behavior": ("vel",), **change})


@pytest.mark.parametrize(
    "change",
    [{"learning_rate": 0.0}, {"weight_decay": -1}, {"warmup": 1.0}, {"clip_norm": 0.0}, {"ema": 1.0}],
)
def test_the_optimizer_refuses(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        OptimConfig(**change)


def test_require():
    require(True, "x", 1, "anything")
    with pytest.raises(ConfigError, match="x is out of range") as caught:
        require(False, "x", 3, "2")
    assert (caught.value.got, caught.value.wanted) == (3, "2")


def test_what_an_error_says():
    error = RecordingError("is short", about="day.h5", got="1 s", wanted="30 s", fix="record longer")
    assert str(error) == "day.h5: is short\n  got: 1 s\n  wanted: 30 s\n  fix: record longer"
    assert str(PossmError("is short")) == "is short"
    assert str(PossmError("x", got=0, wanted="")) == "x\n  got: 0\n  wanted: "  # falsy is not absent


@pytest.mark.parametrize("kind", [RecordingError, ConfigError, CheckpointError, StreamError])
def test_all_errors_of_a_user_are_one_kind(kind):
    assert issubclass(kind, PossmError)
