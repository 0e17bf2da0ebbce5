"""The Wiener filter as a decoder says what `fit_wiener` says, in a batch, in a file and in a stream."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import toys
from possm.baselines.fitted import FitInputs
from possm.baselines.wiener import WienerConfig, fit_wiener
from possm.baselines.wiener_decoder import WienerDecoderConfig, fit_wiener_decoder
from possm.checkpoint import Decoder
from possm.data.scaling import Scaling
from possm.data.series import Signal
from possm.data.vocabulary import Vocabulary
from possm.evaluation.metrics import r2
from possm.evaluation.score import decode, evaluate, targets_at
from possm.model.contract import BehaviorConfig


def fitted(*recordings, behaviors=("vel",), **changes):
    scaling = {name: Scaling.fit(recordings, name) for name in behaviors}
    sizes = {name: recordings[0].behavior(name).num_dimensions for name in behaviors}
    config = WienerDecoderConfig(
        behaviors={name: BehaviorConfig(num_dimensions=size) for name, size in sizes.items()},
        **{"lags": (3, 6), **changes},
    )
    vocabulary = Vocabulary.of(recordings)
    inputs = FitInputs(recordings=recordings, vocabulary=vocabulary, scaling_of=lambda session: scaling)
    return Decoder(fit_wiener_decoder(config, inputs), vocabulary, scaling)


@pytest.mark.parametrize("bin_ms", [None, 50])
def test_the_same_answers_as_the_filter_itself(bin_ms):
    recording = toys.recording(bin_ms=bin_ms)
    decoder = fitted(recording)
    alone = fit_wiener(recording, "vel", WienerConfig(lags=(3, 6)))
    times_s, wanted = alone.decode(recording, recording.split("test"))
    got = decode(decoder, recording, recording.split("test"))["vel"]
    assert decoder.config.history == alone.lags * alone.width
    both = np.isin(times_s, got.times_s)
    assert both.mean() > 0.98
    if bin_ms is None:  # chunks of the decoder begin with the split, bins of the filter with the recording
        truth = targets_at(recording, "vel", got.times_s)
        assert r2(truth, got.values) == pytest.approx(r2(truth, wanted[both]), abs=0.03)
    else:
        np.testing.assert_allclose(got.values, wanted[both], atol=1e-3)
    assert evaluate(decoder, recording)[0][0].r2 > 0.75


def test_spike_times_on_the_same_grid_give_the_same_numbers():
    """Decoded from the start of the domain, its chunks are the filter's bins."""
    recording = toys.recording()
    alone = fit_wiener(recording, "vel", WienerConfig(lags=(3, 6)))
    got = decode(fitted(recording), recording, recording.domain)["vel"]
    times_s, wanted = alone.decode(recording)
    late = got.times_s > 1.5  # before, the filter drops spans that begin before the recording, as a whole
    np.testing.assert_allclose(got.values[late], wanted[np.isin(times_s, got.times_s)][late], atol=1e-3)


@pytest.mark.parametrize("lead_ms", [0, 20, 50, 150])
def test_any_lead(lead_ms):
    """What is asked later is harder; the filter is fitted for what it will be asked."""
    recording = toys.recording(seconds=60)
    scores = [evaluate(fitted(recording, lead_ms=ms), recording)[0][0].r2 for ms in (lead_ms, 400)]
    assert scores[0] > 0.7
    assert scores[0] > scores[1] + 0.1


def test_finer_bins_are_summed_to_chunks():
    recordings = [toys.recording(bin_ms=ms) for ms in (10, 50)]
    values = [decode(fitted(r), r, r.split("test"))["vel"] for r in recordings]
    both = np.isin(values[0].times_s, values[1].times_s)
    truth = targets_at(recordings[0], "vel", values[0].times_s[both])
    assert r2(truth, values[0].values[both]) == pytest.approx(r2(truth, values[1].values), abs=0.03)


def test_sessions_and_behaviors_keep_to_themselves():
    """Two sessions and two behaviors in one decoder answer as four filters."""
    recordings = [toys.recording(seed=n, session=f"day{n}", units=8 + 4 * n, bin_ms=50) for n in (0, 1)]
    recordings = [
        replace(
            r,
            signals={
                **r.signals,
                "speed": Signal(np.hypot(*r.behavior("vel").values.T)[:, None], rate_hz=100.0),
            },
        )
        for r in recordings
    ]
    together = fitted(*recordings, behaviors=("vel", "speed"))
    for recording in recordings:
        got = decode(together, recording, recording.split("test"))
        for name in ("vel", "speed"):
            alone = fitted(recording, behaviors=(name,))
            wanted = decode(alone, recording, recording.split("test"))[name]
            np.testing.assert_allclose(got[name].values, wanted.values, atol=1e-3)
