"""A stream goes on while its decoder is adapted beside it, and then takes the adapted one over."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from stream_helpers import assert_same, by_behavior, push_all, random_recording, small_decoder

from possm.data.scaling import Scaling
from possm.errors import CheckpointError, StreamError
from possm.streaming.engines import open_engine
from possm.streaming.export import export_decoder
from possm.streaming.live import LiveDecoder

RECORDING = random_recording()
PLAIN = small_decoder()


def adapt(decoder):
    """Steps of a gradient on the very model that the stream was made of, and a scaling of its own."""
    optimizer = torch.optim.SGD(decoder.model.parameters(), lr=0.05)
    for _ in range(3):
        loss = sum((parameter**2).mean() for parameter in decoder.model.parameters())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pos = {"cursor.pos": Scaling((5.0, -2.0), (10.0, 0.5))}
    return replace(decoder, scaling=decoder.scaling | pos)


def opened(decoder, engine, path):
    return open_engine(export_decoder(decoder, path) if engine == "onnx" else decoder)


def swapped(engine, folder):
    """Half of a stream while another thread trains and opens the engine, half with what that made."""
    decoder, made = small_decoder(), []
    live = LiveDecoder(opened(decoder, engine, folder / "before.onnx"))
    beside = threading.Thread(
        target=lambda: made.append(opened(adapt(decoder), engine, folder / "after.onnx"))
    )
    beside.start()
    before = push_all(live, RECORDING, until_s=2.0)
    beside.join()
    live.swap(made[0])
    return before, push_all(live, RECORDING, start_s=2.0, until_s=4.0), made[0]


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_training_changes_nothing_until_the_swap(tmp_path, engine):
    before, after, adapted = swapped(engine, tmp_path)
    plain = LiveDecoder(opened(PLAIN, engine, tmp_path / "plain.onnx"))
    assert_same(before, push_all(plain, RECORDING, until_s=2.0))  # training beside it: not a bit
    chunks = [prediction.chunk for prediction in (*before, *after) if prediction.behavior == "cursor.pos"]
    assert chunks == list(range(80))  # no chunk is lost or comes twice
    assert {prediction.decoder_hash for prediction in after} == {adapted.spec.hash}
    assert adapted.spec.hash != before[0].decoder_hash
    kept = by_behavior(push_all(plain, RECORDING, start_s=2.0, until_s=4.0))
    fresh = by_behavior(push_all(LiveDecoder(adapted, origin_s=2.0), RECORDING, start_s=2.0, until_s=4.0))
    for name, (_, values) in by_behavior(after).items():
        assert np.abs(values - kept[name][1]).max() > 1e-3  # it is the adapted one
        assert np.abs(values - fresh[name][1]).max() > 1e-4  # and has the hidden state of the one before


def test_both_engines_swap_alike(tmp_path):
    for one, other in zip(swapped("torch", tmp_path)[:2], swapped("onnx", tmp_path)[:2], strict=True):
        for name, (times_s, values) in by_behavior(one).items():
            np.testing.assert_array_equal(by_behavior(other)[name][0], times_s)
            np.testing.assert_allclose(by_behavior(other)[name][1], values, atol=1e-3)  # std is 10


def test_a_file_that_cannot_take_over_leaves_the_stream_as_it_was(tmp_path):
    path = export_decoder(PLAIN, tmp_path / "d.onnx")
    live, plain = LiveDecoder(path), LiveDecoder(path)
    other = export_decoder(small_decoder(hidden=32), tmp_path / "other.onnx")
    (tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StreamError, match="cannot take over"):
        live.swap(other)
    with pytest.raises(CheckpointError):
        live.swap(tmp_path / "cut.onnx")
    assert_same(live.push([0.01], [1], 0.1), plain.push([0.01], [1], 0.1))
