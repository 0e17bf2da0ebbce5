"""Which recordings a bench takes, and what it decodes of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

import toys
from bench_helpers import write_toy
from possm.bench import sources as sources_module
from possm.bench.sources import behavior_weights, behaviors_of, native_files, sources
from possm.errors import ConfigError, RecordingError


def test_public_recordings_are_prepared_once_and_bad_days_left_out(tmp_path, monkeypatch):
    calls = []

    def prepare(path, *, map_name, out):
        calls.append((path.name, map_name))
        out.parent.mkdir(exist_ok=True)
        out.touch()

    monkeypatch.setattr(sources_module, "prepare", prepare)
    raw, data = tmp_path / "raw", tmp_path / "data"
    names = ["monkey_spike_wrist/Spike_07-18-12_WF_001.mat", "monkey_spike_wrist/Spike_07-20-12_WF_001.mat"]
    names += ["rat_place_cells/one.mat", "elsewhere/two.mat", "monkey_spike_wrist/notes.txt", "native.h5"]
    for name in names:
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).touch()
    wanted = [raw / "native.h5", data / "Spike_07-18-12_WF_001.h5", data / "one.h5"]
    assert native_files([raw], data) == wanted
    assert calls == [("Spike_07-18-12_WF_001.mat", "limblab-binned"), ("one.mat", "place-cells")]
    assert native_files([raw, raw / "native.h5", raw / "rat_place_cells"], data) == wanted
    assert len(calls) == 2
    assert native_files([raw / names[1]], data) == [data / "Spike_07-20-12_WF_001.h5"]  # asked for by name
    assert native_files([raw / "elsewhere/two.mat"], data) == [raw / "elsewhere/two.mat"]
    with pytest.raises(ConfigError, match="no recording in this folder"):
        native_files([raw / "elsewhere"], data)


def test_the_public_recordings_as_they_are(recordings, tmp_path):
    """All 18 of the table are found, and one is prepared and described."""
    files = list(sources_module._inside(recordings))
    folders = [file.parent.name for file in files]
    assert {name: folders.count(name) for name in folders} == {
        "monkey_spike_wrist": 15,
        "monkey_nick_reach": 1,
        "reach_contdata95": 1,
        "rat_place_cells": 1,
    }
    nick = next(file for file in files if file.parent.name == "monkey_nick_reach")
    (found,) = sources([nick], tmp_path)
    assert (found.name, found.group, found.chunk_ms) == ("nick_co_001-01", "nick", 50)
    assert found.behaviors == ("cursor.pos", "cursor.vel")


@pytest.mark.parametrize(
    ("names", "known", "wanted"),
    [
        (("hand.central_vel", "hand.pos", "hand.vel"), None, ("hand.pos", "hand.vel")),
        (("cursor.vel",), None, ("cursor.vel",)),
        (("emg", "force"), None, ("emg", "force")),
        (("rat.pos", "rat.vel"), "place-cells", ("rat.pos",)),
    ],
)
def test_what_is_decoded(names, known, wanted):
    recording = toys.recording()
    signals = {name: recording.signals["vel"] for name in names}
    attributes = {"possm_map": known} if known else {}
    assert behaviors_of(replace(recording, signals=signals, attributes=attributes)) == wanted


def test_velocity_beside_position_counts_less():
    assert behavior_weights(("cursor.pos", "cursor.vel", "hand.vel")) == {"cursor.vel": 0.3}
    assert behavior_weights(("cursor.vel", "hand.pos")) == {}
    with pytest.raises(ConfigError, match="nothing to decode"):
        behaviors_of(replace(toys.recording(), signals={}))


@pytest.mark.parametrize(
    ("bin_ms", "chunk_ms"), [(None, 50), (1, 50), (10, 50), (20, 40), (50, 50), (100, 100), (30, 60)]
)
def test_chunks_hold_whole_bins(tmp_path, bin_ms, chunk_ms):
    path = tmp_path / "a.h5"
    write_toy(path, seconds=30.0, units=3, bin_ms=bin_ms)
    (found,) = sources([path], tmp_path)
    assert found.chunk_ms == chunk_ms
    assert found.takes(20) == (bin_ms in (None, 1, 10, 20))
    assert (found.name, found.group, found.behaviors) == ("toy", "toy-animal", ("cursor.vel",))


def test_a_file_is_known_by_its_content(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_toy(tmp_path / f"{name}.h5", session=name[:1], seed=seed, seconds=30.0)
    one, two, three = sources([tmp_path], tmp_path, behavior=("cursor.vel",))
    assert len({one.digest, two.digest, three.digest}) == 3
    write_toy(tmp_path / "a.h5", session="a", seed=0, seconds=30.0)
    assert sources([tmp_path / "a.h5"], tmp_path)[0].digest == one.digest


def test_what_is_refused(tmp_path):
    write_toy(tmp_path / "a.h5", seconds=30.0)
    write_toy(tmp_path / "b.h5", seconds=30.0, seed=1)
    with pytest.raises(ConfigError, match="same session"):
        sources([tmp_path], tmp_path)
    with pytest.raises(ConfigError, match="no recording given"):
        sources([], tmp_path)
    with pytest.raises(RecordingError, match="absent"):
        sources([tmp_path / "absent.h5"], tmp_path)
