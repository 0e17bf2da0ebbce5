"""What cannot be adapted is refused before anything is written; what can be, in every form it comes in."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import toys
from possm.checkpoint import Decoder, load_decoder
from possm.data.series import Signal
from possm.decoders import DECODERS, build_decoder
from possm.errors import CheckpointError, ConfigError, RecordingError
from possm.evaluation.score import decode, evaluate
from possm.training.finetune import FinetuneConfig, adapted_start, finetune

OLD = [toys.recording(seconds=30, session=f"day{day}", seed=day) for day in range(2)]
NEW = toys.recording(seconds=60, session="today", units=13, seed=7)
DECODER = toys.decoder_for(*OLD)


def config_of(**changes):
    return FinetuneConfig(**{"steps": 6, "window_s": 1.0, "batch_size": 8, **changes})


def with_signals(recording, **signals):
    return replace(recording, signals={**recording.signals, **signals})


pytestmark = pytest.mark.usefixtures("one_thread")


def refused(error, recordings, config, tmp_path, match, decoder=DECODER):
    steps = []
    with pytest.raises(error, match=match) as caught:
        finetune(decoder, recordings, config, tmp_path / "run", progress=steps.append)
    assert not steps
    assert not (tmp_path / "run").exists()
    return caught.value


@pytest.mark.parametrize("seconds", [1.2, 0.5])
def test_a_calibration_shorter_than_a_window(tmp_path, seconds):
    """Of 1.2 s, 0.96 s are left to train on."""
    error = refused(ConfigError, [NEW], config_of(minutes=seconds / 60), tmp_path, "shorter than a window")
    assert "today" in str(error)


def test_a_calibration_longer_than_the_recording(tmp_path):
    error = refused(ConfigError, [NEW], config_of(minutes=2), tmp_path, "shorter than the calibration")
    assert error.fix


def test_a_session_the_decoder_knows(tmp_path):
    error = refused(ConfigError, [OLD[1]], config_of(), tmp_path, "already knows this session")
    assert "--again" in error.fix


def test_a_session_listed_twice(tmp_path):
    other = toys.recording(seconds=30, session="today", seed=9)
    refused(ConfigError, [NEW, other], config_of(), tmp_path, "same session")
    refused(ConfigError, [OLD[0], OLD[0]], config_of(again=True), tmp_path, "same session")


def test_a_behavior_of_another_name_is_renamed_and_stays_so(tmp_path):
    """As told now, and as the decoder was told when it was trained; the adapted one knows both."""
    told = replace(DECODER, provenance={"training": {"rename": ["speed=vel"]}})
    new = [
        replace(NEW, session_id=name, signals={name: NEW.signals["vel"]}) for name in ("speed", "velocity")
    ]
    result = finetune(told, new, config_of(rename=("velocity=vel",)), tmp_path)
    decoder = load_decoder(result.path)
    assert decoder.renames == ("speed=vel", "velocity=vel")
    assert {"speed", "velocity"} <= set(decoder.vocabulary.sessions)
    told = replace(DECODER, provenance={"training": {"rename": ["speed:speed=vel"]}})
    finetune(told, new[:1], config_of(rename=("speed:speed=vel",)), tmp_path / "again")  # said twice


def test_advice_is_of_options_that_adapting_has(tmp_path):
    other = replace(NEW, signals={"speed": NEW.signals["vel"]})
    error = refused(RecordingError, [other], config_of(), tmp_path, "no behavior 'vel'")
    assert "--rename" in error.fix
    assert "--allow-missing" not in error.fix
    assert FinetuneConfig().rename == ()
    refused(ConfigError, [NEW], config_of(rename=("speed=vel", "x=y")), tmp_path, "changes nothing")


def test_a_behavior_that_is_not_there(tmp_path):
    gone = replace(NEW, signals={"force": NEW.signals["vel"]})
    error = refused(RecordingError, [gone], config_of(), tmp_path, "no behavior 'vel'")
    assert "force" in str(error.got)


def test_a_behavior_that_is_something_else(tmp_path):
    """The decoder's vel has two dimensions; the recording cannot have it retrained to three."""
    values = np.random.default_rng(0).standard_normal((6000, 3))
    other = with_signals(NEW, vel=Signal(values, rate_hz=100.0))
    error = refused(ConfigError, [other], config_of(), tmp_path, "knows 'vel' as something else")
    assert "num_dimensions=3" in str(error.got)


