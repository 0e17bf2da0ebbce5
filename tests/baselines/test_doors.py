"""Every baseline through the doors all decoders share: train, file, score, stream; and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import toys
from possm.checkpoint import load_decoder
from possm.data.intervals import Intervals
from possm.data.series import Signal
from possm.decoders import kind_of
from possm.errors import ConfigError, PossmError, RecordingError
from possm.evaluation.score import decode, evaluate
from possm.streaming.live import LiveDecoder
from possm.training.loop import TrainConfig, train
from possm.training.presets import PRESETS

NAMES = ("gru", "s4d", "mamba", "mlp", "wiener", "kalman")
CLOSED = ("wiener", "kalman")
SMALL = {
    "gru": {"width": 8, "hidden": 12},
    "s4d": {"width": 8, "hidden": 12},
    "mamba": {"width": 8, "hidden": 12},
    "mlp": {"hidden": 12, "history_ms": 200},
    "wiener": {"lags": (3,), "widths": (1, 2)},
    "kalman": {"ahead": (0, 1), "orders": (1, 2), "widths": (1, 2)},
}
RECORDING = toys.recording(seconds=30, units=10)


pytestmark = pytest.mark.usefixtures("one_thread")


def config_of(name, **changes):
    """The preset, made small."""
    config = PRESETS[name](TrainConfig(behavior=("vel",), device="cpu"))
    quick = {"epochs": 2, "valid_every": 1, "window_s": 1.0, "batch_size": 8}
    return replace(config, decoder=replace(config.decoder, **SMALL[name]), **{**quick, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Name -> the result of a run on two recordings, and its folder; made when first asked for."""
    made = {}

    def of(name):
        if name not in made:
            other = toys.recording(seconds=30, units=6, seed=3, session="day2", bin_ms=50)
            folder = tmp_path_factory.mktemp(name)
            made[name] = train([RECORDING, other], config_of(name), folder), folder
        return made[name]

    return of


@pytest.mark.parametrize("name", NAMES)
class TestRun:
    def test_what_a_run_leaves(self, trained, name):
        result, folder = trained(name)
        files = {"config.json", "decoder.safetensors", "metrics.jsonl", "summary.json"}
        assert {p.name for p in folder.iterdir()} - {"resume.safetensors"} == files
        summary = json.loads((folder / "summary.json").read_text())
        assert result.summary == summary
        assert {"best_valid_r2", "wall_s", "cpu_s", "parameters", "peak_memory_mb"} <= set(summary)
        assert summary["parameters"] == sum(p.numel() for p in result.decoder.model.parameters()) > 0
        row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        assert {"epoch", "step", "train_loss", "valid_r2", "wall_s", "valid_r2/day2/vel"} <= set(row)
        assert np.isfinite([row["train_loss"], row["valid_r2"]]).all()
        assert result.decoder.provenance["training"]["behavior"] == ("vel",)
        assert json.loads((folder / "config.json").read_text())["seed"] == 0

    def test_a_file_brings_it_back(self, trained, name):
        result, _ = trained(name)
        back = load_decoder(result.path)
        assert back.config == result.decoder.config
        assert kind_of(back.config) == kind_of(config_of(name).decoder)
        assert back.hash == result.decoder.hash
        ours, theirs = result.decoder.model.state_dict(), back.model.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(ours[key].equal(theirs[key]) and ours[key].dtype == theirs[key].dtype for key in ours)
        one, other = (decode(d, RECORDING, RECORDING.domain)["vel"].values for d in (result.decoder, back))
        np.testing.assert_array_equal(one, other)
        assert one.std() > 0

    def test_the_hash_sees_the_inputs(self, trained, name):
        """Mean, deviation and cap of a unit are part of the decoder."""
        back = load_decoder(trained(name)[0].path)
        back.model.counts.mean[1] += 1e-3
        assert back.hash != trained(name)[0].decoder.hash

    def test_inputs_were_fitted_before_the_first_step(self, trained, name):
        counts = trained(name)[0].decoder.model.counts
        assert counts.session.tolist() == [-1, *[0] * 10, *[1] * 6]
        assert counts.mean[1:].min() > 0
        assert counts.cap[1:].isfinite().all()

    def test_a_stream_answers_like_a_batch(self, trained, name, tmp_path):
        """Pushed in packets that are no chunks, saved and resumed on the way."""
        decoder = trained(name)[0].decoder
        wanted = decode(decoder, RECORDING, Intervals.of([(0.0, 8.0)]))["vel"]
        given = {"vel": RECORDING.behavior("vel").times_s[:800]}
        live = LiveDecoder(decoder, session="toy", output_times_s=given)
        got, edges_s = [], np.append(np.arange(0, 8, 0.083), 8.0)
        for number, (begin_s, end_s) in enumerate(zip(edges_s[:-1], edges_s[1:], strict=True)):
            times_s, unit, count = RECORDING.tokens(begin_s, end_s)
            got += live.push(times_s, unit, end_s, count)
            if number == 40:
                live = LiveDecoder.resume(live.save(tmp_path / "stream.safetensors"), decoder)
        times_s = np.concatenate([p.times_s for p in got])
        values = np.concatenate([p.values for p in got])
        both = np.isin(wanted.times_s, times_s)
        assert both.sum() > 750
        np.testing.assert_allclose(values[np.isin(times_s, wanted.times_s)], wanted.values[both], atol=1e-3)

    def test_the_same_command_again(self, trained, name):
        result, folder = trained(name)
        before = result.decoder.model.state_dict()
        other = toys.recording(seconds=30, units=6, seed=3, session="day2", bin_ms=50)
        again = train([RECORDING, other], config_of(name), folder)
        assert all(before[key].equal(value) for key, value in again.decoder.model.state_dict().items())

    def test_a_folder_of_another_run(self, trained, name):
        other = config_of(name, seed=1)
        with pytest.raises(ConfigError, match="other settings"):
            train([RECORDING, RECORDING], other, trained(name)[1]) if name in CLOSED else train(
                [RECORDING], other, trained(name)[1]
            )


