"""The published runs load and run on files of the layout they are written for, simulated and very small."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import toys
from possm import recipes
from possm.checkpoint import load_decoder
from possm.cli import main
from possm.config import from_json, to_json
from possm.data.collection import open_recordings
from possm.data.formats import write_hdf5
from possm.data.intervals import Intervals
from possm.data.simulate import SimulationConfig, simulate_session
from possm.errors import ConfigError
from possm.evaluation.score import evaluation_intervals
from possm.model.decoder import PossmConfig
from possm.training.config import TrainConfig
from possm.training.finetune import finetune
from possm.training.finetune_config import FinetuneConfig
from possm.training.loop import train

PERICH, ODOHERTY, CHURCHLAND, PEI = (source.brainset for source in recipes.PRETRAINING)
TINY = PossmConfig(**toys.TINY, lead_ms=0)
SIMULATED = {
    task: simulate_session(SimulationConfig(duration_s=30, num_units=6, task=task), seed=i)
    for i, task in enumerate(("center_out", "random_target"))
}


def a_file(folder, brainset, session, *, task="center_out", behaviors=None, drop=(), add=None):
    """One session as the brainset has it."""
    made = SIMULATED[task]
    intervals = {k: part for k, part in made.intervals.items() if not k.startswith(tuple(drop) or ("\0",))}
    signals = {new: made.signals[old] for old, new in (behaviors or {"cursor.vel": "cursor.vel"}).items()}
    attributes = {**made.attributes, "brainset.id": brainset}
    changed = replace(
        made,
        session_id=session,
        signals=signals,
        intervals={**intervals, **(add or {})},
        attributes=attributes,
    )
    write_hdf5(changed, folder / brainset / f"{session}.h5")


@pytest.fixture(scope="module")
def brainsets(tmp_path_factory):
    """Two sessions of Perich, one of each other dataset, and held-out ones beside them."""
    folder = tmp_path_factory.mktemp("processed")
    outlier = {"cursor_outlier_segments": Intervals.of([(1.0, 1.2)])}
    a_file(folder, PERICH, "c_20131003_center_out_reaching", add=outlier)
    a_file(folder, PERICH, "m_20150610_random_target_reaching", task="random_target", add=outlier)
    for held_out in ("c_20161013_center_out_reaching", "t_20130819_center_out_reaching"):
        a_file(folder, PERICH, held_out, add=outlier)
    a_file(folder, PERICH, "t_20130820_random_target_reaching", task="random_target", add=outlier)
    a_file(folder, ODOHERTY, "indy_20160407_02", task="random_target", drop=["movement_phases"])
    a_file(folder, ODOHERTY, "loco_20170214_02", task="random_target", drop=["movement_phases"])
    both = {"cursor.vel": "cursor.vel", "cursor.pos": "hand.vel"}
    a_file(folder, CHURCHLAND, "jenkins_20090912_center_out_reaching", behaviors=both)
    window = {"nlb_eval_intervals": SIMULATED["center_out"].intervals["movement_phases.reach_period"]}
    a_file(
        folder,
        PEI,
        "jenkins_maze_train",
        behaviors={"cursor.vel": "hand.vel"},
        drop=["movement_phases"],
        add=window,
    )
    return folder


def tiny(config: TrainConfig, **changes) -> TrainConfig:
    """The same with what makes it long taken away."""
    settings = {"decoder": TINY, "batch_size": 16, "epochs": 1, "valid_every": 1, "device": "cpu"}
    return replace(config, **{**settings, **changes})


@pytest.fixture(scope="module")
def foundation(brainsets, tmp_path_factory):
    recordings = open_recordings(recipes.pretraining_files(brainsets))
    out = tmp_path_factory.mktemp("foundation")
    return train(recordings, tiny(recipes.pretrain(), valid_s=5.0), out), out


def test_which_sessions(brainsets, caplog):
    names = [path.stem for path in recipes.pretraining_files(brainsets)]
    assert names == [
        "c_20131003_center_out_reaching",
        "m_20150610_random_target_reaching",
        "indy_20160407_02",
        "jenkins_20090912_center_out_reaching",
        "jenkins_maze_train",
    ]
    assert f"{PERICH}: 2 sessions, the paper has 93" in caplog.text
    held_out = recipes.files_of(brainsets, recipes.HELD_OUT.values())
    assert not set(held_out) & set(recipes.pretraining_files(brainsets))
    assert [path.stem[:10] for path in held_out] == ["c_20161013", "t_20130819", "t_20130820"]


def test_sessions_of_the_paper():
    assert sum(source.sessions for source in recipes.PRETRAINING) == 148
    assert {name: source.sessions for name, source in recipes.HELD_OUT.items()} == {
        "C-CO 2016": 2,
        "T-CO": 6,
        "T-RT": 6,
    }
    for source in recipes.HELD_OUT.values():
        assert not any(recipes.PRETRAINING[0].has(session) for session in source.starts)


def test_a_dataset_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="brainsets prepare perich_miller_population_2018"):
        recipes.pretraining_files(tmp_path)


def test_pretraining_runs(foundation):
    """All five sessions are trained and validated, each where its dataset is scored."""
    result, out = foundation
    decoder = load_decoder(result.path)
    assert len(decoder.vocabulary.sessions) == 5 and list(decoder.scaling) == ["cursor.vel"]
    assert set(decoder.session_scaling) == set(decoder.vocabulary.sessions)
    row = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert sum(key.startswith("valid_r2/") for key in row) == 5


def test_where_sessions_are_scored(brainsets):
    scored = recipes.SCORED["all"]
    for recording in open_recordings(recipes.pretraining_files(brainsets)):
        found = evaluation_intervals(recording, scored)
        wanted = {
            PERICH: ["movement_phases.reach_period", "movement_phases.random_period"],
            ODOHERTY: ["domain"],
            CHURCHLAND: ["movement_phases.reach_period"],
            PEI: ["nlb_eval_intervals"],
        }[recording.dataset_id]
        choices = [recording.domain if n == "domain" else recording.intervals.get(n) for n in wanted]
        choices = [choice for choice in choices if choice is not None]
        assert any(np.array_equal(found.start_s, choice.start_s) for choice in choices)


@pytest.mark.parametrize(("name", "session"), [("single-co", "t_20130819"), ("single-rt", "t_20130820")])
def test_single_sessions_run(brainsets, tmp_path, name, session):
    recordings = open_recordings((brainsets / PERICH).glob(f"{session}*.h5"))
    result = train(recordings, tiny(recipes.TRAINING[name]()), tmp_path)
    assert np.isfinite(result.summary["best_valid_r2"])


@pytest.mark.parametrize(
    ("name", "session"), [("units-co", "t_20130819"), ("full-co", "t_20130819"), ("units-rt", "t_20130820")]
)
def test_finetuning_runs(brainsets, foundation, tmp_path, name, session):
    recordings = open_recordings((brainsets / PERICH).glob(f"{session}*.h5"))
    config = replace(recipes.FINETUNING[name](), steps=6, batch_size=16, device="cpu")
    result = finetune(foundation[0].decoder, recordings, config, tmp_path)
    assert recordings[0].session_id in result.decoder.vocabulary.sessions
    assert np.isfinite(result.summary["best_valid_r2"])


def test_the_command_that_finetunes(brainsets, foundation, tmp_path, capsys):
    (session,) = (brainsets / PERICH).glob("t_20130819*.h5")
    begin = ["finetune", str(foundation[0].path), str(session), "--out", str(tmp_path)]
    short = ["--recipe", "units-co", "--steps", "3", "--batch-size", "16", "--device", "cpu"]
    assert main([*begin, *short]) == 0
    provenance = load_decoder(tmp_path / "decoder.safetensors").provenance
    assert provenance["training"]["interval_weights"] == recipes.CENTER_OUT
    assert main([*begin, "--recipe", "units-oc"]) == 2
    assert "did you mean 'units-co'?" in capsys.readouterr().err


@pytest.mark.parametrize("make", [*recipes.TRAINING.values(), *recipes.FINETUNING.values()])
def test_settings_survive_json(make):
    config = make()
    stored = json.loads(json.dumps(to_json(config)))
    stored.pop("decoder", None)
    kind = TrainConfig if isinstance(config, TrainConfig) else FinetuneConfig
    again = from_json(kind, stored)
    assert replace(again, decoder=config.decoder) == config if kind is TrainConfig else again == config


def test_an_unknown_task():
    with pytest.raises(ConfigError, match="no such task"):
        recipes.single_session("typing")


def test_the_command(brainsets, tmp_path, capsys):
    """A folder stands for the sessions of the recipe, and options change it."""
    short = ["--epochs", "1", "--batch-size", "16", "--valid-sessions", "1", "--device", "cpu"]
    arguments = ["train", str(brainsets), "--recipe", "pretrain", "--out", str(tmp_path), *short]
    assert main(arguments) == 0
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["behavior"] == ["cursor.vel"] and config["epochs"] == 1 and config["scaling"] == "dataset"
    assert config["decoder"]["lead_ms"] == 0
    assert main(["train", str(brainsets), "--recipe", "pretrian", "--out", str(tmp_path)]) == 2
    assert "did you mean 'pretrain'?" in capsys.readouterr().err


def test_recipes_are_the_papers_encoder():
    """No token at rest, which the paper does not have."""
    for name, make in recipes.TRAINING.items():
        assert make().decoder.rest == 0, name


def test_on_recordings_of_ones_own(tmp_path, capsys, caplog):
    """What only the paper's recordings have is left out and said; the rest of the recipe stands."""
    plain = replace(SIMULATED["center_out"], intervals=SIMULATED["center_out"].intervals.copy())
    for name in [name for name in plain.intervals if name.startswith("movement_phases")]:
        del plain.intervals[name]
    write_hdf5(replace(plain, session_id="mine"), tmp_path / "mine.h5")
    write_hdf5(replace(plain, session_id="new"), tmp_path / "new.h5")
    small = ["--width", "8", "--hidden", "8", "--epochs", "1", "--batch-size", "8", "--device", "cpu"]
    for recipe in ("foundation", "pretrain", "single-co"):
        out = tmp_path / recipe
        status = main(["train", str(tmp_path / "mine.h5"), "--recipe", recipe, "--out", str(out), *small])
        assert status == 0, capsys.readouterr().err
    assert "cursor_outlier_segments" in caplog.text
    named = ["--recipe", "foundation", "--behavior", "cursor.pos", "--out", str(tmp_path / "named")]
    assert main(["train", str(tmp_path / "mine.h5"), *named, *small]) == 0
    settings = load_decoder(tmp_path / "named/decoder.safetensors").provenance["training"]
    assert (settings["behavior"], settings["behavior_weights"]) == (["cursor.pos"], {})
    other = replace(plain, signals={"vel": plain.signals["cursor.vel"]})
    asked = replace(recipes.pretrain(), behavior=("vel",))
    assert recipes.suited(asked, [other]).rename == ()
    mistyped = replace(asked, evaluate_within="reachs", interval_weights={"holds": 2.0})
    kept = recipes.suited(mistyped, [other])
    assert (kept.evaluate_within, kept.interval_weights) == ("reachs", {"holds": 2.0})
    settings = load_decoder(out / "decoder.safetensors").provenance["training"]
    assert settings["interval_weights"] == {}
    assert settings["evaluate_within"] is None
    words = [out / "decoder.safetensors", tmp_path / "new.h5", "--out", tmp_path / "ft"]
    assert main(["finetune", *map(str, words), "--recipe", "units-co", "--steps", "2"]) == 0


def test_recordings_of_the_paper_keep_all_of_a_recipe(brainsets):
    recordings = open_recordings(recipes.pretraining_files(brainsets))
    assert recipes.suited(recipes.pretrain(), recordings) == recipes.pretrain()
