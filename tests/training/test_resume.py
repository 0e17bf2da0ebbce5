"""A run that is interrupted, killed or finds the disk full goes on later, and ends as if nothing had been."""

from __future__ import annotations

import errno
import json
import os
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

import toys
from possm.checkpoint import load_decoder
from possm.data.augment import AugmentConfig
from possm.errors import CheckpointError, ConfigError, PossmError
from possm.model.decoder import PossmConfig
from possm.training import run
from possm.training.loop import TrainConfig, train
from possm.training.optim import OptimConfig
from possm.training.resume import FILE, load_run, save_run

RECORDING = toys.recording(seconds=30)
CONFIG = TrainConfig(
    behavior=("vel",),
    decoder=PossmConfig(**toys.TINY),
    window_s=1.0,
    batch_size=8,
    epochs=4,
    valid_every=1,
    augment=AugmentConfig(min_units_kept=0.5, token_dropout=0.1),
)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train([RECORDING], CONFIG, tmp_path_factory.mktemp("whole"))


def rows_of(folder):
    """What a validation found, without the times it took."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "wall_s"} for row in rows]


def same(result, other):
    ours, theirs = (load_decoder(r.path) for r in (result, other))
    assert ours.provenance == theirs.provenance
    return ours.hash == theirs.hash


def interrupt_at(step):
    def progress(shown):
        if shown.step == step and shown.valid_score is None:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("step", [2, 4, 7, 11])
def test_after_ctrl_c(uninterrupted, tmp_path, step):
    """In the first epoch, in others, between two: bitwise the same decoder and the same metrics."""
    with pytest.raises(KeyboardInterrupt):
        train([RECORDING], CONFIG, tmp_path, progress=interrupt_at(step))
    torch.manual_seed(12345)  # another process has other random numbers
    again = train([RECORDING], CONFIG, tmp_path)
    assert same(again, uninterrupted)
    assert rows_of(tmp_path) == rows_of(uninterrupted.path.parent)


def test_interrupted_again_and_again(uninterrupted, tmp_path):
    for step in (4, 5, 7, 8, 9):
        with pytest.raises(KeyboardInterrupt):
            train([RECORDING], CONFIG, tmp_path, progress=interrupt_at(step))
    assert same(train([RECORDING], CONFIG, tmp_path), uninterrupted)


def test_it_does_go_on(tmp_path):
    """Not from the start: the steps before the last validation are not taken again."""
    with pytest.raises(KeyboardInterrupt):
        train([RECORDING], CONFIG, tmp_path, progress=interrupt_at(8))
    assert load_decoder(tmp_path / "decoder.safetensors")  # the best so far can be used already
    shown = []
    train([RECORDING], CONFIG, tmp_path, progress=shown.append)
    assert shown[0].step == 7  # three steps an epoch, two epochs were done
    assert shown[0].epoch == 2


@pytest.mark.parametrize("name", ["save_decoder", "save_run", "_write"])
def test_killed_while_saving(uninterrupted, tmp_path, monkeypatch, name):
    """Between any two of the files that a validation writes."""
    real, calls = getattr(run, name), []

    def dies(*arguments, **settings):
        calls.append(name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **settings)

    monkeypatch.setattr(run, name, dies)
    with pytest.raises(KeyboardInterrupt):
        train([RECORDING], CONFIG, tmp_path)
    monkeypatch.undo()
    assert same(train([RECORDING], CONFIG, tmp_path), uninterrupted)
    assert rows_of(tmp_path) == rows_of(uninterrupted.path.parent)


def test_a_finished_run_changes_nothing(uninterrupted):
    folder = uninterrupted.path.parent
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    decoder = load_decoder(folder / "decoder.safetensors").hash
    shown = []
    again = train([RECORDING], CONFIG, folder, progress=shown.append)
    after = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert not shown
    assert load_decoder(again.path).hash == decoder
    summary, was = (json.loads(files.pop("summary.json")) for files in (after, before))
    assert before.pop("decoder.safetensors")  # its metadata may be written in another order
    assert after.pop("decoder.safetensors")
    assert before == after
    assert {k: v for k, v in summary.items() if k != "peak_memory_mb"} == {
        k: v for k, v in was.items() if k != "peak_memory_mb"
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"epochs": 5}, "epochs was 4, now 5"),
        ({"optim": OptimConfig(learning_rate=0.1, token_rate=0.3)}, "optim.learning_rate was 0.002, now 0.1"),
        ({"decoder": PossmConfig(**{**toys.TINY, "hidden": 8})}, "decoder.hidden was 24, now 8"),
    ],
)
def test_other_settings_are_named(uninterrupted, change, says):
    folder = uninterrupted.path.parent
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(ConfigError, match="run with other settings") as caught:
        train([RECORDING], replace(CONFIG, **change), folder)
    assert caught.value.got == says
    assert before == {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("what", ["session", "units", "data"])
def test_other_recordings_are_refused(uninterrupted, what):
    """Of another session, with other units, or with other values under the old names."""
    other = toys.recording(seconds=30, seed=1)
    if what == "session":
        other = replace(RECORDING, session_id="other")
    elif what == "units":
        other = replace(RECORDING, unit_ids=(*RECORDING.unit_ids, "one more"))
    with pytest.raises(ConfigError, match="run with other settings"):
        train([other], CONFIG, uninterrupted.path.parent)


def test_a_damaged_resume_file(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train([RECORDING], CONFIG, tmp_path, progress=interrupt_at(5))
    path = tmp_path / FILE
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    damages = [whole[:100], whole[:-1], b"", b"not a file of tensors"]
    for bit in rng.integers(0, len(whole) * 8, 20):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << (bit % 8)
        damages.append(bytes(flipped))
    for damaged in damages:
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="interrupted run cannot be read") as caught:
            train([RECORDING], CONFIG, tmp_path)
        assert "delete it" in str(caught.value.fix)


@pytest.mark.parametrize("fails_at", range(1, 8))
def test_disk_full(uninterrupted, tmp_path, monkeypatch, fails_at):
    """At any of the files written: a clear error, what was saved before can be read, and the run goes on."""
    real, written = os.replace, []

    def full(source, target):
        written.append(target)
        if len(written) == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(PossmError, match="No space left"):
        train([RECORDING], CONFIG, tmp_path)
    monkeypatch.undo()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    if (tmp_path / "decoder.safetensors").exists():
        load_decoder(tmp_path / "decoder.safetensors")
    assert same(train([RECORDING], CONFIG, tmp_path), uninterrupted)


def test_moments_go_back_to_their_parameter_however_they_are_grouped(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False))
    first, second = model.parameters()
    optimizer = torch.optim.AdamW([first, second])
    (second.sum() + 2 * first.sum()).backward()
    optimizer.step()
    modules = {"model": model, "average": deepcopy(model), "best": deepcopy(model)}
    save_run(tmp_path, {}, {}, **modules, optimizer=optimizer)
    swapped = torch.optim.AdamW([{"params": [second]}, {"params": [first]}])
    saved = load_run(tmp_path, {})
    saved.restore(**modules, optimizer=swapped)
    for parameter in (first, second):
        torch.testing.assert_close(
            swapped.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg"], rtol=0, atol=0
        )
    with pytest.raises(CheckpointError, match="another version"):
        fewer = torch.optim.AdamW([first])
        saved.restore(**modules, optimizer=fewer)
