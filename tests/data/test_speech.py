"""Simulated speech against its ground truth."""

from dataclasses import replace

import numpy as np
import pytest

from possm.data.articulation import ARTICULATORS
from possm.data.formats.hdf5 import read_hdf5, write_hdf5
from possm.data.phonemes import SILENCE, split_phonemes
from possm.data.recording import Recording
from possm.data.speech import (
    SpeechConfig,
    draw_sentence,
    simulate_speech,
    simulate_speech_dataset,
    simulated_speech_channels,
    simulated_talking,
)
from possm.data.speech_channels import SpeechDrift, rotated
from possm.data.summary import inspect
from possm.errors import ConfigError

SHORT = SpeechConfig(num_sentences=20, min_sentence_s=1.0, max_sentence_s=3.0, num_units=64)


@pytest.fixture(scope="module")
def recording() -> Recording:
    return simulate_speech(SHORT, subject=1, session=2, seed=3)


def latent_r2(config: SpeechConfig, values: np.ndarray, shift: int = 5) -> float:
    """How much of the articulators' positions a ridge on five bins explains in the last third of a day.

    Channels lead: the positions of a bin are read from the values `shift` bins earlier and those around.
    """
    talking = simulated_talking(config)
    times = (np.arange(len(values)) + 0.5) * config.bin_ms / 1000
    target = talking.latents(times)[:, : len(ARTICULATORS)]
    lagged = [np.roll(values, lag, axis=0) for lag in range(shift - 2, shift + 3)]
    inputs = np.column_stack([*lagged, np.ones(len(values))])
    cut = 2 * len(values) // 3
    gram = inputs[:cut].T @ inputs[:cut] + 10 * np.eye(inputs.shape[1])
    guess = inputs[cut:] @ np.linalg.solve(gram, inputs[:cut].T @ target[:cut])
    return float(1 - ((target[cut:] - guess) ** 2).sum() / ((target[cut:] - target[cut:].mean(0)) ** 2).sum())


def test_what_is_in_a_session(recording):
    assert recording.session_id == "speech-s01-d02" and recording.num_units == 64
    assert (
        recording.binned.rate_hz == 50.0
        and recording.unit_columns["area"].tolist() == ["6v"] * 32 + ["44"] * 32
    )
    trials = recording.intervals["trials"]
    lasts = trials.end_s - trials.start_s
    assert len(trials) == 20 and lasts.min() >= 1.0 - 1e-9 and lasts.max() <= 3.02
    assert lasts.max() > 1.5 * lasts.min()
    assert recording.domain.end_s[0] > trials.end_s[-1] and (trials.start_s[1:] > trials.end_s[:-1]).all()
    for phonemes, text in zip(trials.columns["phonemes"], trials.columns["text"], strict=True):
        symbols = split_phonemes(phonemes)
        assert symbols[-1] == SILENCE and symbols.count(SILENCE) == len(text.split())


def test_trials_begin_and_end_on_the_edges_of_bins(recording):
    for edges in (recording.intervals["trials"].start_s, recording.intervals["trials"].end_s):
        np.testing.assert_allclose(edges * 50, np.round(edges * 50), atol=1e-6)


def test_splits_are_whole_sentences(recording):
    numbers = [len(recording.split(part)) for part in ("train", "valid", "test")]
    assert numbers == [16, 2, 2]
    pieces = [pair for part in ("train", "valid", "test") for pair in recording.split(part)]
    assert sorted(pieces) == list(recording.intervals["trials"])


def test_the_same_numbers_give_the_same_session(recording):
    again = simulate_speech(SHORT, subject=1, session=2, seed=3)
    np.testing.assert_array_equal(again.binned.values, recording.binned.values)
    np.testing.assert_array_equal(again.features["power"].values, recording.features["power"].values)
    other = simulate_speech(SHORT, subject=1, session=2, seed=4)
    assert other.intervals["trials"].columns["text"][0] != recording.intervals["trials"].columns["text"][0]


def test_counts_have_the_rates_of_the_truth(recording):
    truth = simulated_speech_channels(SHORT, subject=1, session=2, seed=3)
    expected = truth.channels.mean_rate_hz * len(recording.binned) / 50
    counted = recording.binned.values.sum(axis=0)
    assert np.abs(counted - expected).max() < 5 * np.sqrt(expected.max())
    np.testing.assert_allclose(counted.sum(), expected.sum(), rtol=0.02)


