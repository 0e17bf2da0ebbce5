"""A stream runs on the old decoder, a new day is adapted to beside it, and the stream goes on with that."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

import toys
from possm.checkpoint import load_decoder
from possm.data.chunks import collate
from possm.data.loader import SampleMaker
from possm.data.windows import Window
from possm.errors import StreamError
from possm.streaming.live import LiveDecoder
from possm.training.finetune import FinetuneConfig, finetune

YESTERDAY = toys.recording(seconds=30, session="yesterday", seed=1)
TODAY = toys.recording(seconds=40, session="today", seed=2)
DECODER = toys.decoder_for(YESTERDAY)
CONFIG = FinetuneConfig(mode="full", steps=6, window_s=1.0, batch_size=8)
SWAP_S, END_S = 4.0, 8.0


pytestmark = pytest.mark.usefixtures("one_thread")


def pushed(live, begin_s, end_s):
    """Today's spikes in packets of 70 ms, which end where chunks do not."""
    predictions = []
    edges_s = np.append(np.arange(begin_s, end_s, 0.07), end_s)
    for start_s, stop_s in zip(edges_s, edges_s[1:], strict=False):
        times_s, unit, _ = TODAY.tokens(start_s, stop_s)
        predictions += live.push(times_s, unit, stop_s)
    return predictions


def stretch(decoder, recording, state, begin, end):
    """Chunks `begin` to `end` in one call of the model: scaled answers at their ends, and the state."""
    maker = SampleMaker(
        recordings=[recording],
        vocabulary=decoder.vocabulary,
        scaling=decoder.scaling,
        chunk_ms=50,
        lead_ms=50,
    )
    times_s = {"vel": np.arange(begin + 1, end + 1) * 50 / 1000}
    sample = maker.sample_at(Window(0, 0.0, 40.0, begin), num_chunks=end - begin, times_s=times_s)
    with torch.inference_mode():
        answers, state = decoder.model(collate([sample]).to(torch.from_numpy), state)
    return decoder.scaling_of(recording.session_id)["vel"].invert(answers["vel"].numpy()), state


def test_the_stream_goes_on_with_the_adapted_decoder(tmp_path):
    """Its hidden state and clock stay: the answers are those of the old model up to the swap, and from there
    those of the new model in the state the old one left."""
    live = LiveDecoder(DECODER, session="yesterday", unit_ids=TODAY.unit_ids)
    done = []
    beside = threading.Thread(target=lambda: done.append(finetune(DECODER, [TODAY], CONFIG, tmp_path)))
    beside.start()
    before = pushed(live, 0.0, SWAP_S + 0.03)  # 30 ms of the next chunk wait already
    beside.join()
    assert live.counts.waiting > 0
    chunk, waiting = live.chunk, live.counts.waiting
    live.swap(done[0].path, session="today")
    assert (live.chunk, live.counts.waiting) == (chunk, waiting) == (80, waiting)
    after = pushed(live, SWAP_S + 0.03, END_S)

    assert [p.chunk for p in before + after] == list(range(160))
    np.testing.assert_allclose([p.end_s for p in before + after], np.arange(1, 161) * 0.05, atol=1e-9)
    adapted = load_decoder(done[0].path)
    assert {p.decoder_hash for p in before} == {DECODER.hash}
    assert {p.decoder_hash for p in after} == {adapted.hash}
    as_yesterday = replace(TODAY, session_id="yesterday")
    first, state = stretch(DECODER, as_yesterday, None, 0, 80)
    second, _ = stretch(adapted, TODAY, state, 80, 160)
    np.testing.assert_allclose(np.concatenate([p.values for p in before]), first, atol=1e-4)
    np.testing.assert_allclose(np.concatenate([p.values for p in after]), second, atol=1e-4)
    fresh, _ = stretch(adapted, TODAY, None, 80, 160)
    assert np.abs(fresh - second).max() > 1e-3  # the state does matter


def test_an_adapted_decoder_still_streams_its_old_session(tmp_path):
    """With new rows only, to the bit: a swap in the middle of an old session changes nothing."""
    config = replace(CONFIG, mode="units")
    adapted = finetune(DECODER, [TODAY], config, tmp_path).decoder
    plain, swapped = (LiveDecoder(DECODER, session="yesterday") for _ in range(2))
    one = pushed(plain, 0.0, END_S)
    two = pushed(swapped, 0.0, SWAP_S)
    swapped.swap(adapted)
    two += pushed(swapped, SWAP_S, END_S)
    np.testing.assert_array_equal(np.stack([p.values for p in one]), np.stack([p.values for p in two]))


def test_a_decoder_of_another_size_cannot_take_over():
    live = LiveDecoder(DECODER, session="yesterday")
    other = toys.decoder_for(YESTERDAY, hidden=32)
    with pytest.raises(StreamError, match="cannot take over"):
        live.swap(other)
