"""The command line: every subcommand answers --help, errors end with 2 and a message, and the path runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import toys
from data_releases import cell, save
from possm import __version__, cli
from possm.checkpoint import load_decoder, save_decoder
from possm.data.formats import load_recording, write_hdf5
from possm.data.simulate import SimulationConfig, simulate_session
from possm.errors import PossmError
from possm.model.decoder import BehaviorConfig

TINY = [
    *("--width", "16", "--hidden", "24", "--head-width", "16", "--num-rotary-pairs", "4"),
    *("--epochs", "2", "--valid-every", "1", "--window-s", "1.0", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With a recording and a decoder that knows it."""
    made = tmp_path_factory.mktemp("cli")
    config = SimulationConfig(duration_s=40.0, num_units=12)
    recordings = [simulate_session(config, session=number) for number in (0, 1)]
    write_hdf5(recordings[0], made / "day.h5")
    write_hdf5(recordings[1], made / "other.h5")
    behaviors = {"cursor.vel": BehaviorConfig(num_dimensions=2)}
    save_decoder(toys.decoder_for(recordings[0], behaviors=behaviors), made / "d.safetensors")
    return made


def run(capsys, *words) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of one command line, in this process."""
    capsys.readouterr()
    try:
        status = cli.main([str(word) for word in words])
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def shell(*words) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own."""
    line = [sys.executable, "-m", "possm", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120)


def test_overview(capsys):
    for words in ([], ["--help"], ["-h"]):
        status, out, _ = run(capsys, *words)
        assert status == 0
        for name, make in cli.COMMANDS.items():
            assert name in out
            assert (make.__doc__ or "?").splitlines()[0] in out


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"possm {__version__}\n", "")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_every_command(capsys, name):
    status, out, _ = run(capsys, name, "--help")
    assert status == 0
    assert f"usage: possm {name}" in out
    assert "--" in out.split("usage")[1]


WRONG = {
    "trian": "did you mean `possm train`?",
    "qqq": "`possm --help` lists the commands",
    "inspect": "no recording given",
    "inspect {}/absent.h5": "absent.h5",
    "evaluate {}/absent.safetensors {}/day.h5 --out {}/x": "there is no such file",
    "evaluate {}/day.h5 {}/day.h5 --out {}/x": "damaged or not a decoder",
    "evaluate {}/d.safetensors {}/other.h5 --out {}/x": "never seen this session",
    "evaluate {}/d.safetensors {}/day.h5 --out {}/x --split tset": "no split 'tset'",
    "evaluate {}/d.safetensors {}/day.h5 --out {}/x --within a": "no intervals 'a'",
    "train {}/day.h5 --behavior gaze --out {}/x": "no behavior 'gaze'",
    "train {}/day.h5 --behavior cursor.vel --out {}/x --epochs 0": "epochs is out of range",
    "train {}/day.h5 --behavior cursor.vel --out {}/day.h5/run": "day.h5/run",
    "stream {}/absent.safetensors --source replay:{}/day.h5 --sink csv:{}/o.csv": "no such file",
    "simulate --out {}/x --duration-s 1": "duration_s",
    "simulate --task juggling --out {}/x": "there is no task 'juggling'",
    "simulate --task speech --out {}/x --num-sentences 0": "num_sentences",
    "prepare {}/day.h5 --map limblab-binned --out {}/x.h5": "used as it is",
    "prepare {} --format falcon --out {}/x": "there is no format 'falcon'",
    "prepare {} --format willett-handwriting --out {}/x": "no handwriting session is here",
    "prepare {}/absent --format willett-speech --out {}/x": "no such file or folder",
}


@pytest.mark.parametrize(("words", "says"), WRONG.items(), ids=[*WRONG])
def test_errors_of_the_user(capsys, folder, words, says):
    status, out, err = run(capsys, *words.replace("{}", str(folder)).split())
    assert status == 2
    assert says in err
    assert err.startswith("possm: ")
    assert "Traceback" not in err
    assert out == ""
    assert not (folder / "x").exists()


@pytest.mark.parametrize(
    "words", [["train", "--no-such-option"], ["evaluate"], ["train", "x.h5", "--out", "x"]]
)
def test_wrong_options(capsys, words):
    status, _, err = run(capsys, *words)
    assert status == 2
    assert "Traceback" not in err
    assert "possm" in err


def test_debug_shows_where(capsys, folder):
    with pytest.raises(PossmError, match="no such file"):
        cli.main(["--debug", "evaluate", str(folder / "absent"), "x.h5", "--out", str(folder / "x")])


def test_in_a_shell(folder):
    """Status and streams as a script sees them, with and without --debug."""
    words = ["inspect", folder / "absent.h5"]
    quiet, loud = shell(*words), shell(*words, "--debug")
    assert (quiet.returncode, quiet.stdout) == (2, "")
    assert quiet.stderr.startswith("possm: ")
    assert "Traceback" not in quiet.stderr
    assert loud.returncode != 0
    assert "Traceback" in loud.stderr
    assert "RecordingError" in loud.stderr