@pytest.mark.parametrize("name", NAMES)
class TestUnusualRecordings:
    def test_one_unit(self, name, tmp_path):
        """Decoded as well as it goes."""
        recording = toys.recording(seconds=30, units=1)
        result = train([recording], config_of(name), tmp_path)
        assert np.isfinite(evaluate(result.decoder, recording)[0][0].r2)

    def test_a_unit_that_never_fires_in_training(self, name, tmp_path):
        recording = toys.recording(seconds=30, units=4)
        keep = (recording.spikes.unit != 2) | (recording.spikes.times_s > 25)
        spikes = replace(
            recording.spikes, times_s=recording.spikes.times_s[keep], unit=recording.spikes.unit[keep]
        )
        silent = replace(recording, spikes=spikes)
        result = train([silent], config_of(name), tmp_path)
        assert np.isfinite(evaluate(result.decoder, silent)[0][0].r2)

    def test_a_domain_with_cuts(self, name, tmp_path):
        """Reaches that were cut out and joined: no stretch is longer than two seconds."""
        starts_s = np.arange(0.0, 28.0, 2.0)
        pieces = Intervals.of([(s, s + 2.0) for s in starts_s])
        parts = {"train": slice(0, 9), "valid": slice(9, 11), "test": slice(11, 14)}
        intervals = {f"{k}_domain": Intervals(pieces.start_s[s], pieces.end_s[s]) for k, s in parts.items()}
        recording = replace(RECORDING, domain=pieces, intervals=intervals)
        result = train([recording], config_of(name), tmp_path)
        assert np.isfinite(evaluate(result.decoder, recording)[0][0].r2)

    def test_no_validation_data(self, name, tmp_path):
        times_s = RECORDING.behavior("vel").times_s
        values = np.array(RECORDING.behavior("vel").values)
        values[RECORDING.split("valid").contains(times_s)] = np.nan
        recording = replace(RECORDING, signals={"vel": Signal(values, rate_hz=100.0)})
        with pytest.raises(RecordingError, match="alidation") as caught:
            train([recording], config_of(name), tmp_path / "run")
        assert "toy" in str(caught.value)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("split", ["train", "valid"])
    def test_no_split(self, name, split, tmp_path):
        intervals = {key: value for key, value in RECORDING.intervals.items() if key != f"{split}_domain"}
        with pytest.raises(RecordingError, match=split) as caught:
            train([replace(RECORDING, intervals=intervals)], config_of(name), tmp_path / "run")
        assert "toy" in str(caught.value)

    def test_chunks_that_bins_do_not_fill(self, name, tmp_path):
        config = config_of(name)
        config = replace(config, decoder=replace(config.decoder, chunk_ms=20))
        recording = toys.recording(seconds=30, bin_ms=50)
        with pytest.raises(PossmError, match="whole number") as caught:
            train([recording], config, tmp_path / "run")
        assert "toy" in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_learns_a_linear_code(name, tmp_path):
    """Most of what can be read is, on data held out, after 70 s of training data and a few steps."""
    recording = toys.recording(seconds=100, units=40)
    sizes = {"hidden": 48} if name not in CLOSED else {}
    config = config_of(name, epochs=16, valid_every=8, window_s=2.0)
    config = replace(config, decoder=replace(config.decoder, **sizes))
    config = replace(config, optim=replace(config.optim, learning_rate=1e-2))
    result = train([recording], config, tmp_path)
    assert evaluate(load_decoder(result.path), recording)[0][0].r2 > 0.7