def test_bins_that_do_not_fit_the_decoders_chunks(tmp_path):
    binned = toys.recording(seconds=60, session="today", bin_ms=20)
    refused(ConfigError, [binned], config_of(), tmp_path, "whole number of the recording's bins")


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "half"},
        {"start": "warm"},
        {"scaling": "mine"},
        {"minutes": 0.0},
        {"minutes": float("nan")},
        {"valid_share": 1.0},
        {"units_share": 1.0},
        {"steps": 0},
        {"rank": 0},
        {"patience": 0},
        {"anchor_decay": -1.0},
        {"full_rate": 0.0},
    ],
)
def test_settings_out_of_range(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        config_of(**change)


def decoder_of(kind, **sizes):
    """An untrained decoder of any kind that knows the old sessions."""
    vocabulary = DECODER.vocabulary
    config = DECODERS[kind].config(behaviors=DECODER.config.behaviors, **sizes)
    rows = {"num_units": len(vocabulary.units), "num_sessions": len(vocabulary.sessions)}
    model = build_decoder(config, **rows)
    model.fit_inputs(OLD, vocabulary)
    return Decoder(model.eval(), vocabulary, DECODER.scaling)


SMALL = {
    "recurrent": {"hidden": 16},
    "mlp": {},
    "poyo": {"width": 16, "depth": 1, "head_width": 16, "num_rotary_pairs": 4, "self_heads": 1},
    "ndt2": {},
}


@pytest.mark.parametrize("kind", SMALL)
def test_other_decoders_are_adapted_too(tmp_path, kind):
    """The count-based ones normalise new units by the calibration, and none forgets its old sessions."""
    decoder = decoder_of(kind, **SMALL[kind])
    result = finetune(decoder, [NEW], config_of(steps=2, minutes=0.5), tmp_path)
    adapted = load_decoder(result.path)
    assert evaluate(adapted, NEW)[0][0].chunks > 0
    old, new = (decode(d, OLD[1], OLD[1].split("test"))["vel"].values for d in (decoder, adapted))
    np.testing.assert_allclose(old, new, atol=1e-5)


@pytest.mark.parametrize("kind", ["wiener", "kalman"])
def test_a_decoder_that_is_fitted_in_one_go(tmp_path, kind):
    decoder = decoder_of(kind)
    refused(ConfigError, [NEW], config_of(), tmp_path, "fitted in one go", decoder=decoder)


def test_again(tmp_path):
    """A known session: its rows and units that the decoder lacks change, nothing else, and no row is lost."""
    more = replace(OLD[1], unit_ids=(*OLD[1].unit_ids[:19], "one more"))
    result = finetune(DECODER, [more], config_of(again=True), tmp_path)
    before, after = DECODER.model.state_dict(), result.decoder.model.state_dict()
    vocabulary = result.decoder.vocabulary
    assert vocabulary.sessions == DECODER.vocabulary.sessions
    assert vocabulary.units == (*DECODER.vocabulary.units, "day1/one more")
    start = adapted_start(DECODER, [more], config_of(again=True)).model.state_dict()
    assert torch.equal(start["token.unit.weight"][:41], before["token.unit.weight"])
    units = [*range(21, 40), 41]
    others = [row for row in range(42) if row not in units]
    assert torch.equal(after["token.unit.weight"][others], start["token.unit.weight"][others])
    assert not (after["token.unit.weight"][units] == start["token.unit.weight"][units]).all(dim=1).any()
    assert torch.equal(after["session.weight"][0], before["session.weight"][0])
    assert not torch.equal(after["session.weight"][1], before["session.weight"][1])


def test_without_the_old_sessions(tmp_path):
    result = finetune(DECODER, [NEW], config_of(keep=False), tmp_path)
    adapted = load_decoder(result.path)
    assert adapted.vocabulary.sessions == ("today",)
    assert len(adapted.model.state_dict()["token.unit.weight"]) == 1 + 13
    assert evaluate(adapted, NEW)[0][0].chunks > 0
    with pytest.raises(CheckpointError, match="never seen"):
        decode(adapted, OLD[0], OLD[0].split("test"))


def test_a_behavior_the_decoder_does_not_know(tmp_path):
    """It gets a readout of its own, trained even where all else is frozen; the old behaviors stay."""
    rng = np.random.default_rng(0)
    values = NEW.signals["vel"].values @ rng.standard_normal((2, 3)) + 7
    today = with_signals(NEW, force=Signal(values, rate_hz=100.0, unit="N"))
    result = finetune(DECODER, [today], config_of(behavior=("force",), steps=12), tmp_path)
    adapted, before = load_decoder(result.path), DECODER.model.state_dict()
    assert list(adapted.config.behaviors) == ["vel", "force"]
    after = adapted.model.state_dict()
    assert all(torch.equal(after[name][: len(value)], value) for name, value in before.items())
    start = adapted_start(DECODER, [today], config_of(behavior=("force",))).model.state_dict()
    fresh = [name for name in after if name.startswith("readouts.@force")]
    assert len(fresh) == 3
    assert not any(torch.equal(after[name], start[name]) for name in fresh)
    scores = {score.behavior: score for score in evaluate(adapted, today)[0]}
    assert scores.keys() == {"vel", "force"}
    assert adapted.scaling["force"].unit == "N"
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {key for key in rows[0] if key.startswith("valid_r2/")} == {"valid_r2/today/force"}
    assert {score.behavior for score in evaluate(adapted, OLD[0])[0]} == {"vel"}  # day0 has no force
    old = decode(adapted, OLD[0], OLD[0].split("test"), times_s={"vel": np.arange(25.0, 26, 0.1)})
    assert len(old["vel"].values) == 10


@pytest.mark.parametrize(
    ("scaling", "factor", "own"),
    [("auto", 1.0, False), ("auto", 3.0, True), ("own", 1.0, True), ("decoder", 3.0, False)],
)
def test_the_scale_of_a_new_session(scaling, factor, own):
    signal = NEW.signals["vel"]
    today = with_signals(NEW, vel=replace(signal, values=signal.values * factor))
    start = adapted_start(DECODER, [today], config_of(scaling=scaling, minutes=0.5))
    assert ("today" in start.session_scaling) == own
    assert start.scaling == DECODER.scaling
    if own:
        inside = start.recordings[0].split("train").contains(signal.times_s)
        wanted = (signal.values * factor)[inside].std(axis=0)
        np.testing.assert_allclose(start.session_scaling["today"]["vel"].std, wanted, rtol=1e-9)


def test_another_physical_unit_has_its_own_scale():
    today = with_signals(NEW, vel=replace(NEW.signals["vel"], unit="m/s"))
    start = adapted_start(DECODER, [today], config_of())
    assert start.session_scaling["today"]["vel"].unit == "m/s"


def test_artefacts_are_capped_and_reported(tmp_path):
    """All units at once, twenty times as much as ever, in more bins than the percentile leaves out."""
    binned = toys.recording(seconds=60, session="today", units=13, seed=7, bin_ms=50)
    most = binned.binned.values.max()
    values = binned.binned.values.copy()
    values[::80] = 40
    noisy = replace(binned, binned=replace(binned.binned, values=values))
    start = adapted_start(DECODER, [noisy], config_of())
    assert start.summary["capped_share"] > 0.1
    rows = start.vocabulary.unit_rows(noisy)
    assert start.vocabulary.caps_of(rows).max() <= most < 20
    assert start.vocabulary.caps_of(DECODER.vocabulary.unit_rows(OLD[0])) is None
    uncapped = adapted_start(DECODER, [noisy], config_of(cap_percentile=None))
    assert uncapped.vocabulary.caps == ()
    result = finetune(DECODER, [noisy], config_of(), tmp_path)
    assert load_decoder(result.path).vocabulary.caps == result.decoder.vocabulary.caps != ()
    assert json.loads((tmp_path / "summary.json").read_text())["capped_share"] > 0.1


def test_training_from_scratch_caps_if_asked(tmp_path):
    from possm.model.decoder import PossmConfig
    from possm.training.loop import TrainConfig, train

    config = TrainConfig(
        behavior=("vel",), decoder=PossmConfig(**toys.TINY), epochs=1, window_s=1.0, cap_percentile=90.0
    )
    result = train([OLD[0]], config, tmp_path / "capped")
    caps = load_decoder(result.path).vocabulary.caps
    assert min(caps[1:]) >= 1
    assert 0 < result.summary["capped_share"] < 0.1
    plain = train([OLD[0]], replace(config, cap_percentile=None), tmp_path / "plain")
    assert plain.decoder.vocabulary.caps == ()
    assert "capped_share" not in plain.summary