def test_ctrl_c(capsys, folder, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("possm.training.loop.train", interrupted)
    status, out, err = run(
        capsys, "train", folder / "day.h5", "--behavior", "cursor.vel", "--out", folder / "x"
    )
    assert status == 130
    assert "the same command goes on" in out + err
    assert "Traceback" not in err


def test_a_full_disk(capsys, folder, monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    status, _, err = run(capsys, "simulate", "--out", tmp_path, "--duration-s", "30", "--num-units", "5")
    assert status == 2
    assert "No space left" in err
    assert not list(tmp_path.iterdir())


def test_chunk_and_lead(capsys, folder, tmp_path):
    """A decoder of another step is still strictly causal unless told otherwise."""
    words = ["train", folder / "day.h5", "--behavior", "cursor.vel", *TINY, "--epochs", "1"]
    for extra, causal in ([], True), (["--lead-ms", "0"], False):
        out = tmp_path / str(causal)
        assert run(capsys, *words, "--chunk-ms", "20", *extra, "--out", out)[0] == 0
        config = load_decoder(out / "decoder.safetensors").config
        assert (config.chunk_ms, config.strictly_causal) == (20, causal)
        assert config.effective_lead_ms == (20 if causal else 0)


@pytest.mark.parametrize(
    ("words", "column"),
    [
        ("--task handwriting --trials-per-character 3 --characters a b --num-units 5", "character"),
        ("--task=speech --num-sentences 10 --max-sentence-s 3 --num-units 5", "phonemes"),
    ],
)
def test_simulations_with_options_of_their_own(capsys, tmp_path, words, column):
    status, shown, _ = run(capsys, "simulate", *words.split(), "--sessions", "2", "--out", tmp_path)
    files = sorted(tmp_path.glob("*-d0?.h5"))
    assert status == 0 and len(files) == 2 and str(files[0]) in shown
    with load_recording(files[1]) as recording:
        assert column in recording.intervals["trials"].columns and len(recording.split("test"))


def test_preparing_a_release(capsys, tmp_path):
    counts = np.random.default_rng(0).poisson(1.0, (9000, 4)).astype(np.uint8)
    fields = {
        "neuralActivityTimeSeries": counts,
        "blockNumsTimeSeries": np.ones((9000, 1)),
        "characterCues": cell(["a", "b"] * 9, column=True),
        "goPeriodOnsetTimeBin": 200 + 400 * np.arange(18)[:, None],
    }
    save(tmp_path / "t5.2019.05.08" / "singleLetters.mat", fields)
    words = ["--format", "willett-handwriting", "--after-s", "1", "--out", tmp_path / "o"]
    status, shown, _ = run(capsys, "prepare", tmp_path, *words)
    assert status == 0 and "trials: 18 intervals, 32.4 s" in shown
    with load_recording(tmp_path / "o" / "t5.2019.05.08.h5") as recording:
        assert [len(recording.split(part)) for part in ("train", "valid", "test")] == [14, 2, 2]


def test_from_nothing_to_a_stream(capsys, tmp_path):
    """simulate -> inspect -> train -> evaluate -> stream, each on what the one before wrote."""
    data, out = tmp_path / "data", tmp_path / "run"
    words = ["--sessions", "2", "--subjects", "2", "--duration-s", "40", "--num-units", "12"]
    status, shown, _ = run(capsys, "simulate", "--out", data, *words)
    files = sorted(data.glob("*.h5"))
    assert status == 0
    assert len(files) == 2
    assert all(str(file) in shown for file in files)

    status, shown, _ = run(capsys, "inspect", *files)
    assert status == 0
    assert "cursor.vel" in shown
    assert "12 units" in shown

    words = ["train", *files, "--behavior", "cursor.vel", "cursor.pos", *TINY, "--out", out]
    status, shown, err = run(capsys, *words)
    assert status == 0
    assert "best_valid_r2" in shown
    assert str(out / "decoder.safetensors") in shown
    assert "valid R2" in err  # progress, a line per validation
    assert load_decoder(out / "decoder.safetensors").config.behaviors.keys() == {"cursor.vel", "cursor.pos"}

    words = [out / "decoder.safetensors", files[1], "--out", tmp_path / "score"]
    status, shown, _ = run(capsys, "evaluate", *words)
    assert status == 0
    assert "strictly causal" in shown
    rows = json.loads((tmp_path / "score" / "scores.json").read_text())
    assert [row["behavior"] for row in rows] == ["cursor.vel", "cursor.pos"]
    assert all(row["r2_wiener"] is not None for row in rows)
    assert (tmp_path / "score" / "report.html").stat().st_size > 10_000

    csv = tmp_path / "out.csv"
    words = ["--source", f"replay:{files[0]}", "--sink", f"csv:{csv}", "--session", files[0].stem]
    status, shown, err = run(capsys, "stream", out / "decoder.safetensors", *words)
    assert status == 0, err
    assert len(csv.read_text().splitlines()) > 500
