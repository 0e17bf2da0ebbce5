"""Presets: what they set and what they leave, and the command line that chooses one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import toys
from possm import cli
from possm.checkpoint import load_decoder
from possm.data.formats.hdf5 import write_hdf5
from possm.decoders import DECODERS, kind_of
from possm.model.contract import BehaviorConfig
from possm.model.decoder import PossmConfig
from possm.training.config import TrainConfig
from possm.training.presets import PRESETS

KINDS = {
    "possm-gru": "possm",
    "possm-s4d": "possm",
    "possm-mamba": "possm",
    "gru": "recurrent",
    "s4d": "recurrent",
    "mamba": "recurrent",
    "mlp": "mlp",
    "wiener": "wiener",
    "kalman": "kalman",
    "poyo": "poyo",
    "ndt2": "ndt2",
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_keeps_what_the_user_decided(name):
    clock = {"chunk_ms": 100, "lead_ms": 0, "behaviors": {"vel": BehaviorConfig(num_dimensions=2)}}
    given = TrainConfig(
        behavior=("vel", "pos"),
        decoder=PossmConfig(**clock),
        behavior_weights={"vel": 0.3},
        interval_weights={"reach": 5.0},
        evaluate_within="reach",
        scaling="session",
        seed=7,
        device="cpu",
        precision="float32",
    )
    made = PRESETS[name](given)
    assert kind_of(made.decoder) in DECODERS
    assert {key: getattr(made.decoder, key) for key in clock} == clock
    tuned = {"decoder", "optim", "window_s", "batch_size", "epochs", "augment"}
    kept = [key for key in vars(given) if key not in tuned]
    assert {key: getattr(made, key) for key in kept} == {key: getattr(given, key) for key in kept}
    assert PRESETS[name](made) == made


def test_every_name_has_its_decoder():
    made = {name: PRESETS[name](TrainConfig(behavior=("vel",))).decoder for name in KINDS}
    assert {name: kind_of(decoder) for name, decoder in made.items()} == KINDS
    assert set(KINDS) == set(PRESETS)
    assert [made[name].backbone for name in ("possm-s4d", "s4d", "mamba")] == ["s4d", "s4d", "mamba"]


def test_the_plain_preset_is_the_default():
    plain = TrainConfig(behavior=("vel",))
    assert PRESETS["possm-gru"](plain) == plain


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("presets") / "toy.h5"
    made = toys.recording(seconds=30, units=8)
    write_hdf5(replace(made, signals={"hand.vel": made.behavior("vel")}), path)
    return path


def run(capsys, *words) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of one command line."""
    capsys.readouterr()
    try:
        status = cli.main([str(word) for word in words])
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    shown = capsys.readouterr()
    return status, shown.out, shown.err


QUICK = ("--epochs", "1", "--window-s", "1.0", "--device", "cpu")
SMALL = {
    "possm-gru": ("--width", "16", "--hidden", "12", "--head-width", "16", "--num-rotary-pairs", "4"),
    "gru": ("--hidden", "12"),
    "mlp": ("--hidden", "12"),
    "wiener": ("--lags", "2", "3"),
    "kalman": ("--orders", "1", "2", "--widths", "2"),
}


@pytest.mark.parametrize("name", SMALL)
def test_train_one_alone(capsys, recording, tmp_path, name):
    """Any of them by its name; options given beside it win over the preset."""
    out = tmp_path / name
    words = [
        "train",
        recording,
        "--behavior",
        "hand.vel",
        "--decoder",
        name,
        *SMALL[name],
        *QUICK,
        "--out",
        out,
    ]
    status, shown, _ = run(capsys, *words)
    assert status == 0
    assert "best_valid_r2" in shown
    decoder = load_decoder(out / "decoder.safetensors")
    assert kind_of(decoder.config) == KINDS[name]
    if "--hidden" in SMALL[name]:
        assert decoder.config.hidden == 12
    written = json.loads((out / "config.json").read_text())
    assert written["optim"] == vars(PRESETS[name](TrainConfig(behavior=("vel",))).optim)
    if name == "wiener":
        assert written["decoder"]["lags"] == [2, 3]


def test_an_equals_sign_and_another_clock(capsys, recording, tmp_path):
    clock = ("--chunk-ms", "100", "--lead-ms", "0")
    words = ["train", "--decoder=wiener", recording, "--behavior", "hand.vel", *clock]
    assert run(capsys, *words, "--lags", "3", "--out", tmp_path / "w")[0] == 0
    config = load_decoder(tmp_path / "w" / "decoder.safetensors").config
    assert (config.chunk_ms, config.lead_ms, config.lags) == (100, 0, (3,))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--decoder", "wienr"], "did you mean 'wiener'?"),
        (["--decoder", "transformer9"], "possm-gru, possm-s4d"),
        (["--decoder"], "Missing argument"),
        (["--decoder", "wiener", "--hidden", "12"], "hidden"),
        (["--decoder", "gru", "--input-dropout", "1.5"], "input_dropout"),
    ],
)
def test_wrong_words(capsys, recording, tmp_path, words, says):
    line = ["train", recording, "--behavior", "hand.vel", "--out", tmp_path / "x", *words]
    status, _, err = run(capsys, *line)
    assert status == 2
    assert says in err
    assert "Traceback" not in err
    assert not (tmp_path / "x").exists()


def test_help_is_that_of_the_decoder(capsys):
    status, out, _ = run(capsys, "train", "--decoder", "mlp", "--help")
    assert status == 0
    assert "--history-ms" in out
    assert "--num-rotary-pairs" not in out
    assert "(default: mlp)" in " ".join(out.split())