def test_power_follows_the_rate_and_is_log_normal(recording):
    power = recording.features["power"]
    assert power.rate_hz == 50.0 and power.values.shape == recording.binned.values.shape
    assert power.values.min() > 0
    flat = simulate_speech(replace(SHORT, tuning=0.0, noise=0.0, private_noise=0.0, power_noise=0.4))
    truth = simulated_speech_channels(replace(SHORT, tuning=0.0))
    logs = np.log(flat.features["power"].values / truth.power_uv2)
    np.testing.assert_allclose(logs.mean(axis=0), 0.0, atol=0.08)
    np.testing.assert_allclose(logs.std(axis=0), 0.4, rtol=0.1)
    tuned = simulate_speech(SHORT)
    together = [
        np.corrcoef(a, np.log(b))[0, 1]
        for a, b in zip(tuned.binned.values.T[:32], tuned.features["power"].values.T[:32], strict=True)
    ]
    assert np.mean(together) > 0.05


def test_counts_and_power_know_of_the_articulators_and_6v_more_than_44():
    config = replace(SHORT, num_sentences=60)
    recording = simulate_speech(config)
    counts = np.sqrt(recording.binned.values.astype(float))
    power = np.log(recording.features["power"].values.astype(float))
    alone, both = latent_r2(config, counts[:, :32]), latent_r2(config, np.hstack([counts, power])[:, :96])
    assert both > alone + 0.02 > 0.2
    assert latent_r2(config, counts[:, 32:]) < 0.5 * alone
    untuned = replace(config, tuning=0.0)
    assert latent_r2(untuned, np.sqrt(simulate_speech(untuned).binned.values)) < 0.05


def test_days_drift_slowly():
    def loading(day: int) -> np.ndarray:
        return simulated_speech_channels(SHORT, session=day).channels.loading

    def alike(one: np.ndarray, two: np.ndarray) -> float:
        length = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
        return float(((one * two).sum(axis=1) / length).mean())

    assert np.rad2deg(np.arccos(alike(loading(0), loading(1)))) == pytest.approx(4.0, abs=1e-3)
    assert 0.99 > alike(loading(0), loading(10)) > 0.96  # a random walk of ten steps: about 13 degrees
    still = replace(SHORT, drift=SpeechDrift(gain=0, rate=0, rotation_deg=0, power=0))
    one, two = (simulated_speech_channels(still, session=day) for day in (0, 5))
    np.testing.assert_allclose(one.channels.loading, two.channels.loading, atol=1e-12)
    np.testing.assert_array_equal(one.power_uv2, two.power_uv2)


def test_rotated_rows_keep_their_length():
    rows = np.random.default_rng(0).standard_normal((50, 6))
    turned = rotated(rows, np.deg2rad(30), np.random.default_rng(1))
    lengths = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), lengths)
    np.testing.assert_allclose((rows * turned).sum(axis=1) / lengths**2, np.cos(np.deg2rad(30)))


def test_sentences_differ_in_rate_and_fill_the_range():
    config, rng = SpeechConfig(), np.random.default_rng(0)
    sentences = [draw_sentence(config, rng) for _ in range(300)]
    lasts = np.array([duration.sum() for _, _, duration in sentences]) + 0.6
    assert 2.0 - 1e-9 <= lasts.min() < 2.5 and 16 < lasts.max() <= 18.0 + 1e-9
    a_phoneme = np.log([np.mean(duration) for _, _, duration in sentences if len(duration) > 15])
    assert 0.12 < a_phoneme.std() < 0.25


def test_a_session_survives_its_file(recording, tmp_path):
    write_hdf5(recording, tmp_path / "a.h5")
    again = read_hdf5(tmp_path / "a.h5", lazy=False)
    np.testing.assert_array_equal(again.binned.values, recording.binned.values)
    np.testing.assert_array_equal(again.features["power"].values, recording.features["power"].values)
    assert f"power: {len(recording.binned)} x 64, bins of 20 ms\n" in inspect(tmp_path / "a.h5")
    for name in ("phonemes", "text"):
        one, two = (r.intervals["trials"].columns[name].tolist() for r in (again, recording))
        assert one == two


def test_days_are_sessions():
    config = replace(SHORT, num_sentences=4, num_units=4)
    made = [recording.session_id for recording in simulate_speech_dataset(config, num_sessions=2)]
    assert made == ["speech-s00-d00", "speech-s00-d01"]


@pytest.mark.parametrize(
    ("change", "about"),
    [
        ({"num_sentences": 0}, "num_sentences"),
        ({"min_sentence_s": 0.5}, "min_sentence_s"),
        ({"min_sentence_s": 3.0, "max_sentence_s": 2.0}, "max_sentence_s"),
        ({"power_noise": -1.0}, "power_noise"),
        ({"tuning": float("inf")}, "tuning"),
    ],
)
def test_what_cannot_be_simulated(change, about):
    with pytest.raises(ConfigError, match=about):
        SpeechConfig(**change)
    with pytest.raises(ConfigError, match="rotation_deg"):
        SpeechDrift(rotation_deg=-1.0)
