"""A stream goes on while its decoder is adapted beside it, and then takes the adapted one over."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from stream_helpers import assert_same, by_behavior, push_all, random_recording, small_decoder

from possm.checkpoint import save_decoder
from possm.data.scaling import Scaling
from possm.errors import CheckpointError, StreamError
from possm.streaming.engines import open_engine
from possm.streaming.export import export_decoder
from possm.streaming.links import Message
from possm.streaming.links.callback import CallbackSink
from possm.streaming.live import LiveDecoder
from possm.streaming.run import run_stream
from possm.streaming.successor import Successor

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


class Rig:
    """A source of empty packets of 50 ms, which calls something after so many and goes on for long."""

    unit_ids, session_id = None, None

    def __init__(self, after, action, *, until):
        self.after, self.action, self.until = after, action, until

    def __iter__(self):
        for number in range(1, 2000):
            yield Message(np.zeros(0), np.zeros(0, int), number * 0.05, None, 0.0 if number == 1 else None)
            if number == self.after:
                self.action()
            if number > self.after:
                if self.until():
                    return
                time.sleep(0.005)

    def close(self):
        pass


def stream_with(path, action, *, until=lambda seen: False, session=None):
    """What a stream says whose successor comes from a path, its answers, and its report."""
    seen, began = [], time.monotonic()
    rig = Rig(20, action, until=lambda: until(seen) or time.monotonic() - began > 10)
    successor = Successor(path, session=session, every_s=0.01)
    report = run_stream(LiveDecoder(small_decoder()), rig, CallbackSink(seen.append), successor=successor)
    assert not successor._thread.is_alive()
    chunks = [prediction.chunk for prediction in seen if prediction.behavior == "cursor.pos"]
    assert chunks == list(range(len(chunks)))  # none lost, none twice
    return seen, report


def swapped_to(decoder):
    return lambda seen: bool(seen) and seen[-1].decoder_hash == decoder.hash


def test_a_stream_takes_a_file_that_is_written_while_it_runs(tmp_path):
    path, adapted = tmp_path / "d.safetensors", adapt(small_decoder())
    save_decoder(PLAIN, path)  # what was there before is not taken
    action = lambda: save_decoder(adapted, path)  # noqa: E731
    seen, report = stream_with(path, action, until=swapped_to(adapted))
    assert report.swaps == 1 and "swapped 1 time" in report.text()
    assert seen[0].decoder_hash == seen[30].decoder_hash == PLAIN.hash
    assert seen[-1].decoder_hash == adapted.hash


def test_of_a_run_it_takes_what_the_run_ends_with(tmp_path):
    """Not what an unfinished one has so far."""
    run, adapted = tmp_path / "run", adapt(small_decoder())
    run.mkdir()

    def end():
        save_decoder(PLAIN, run / "decoder.safetensors")  # an early validation
        time.sleep(0.05)
        save_decoder(adapted, run / "decoder.safetensors")
        (run / "summary.json").write_text("{}")

    seen, report = stream_with(run, end, until=swapped_to(adapted))
    assert report.swaps == 1 and seen[-1].decoder_hash == adapted.hash


def test_a_name_with_dots_that_is_not_there_yet_is_the_folder_of_a_run(tmp_path):
    run, adapted = tmp_path / "2026.05.06", adapt(small_decoder())

    def end():
        run.mkdir()
        save_decoder(adapted, run / "decoder.safetensors")
        (run / "summary.json").write_text("{}")

    seen, report = stream_with(run, end, until=swapped_to(adapted))
    assert report.swaps == 1


def test_whatever_goes_wrong_while_it_is_read_the_stream_goes_on_and_looks_again(
    tmp_path, monkeypatch, caplog
):
    path, adapted = tmp_path / "d.safetensors", adapt(small_decoder())
    tries = []

    def fails_once(decoder):
        tries.append(decoder)
        if len(tries) == 1:
            raise ModuleNotFoundError("no module of that name")
        return open_engine(decoder)

    monkeypatch.setattr("possm.streaming.successor.open_engine", fails_once)

    def write():
        save_decoder(PLAIN, path)
        while not tries:
            time.sleep(0.01)
        save_decoder(adapted, path)

    seen, report = stream_with(path, write, until=swapped_to(adapted))
    assert "no module of that name" in caplog.text
    assert report.swaps == 1


def test_answers_of_another_size_are_not_taken_over():
    """A sink has been told how many numbers a sample has."""
    live, wide = LiveDecoder(small_decoder()), small_decoder()
    engine = open_engine(wide)
    sizes = {**engine.spec.behaviors, "cursor.pos": 3}
    engine.spec = replace(engine.spec, behaviors=sizes)
    with pytest.raises(StreamError, match=r"(?s)cursor.pos\[3\].*cursor.pos\[2\]"):
        live.swap(engine)


def test_what_cannot_take_over_is_said_and_the_stream_goes_on(tmp_path, caplog):
    path = tmp_path / "d.safetensors"
    said = lambda text: lambda seen: text in caplog.text  # noqa: E731
    action = lambda: save_decoder(small_decoder(hidden=32), path)  # noqa: E731
    seen, report = stream_with(path, action, until=said("cannot take over"))
    assert report.swaps == 0 and {prediction.decoder_hash for prediction in seen} == {PLAIN.hash}
    assert "keeps its decoder" in caplog.text
    caplog.clear()
    _, report = stream_with(path, lambda: path.write_bytes(b"x"), until=said("keeps its decoder"))
    assert report.swaps == 0 and "keeps its decoder" in caplog.text
