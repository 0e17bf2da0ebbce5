"""Phonemes come out while a sentence is being said, and are those of the batch."""

import numpy as np
import pytest

from possm.data.ctc import Beam, best_path
from possm.errors import CheckpointError, StreamError
from possm.evaluation.sequences import decode_sequences
from possm.streaming.export import export_decoder
from possm.streaming.live import LiveDecoder
from possm.streaming.phonemes import Spoken
from speech_toys import BEHAVIOR, SYMBOLS, decoder_of, spoken


def push(live, recording, begin_s, end_s):
    times_s, unit, count = recording.tokens(begin_s, end_s)
    features = {"power": recording.features["power"].slice(begin_s, end_s)}
    return live.push(times_s, unit, end_s, count, features=features)


def test_streamed_equals_batch():
    """A stream runs through the session, and begins anew at every trial; what it knows of channels stays."""
    recording = spoken(sentences=6)
    decoder = decoder_of(recording)
    wanted = decode_sequences(decoder, recording, BEHAVIOR, split="train")
    live = LiveDecoder(decoder, unit_ids=recording.unit_ids)
    at_s = 0.0
    for sentence, probabilities in zip(wanted.sentences, wanted.probabilities, strict=True):
        start_s, end_s = sentence.window.start_s, sentence.window.limit_s
        push(live, recording, at_s, start_s)
        live.restart(start_s)
        said, values, late = Spoken(BEHAVIOR), [], []
        edges = start_s + np.arange(sentence.num_chunks + 1) * 0.02
        for begin_s, until_s in zip(edges[:-1], edges[1:], strict=True):
            for prediction in push(live, recording, begin_s, until_s):
                assert prediction.classes == ("", *SYMBOLS)
                values.append(prediction.values)
                late += [until_s - phoneme.time_s for phoneme in said.push(prediction)]
        at_s = end_s
        np.testing.assert_allclose(np.concatenate(values), probabilities, rtol=1e-3, atol=1e-5)
        heard = best_path(probabilities)
        assert [phoneme.symbol for phoneme in said.phonemes] == [SYMBOLS[n - 1] for n in heard]
        assert said.phonemes and np.allclose(late, 0)  # as soon as the chunk that decided was over
    assert live.counts.missing_bins == 0


def test_a_beam_may_search_along():
    recording = spoken(sentences=3)
    decoder = decoder_of(recording)
    live = LiveDecoder(decoder, unit_ids=recording.unit_ids)
    said = Spoken(BEHAVIOR, Beam())
    predictions = push(live, recording, 0.0, 2.0)
    for prediction in predictions:
        said.push(prediction)
    values = np.concatenate([prediction.values for prediction in predictions])
    beam = Beam()
    assert said.text == " ".join(SYMBOLS[n - 1] for n in beam.push(values))


def test_one_that_looks_ahead_refuses_a_stream(tmp_path):
    decoder = decoder_of(spoken(sentences=3), backbone="bigru")
    with pytest.raises(StreamError, match="reads a whole sequence before it answers"):
        LiveDecoder(decoder)
    with pytest.raises(CheckpointError, match="not exported"):
        export_decoder(decoder, tmp_path / "a.onnx")


def test_export_of_a_sequence_is_refused(tmp_path):
    recording = spoken(sentences=3)
    with pytest.raises(CheckpointError, match="not exported"):
        export_decoder(decoder_of(recording), tmp_path / "a.onnx")


def test_another_behavior_is_no_sequence():
    from dataclasses import replace

    recording = spoken(sentences=3)
    live = LiveDecoder(decoder_of(recording), unit_ids=recording.unit_ids)
    prediction = push(live, recording, 0.0, 0.5)[0]
    assert Spoken("vel").push(prediction) == []
    with pytest.raises(StreamError, match="no sequence"):
        Spoken(BEHAVIOR).push(replace(prediction, classes=()))
