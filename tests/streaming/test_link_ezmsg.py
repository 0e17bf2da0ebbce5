import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from stream_helpers import (
    SESSION,
    UNITS,
    binned_recording,
    by_behavior,
    push_all,
    random_recording,
    small_decoder,
)

from possm.checkpoint import save_decoder
from possm.errors import StreamError
from possm.streaming.links import Message
from possm.streaming.live import LiveDecoder

ez = pytest.importorskip("ezmsg.core", reason="ezmsg is not installed")
AxisArray = pytest.importorskip("ezmsg.util.messages.axisarray").AxisArray

from possm.streaming.links.ezmsg import (  # noqa: E402 - only where ezmsg is
    Decode,
    DecodeSettings,
    channel_names,
    to_packet,
)


@dataclass
class EventMessage:
    """As ezmsg-event has it."""

    offset: float
    ch_idx: int
    sub_idx: int = 0
    value: float = 1


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    path = tmp_path_factory.mktemp("decoder") / "d.safetensors"
    save_decoder(small_decoder(), path)
    return str(path)


def bins(recording, first, last, *, names=None):
    axes = {"time": AxisArray.LinearAxis(unit="s", gain=0.05, offset=first * 0.05)}
    if names is not None:
        axes["ch"] = AxisArray.CoordinateAxis(data=np.array(names), dims=["ch"])
    return AxisArray(recording.binned.values[first:last], dims=["time", "ch"], axes=axes)


async def answers(decoder, messages, **settings):
    """What the unit says to these messages, called as ezmsg calls it."""
    unit = Decode(DecodeSettings(decoder=decoder, session=SESSION, **settings))
    unit.STATE = unit.__class__.STATE() if callable(unit.__class__.STATE) else unit.STATE
    await unit.initialize()
    return [array for message in messages async for _, array in unit.decode(message)]


def same(arrays, predictions):
    wanted = by_behavior(predictions)
    for name, (times_s, values) in wanted.items():
        mine = [array for array in arrays if array.key == name]
        np.testing.assert_allclose(np.concatenate([a.data for a in mine]), values, rtol=0, atol=1e-5)
        np.testing.assert_allclose(np.concatenate([a.axes["time"].data for a in mine]), times_s)
    assert {array.key for array in arrays} == set(wanted)


class TestUnit:
    def test_counts(self, decoder):
        recording = binned_recording()
        wanted = push_all(LiveDecoder(decoder, session=SESSION), recording, until_s=4.0)
        arrays = asyncio.run(answers(decoder, [bins(recording, i, i + 4) for i in range(0, 80, 4)]))
        same(arrays, wanted)
        assert arrays[-1].attrs["chunk"] == 79 and len(arrays[-1].attrs["decoder_hash"]) == 64

    def test_channels_by_name(self, decoder):
        """Channels in another order, named."""
        recording, order = binned_recording(), np.random.default_rng(0).permutation(UNITS)
        wanted = push_all(LiveDecoder(decoder, session=SESSION), recording, until_s=2.0)
        names = [str(row) for row in order]
        messages = []
        for i in range(0, 40, 4):
            message = bins(recording, i, i + 4, names=names)
            message.data = message.data[:, order]
            messages.append(message)
        same(asyncio.run(answers(decoder, messages)), wanted)

    def test_events(self, decoder):
        recording = random_recording(end_s=2.0)
        wanted = push_all(LiveDecoder(decoder, session=SESSION), recording, until_s=2.0)
        times_s, unit, _ = recording.tokens(0, 2.0)
        events = [EventMessage(time_s, row) for time_s, row in zip(times_s, unit, strict=True)]
        begin = Message(np.zeros(0), np.zeros(0, np.int64), 0.0, None, 0.0)
        end = EventMessage(2.02, 0)
        arrays = asyncio.run(answers(decoder, [begin, *events[:100], events[100:], end]))
        same(arrays, wanted)

    def test_something_else(self):
        with pytest.raises(StreamError, match="no message of spikes"):
            to_packet("spikes")
        with pytest.raises(StreamError, match="no message of spikes"):
            to_packet(AxisArray(np.zeros((2, 2)), dims=["freq", "ch"]))
        assert channel_names(EventMessage(0.0, 1)) is None
        assert to_packet(EventMessage(1.0, 2, sub_idx=1), sub_units=4).units.tolist() == [9]


class Player(ez.Unit):
    OUTPUT = ez.OutputStream(Any)

    @ez.publisher(OUTPUT)
    async def play(self):
        recording = binned_recording()
        for first in range(0, 80, 4):
            yield self.OUTPUT, bins(recording, first, first + 4)


class Collector(ez.Unit):
    INPUT = ez.InputStream(AxisArray)
    GOT: list = []

    @ez.subscriber(INPUT)
    async def collect(self, message):
        self.GOT.append(message)
        if len(self.GOT) == 160:
            raise ez.NormalTermination


def test_in_a_graph(decoder):
    """Published, decoded and received by ezmsg itself."""
    Collector.GOT.clear()
    player, decode, collector = Player(), Decode(DecodeSettings(decoder, session=SESSION)), Collector()
    ez.run(
        PLAYER=player,
        DECODE=decode,
        COLLECTOR=collector,
        connections=(
            (player.OUTPUT, decode.INPUT_SPIKES),
            (decode.OUTPUT_PREDICTION, collector.INPUT),
        ),
        force_single_process=True,
    )
    same(Collector.GOT, push_all(LiveDecoder(decoder, session=SESSION), binned_recording(), until_s=4.0))
