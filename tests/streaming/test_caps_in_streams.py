"""The caps a decoder was trained with hold in its streams, on every engine, and are counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from stream_helpers import (
    SESSION,
    UNITS,
    batch_answers,
    by_behavior,
    push_all,
    random_recording,
    small_decoder,
)

from possm.data.vocabulary import Vocabulary
from possm.streaming.export import export_decoder
from possm.streaming.live import LiveConfig, LiveDecoder

END_S = 4.0
RECORDING = random_recording(rate_hz=40.0)
IDS = [str(row) for row in range(UNITS)]
PLAIN = small_decoder()
CAPS = np.arange(UNITS) % 3 + 1.0
CAPPED = replace(PLAIN, vocabulary=PLAIN.vocabulary.with_caps(SESSION, IDS, CAPS))


def beyond(caps):
    """How many spikes of the recording go beyond the caps, counted one by one."""
    seen, dropped = {}, 0
    for time_s, unit in zip(RECORDING.spikes.times_s, RECORDING.spikes.unit, strict=True):
        key = (int(time_s * 1000) // 50, int(unit))
        seen[key] = seen.get(key, 0) + 1
        dropped += seen[key] > caps[unit]
    return dropped


@pytest.mark.parametrize("engine", ["torch", "onnx"])
@pytest.mark.parametrize("max_chunks", [1, 7])
def test_the_stream_is_the_batch(tmp_path, engine, max_chunks):
    times_s = {name: np.arange(1, 80) * 0.05 for name in PLAIN.config.behaviors}
    wanted = batch_answers(CAPPED, RECORDING, times_s)
    decoder = CAPPED if engine == "torch" else export_decoder(CAPPED, tmp_path / "capped.onnx")
    live = LiveDecoder(decoder, config=LiveConfig(max_chunks=max_chunks))
    got = by_behavior(push_all(live, RECORDING, until_s=END_S, packet_s=0.2))
    for name, (_, values) in got.items():
        np.testing.assert_allclose(values[:79], wanted[name], atol=1e-5)
    assert live.counts.capped == beyond(CAPS) > 50
    without = batch_answers(PLAIN, RECORDING, times_s)
    assert all(np.abs(wanted[name] - without[name]).max() > 1e-3 for name in wanted)


def test_the_lower_of_two_caps_holds():
    for max_count, caps in ((2, np.minimum(CAPS, 2)), (9, CAPS), (None, CAPS)):
        live = LiveDecoder(CAPPED, config=LiveConfig(max_count=max_count))
        push_all(live, RECORDING, until_s=END_S)
        assert live.counts.capped == beyond(caps)
    live = LiveDecoder(PLAIN)
    push_all(live, RECORDING, until_s=END_S)
    assert live.counts.capped == 0


def test_caps_follow_the_order_of_the_streams_units():
    live = LiveDecoder(CAPPED, unit_ids=[*reversed(IDS), "unheard of"])
    push_all(live, replace(RECORDING, unit_ids=tuple(IDS)), until_s=END_S)
    assert live.counts.capped == beyond(CAPS[::-1])


def test_a_swap_brings_its_own_caps():
    live = LiveDecoder(PLAIN)
    push_all(live, RECORDING, until_s=2.0)
    assert live.counts.capped == 0
    live.swap(CAPPED)
    push_all(live, RECORDING, start_s=2.0, until_s=END_S)
    assert 0 < live.counts.capped < beyond(CAPS)


def test_an_exported_decoder_knows_the_caps_of_its_session_only(tmp_path):
    two = small_decoder(sessions=("sunday", SESSION))
    vocabulary = two.vocabulary.with_caps(SESSION, IDS, CAPS).with_caps("sunday", IDS, CAPS + 4)
    path = export_decoder(replace(two, vocabulary=vocabulary), tmp_path / "d.onnx", session=SESSION)
    known: Vocabulary = LiveDecoder(path).bound.spec.vocabulary
    assert known.sessions == (SESSION,)
    assert known.caps == (0, *CAPS)
