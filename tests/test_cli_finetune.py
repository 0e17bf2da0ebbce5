"""`possm finetune` from a decoder and a recording to a decoder that knows it, and what it says on the way."""

from __future__ import annotations

import pytest

import toys
from possm import cli
from possm.checkpoint import load_decoder, save_decoder
from possm.data.formats.hdf5 import write_hdf5
from possm.data.simulate import SimulationConfig, simulate_session
from possm.model.decoder import BehaviorConfig

QUICK = ("--steps", "4", "--window-s", "1.0", "--batch-size", "8", "--device", "cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With recordings of two days of one array, and a decoder that knows the first."""
    made = tmp_path_factory.mktemp("cli")
    config = SimulationConfig(duration_s=40.0, num_units=12)
    days = [simulate_session(config, session=number) for number in (0, 1)]
    for name, day in zip(("day", "today"), days, strict=True):
        write_hdf5(day, made / f"{name}.h5")
    behaviors = {"cursor.vel": BehaviorConfig(num_dimensions=2)}
    save_decoder(toys.decoder_for(days[0], behaviors=behaviors), made / "d.safetensors")
    return made


def run(capsys, *words):
    """Exit status, stdout and stderr of one command line."""
    capsys.readouterr()
    status = cli.main([str(word) for word in words])
    shown = capsys.readouterr()
    return status, shown.out, shown.err


@pytest.mark.parametrize("mode", ["units", "full", "lora"])
def test_it_adapts_and_says_what_it_did(folder, capsys, tmp_path, mode):
    settings = ("--mode", mode, "--minutes", "0.3", "--start", "electrode", "--out", tmp_path)
    recordings = (folder / "d.safetensors", folder / "today.h5")
    status, out, err = run(capsys, "finetune", *recordings, *settings, *QUICK)
    assert status == 0, err
    assert err.startswith("epoch 0/")  # what the start is worth comes before the first step
    for word in ("units_from_electrode", "trained_parameters", "capped_share", "best_valid_r2"):
        assert word in out
    adapted = load_decoder(tmp_path / "decoder.safetensors")
    assert len(adapted.vocabulary.sessions) == 2
    again = run(capsys, "finetune", *recordings, *settings, *QUICK)
    assert again[0] == 0
    assert load_decoder(tmp_path / "decoder.safetensors").hash == adapted.hash


def test_what_it_refuses(folder, capsys, tmp_path):
    known = ("finetune", folder / "d.safetensors", folder / "day.h5", "--out", tmp_path, *QUICK)
    status, _, err = run(capsys, *known)
    assert status == 2
    assert "already knows this session" in err
    assert "--again" in err
    status, _, err = run(capsys, *known, "--again", "--mode", "half")
    assert status == 2
    assert "units, full, lora" in err
    status, _, err = run(capsys, "finetune", folder / "d.safetensors", folder / "today.h5", *known[3:],
                         "--minutes", "50")  # fmt: skip
    assert status == 2
    assert "shorter than the calibration" in err
    assert not list(tmp_path.iterdir())


def test_an_interruption_says_how_to_go_on(folder, capsys, tmp_path, monkeypatch):
    from possm.training.run import Run

    def interrupt(self, progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "run", interrupt)
    words = ("finetune", folder / "d.safetensors", folder / "today.h5", "--out", tmp_path, *QUICK)
    status, out, _ = run(capsys, *words)
    assert status == 130
    assert "the same command goes on" in out
