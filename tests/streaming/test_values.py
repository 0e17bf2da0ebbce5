"""Counts and power, pushed bin by bin, decode as the recording they come from."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from stream_helpers import SESSION, UNITS, assert_same, batch_answers, by_behavior, small_decoder

from possm.data.normalize import NormalizeConfig
from possm.data.recording import Binned, Intervals, Recording
from possm.errors import CheckpointError, StreamError
from possm.streaming.export import export_decoder
from possm.streaming.live import LiveDecoder

SECONDS = 4.0


def decoder_of(*, inputs=("counts", "power"), chunk_ms=20, bin_ms=None, **changes):
    made = small_decoder(inputs=inputs, chunk_ms=chunk_ms, num_latents=2, latent_layers=1, **changes)
    if bin_ms is None:
        return made
    return replace(made, inputs=replace(made.inputs, rate_hz=1000 / bin_ms))


def recording_of(*, bin_ms=20, seed=0):
    rng, bins = np.random.default_rng(seed), round(SECONDS * 1000 / bin_ms)
    rate_hz = 1000 / bin_ms
    return Recording(
        session_id=SESSION,
        unit_ids=tuple(str(row) for row in range(UNITS)),
        domain=Intervals.of([(0.0, SECONDS)]),
        binned=Binned(rng.poisson(0.6, (bins, UNITS)), 0.0, rate_hz),
        features={"power": Binned(rng.gamma(3.0, 2.0, (bins, UNITS)), 0.0, rate_hz)},
    )


def push(live, recording, begin_s, end_s, **changes):
    times_s, unit, count = recording.tokens(begin_s, end_s)
    features = {"power": recording.features["power"].slice(begin_s, end_s), **changes}
    return live.push(times_s, unit, end_s, count, features=features)


def push_all(live, recording, *, packet_s=0.1, until_s=SECONDS):
    edges = np.arange(round(until_s / packet_s) + 1) * packet_s
    return [p for a, b in zip(edges[:-1], edges[1:], strict=True) for p in push(live, recording, a, b)]


@pytest.mark.parametrize(
    ("inputs", "chunk_ms", "bin_ms"),
    [
        (("counts",), 20, 20),
        (("counts", "power"), 20, 10),
        (("spikes", "power"), 20, 20),
        (("power",), 50, 10),
    ],
)
def test_a_stream_is_the_batch(inputs, chunk_ms, bin_ms):
    decoder = decoder_of(inputs=inputs, chunk_ms=chunk_ms, bin_ms=bin_ms)
    recording = recording_of(bin_ms=bin_ms)
    live = LiveDecoder(decoder, unit_ids=recording.unit_ids)
    predictions = push_all(live, recording)
    for name, (times_s, values) in by_behavior(predictions).items():
        asked = times_s[times_s < SECONDS - 0.1]
        wanted = batch_answers(decoder, recording, {name: asked}, end_s=SECONDS)[name]
        np.testing.assert_allclose(values[: len(asked)], wanted, rtol=1e-4, atol=2e-5)
        assert wanted.std() > 0.01


def test_packets_do_not_matter():
    decoder, recording = decoder_of(bin_ms=10), recording_of(bin_ms=10)
    one, other = (LiveDecoder(decoder, unit_ids=recording.unit_ids) for _ in range(2))
    assert_same(push_all(one, recording, packet_s=0.01), push_all(other, recording, packet_s=0.5))


def test_saved_and_resumed_mid_stream(tmp_path):
    decoder, recording = decoder_of(bin_ms=10), recording_of(bin_ms=10)
    whole = LiveDecoder(decoder, unit_ids=recording.unit_ids)
    wanted = push_all(whole, recording)
    live = LiveDecoder(decoder, unit_ids=recording.unit_ids)
    got = push(live, recording, 0.0, 1.23)
    live = LiveDecoder.resume(live.save(tmp_path / "a.safetensors"), decoder)
    got += push(live, recording, 1.23, SECONDS)
    assert_same(got, wanted)


def test_a_new_start_keeps_the_levels():
    """What is usual for a channel outlives a cut between trials; the hidden state does not."""
    decoder, recording = decoder_of(), recording_of()
    live = LiveDecoder(decoder, unit_ids=recording.unit_ids)
    push_all(live, recording, until_s=2.0)
    live.restart(2.0)
    got = by_behavior(push(live, recording, 2.0, SECONDS))
    wanted = batch_answers(decoder, recording, {n: t for n, (t, _) in got.items()}, start_s=2.0)
    for name, (_, values) in got.items():
        np.testing.assert_allclose(values, wanted[name], rtol=1e-4, atol=2e-5)


def test_missing_bins_are_counted_and_answered_with_the_mean():
    decoder, recording = decoder_of(inputs=("power",)), recording_of()
    live = LiveDecoder(decoder, unit_ids=recording.unit_ids)
    power = recording.features["power"]
    live.push([], [], 1.0, features={"power": power.slice(0.0, 1.0)})
    live.push([], [], 1.2, features={"power": power.slice(1.1, 1.2)})
    assert live.counts.missing_bins == 5
    nothing = Binned(np.zeros((5, UNITS)), 1.2, 50.0)  # a lost packet, written as zeros
    live.push([], [], 1.3, features={"power": nothing})
    assert live.counts.missing_bins == 10


def test_power_that_a_push_lacks_is_an_error():
    recording = recording_of()
    live = LiveDecoder(decoder_of(), unit_ids=recording.unit_ids)
    with pytest.raises(StreamError, match="reads power, which this push lacks"):
        live.push([0.01], [0], 0.1)
    assert live.counts.received == 0


@pytest.mark.parametrize(
    ("power", "message"),
    [
        (Binned(np.ones((5, UNITS - 1)), 0.0, 50.0), "another number of channels"),
        (Binned(np.ones((5, UNITS)), 0.0, 100.0), "another length"),
    ],
)
def test_power_that_does_not_fit_is_an_error(power, message):
    recording = recording_of()
    live = LiveDecoder(decoder_of(), unit_ids=recording.unit_ids)
    with pytest.raises(StreamError, match=message):
        push(live, recording, 0.0, 0.1, power=power)


def test_a_swap_finds_the_units_where_the_new_decoder_has_them():
    """As after adapting: the same weights, their rows further down."""
    decoder, recording = decoder_of(inputs=("counts",)), recording_of()
    longer = decoder_of(inputs=("counts",), sessions=("another", SESSION))
    with torch.no_grad():
        for own, other in zip(decoder.model.parameters(), longer.model.parameters(), strict=True):
            if own.shape == other.shape:
                other.copy_(own)
            elif len(own) == 1:  # a table by session
                other[-1] = own[0]
            else:  # by unit; the first row is that of the blank one
                other[0], other[1 : 1 + UNITS], other[-UNITS:] = own[0], 0.0, own[1:]
    plain, live = (LiveDecoder(decoder, unit_ids=recording.unit_ids) for _ in "12")
    begun = push(live, recording, 0.0, 2.0)
    live.swap(longer)
    assert_same(begun + push(live, recording, 2.0, 4.0), push_all(plain, recording, packet_s=2.0))


def test_a_decoder_that_normalizes_otherwise_cannot_take_over():
    live = LiveDecoder(decoder_of(inputs=("counts",)))
    other = decoder_of(inputs=("counts",))
    slower = replace(other.inputs, normalize=NormalizeConfig(past_s=33.0))
    with pytest.raises(StreamError, match="cannot take over"):
        live.swap(replace(other, inputs=slower))


def test_export_says_what_it_cannot(tmp_path):
    with pytest.raises(CheckpointError, match="not exported yet"):
        export_decoder(decoder_of(), tmp_path / "a.onnx")


def test_inputs_are_kept_in_the_file(tmp_path):
    from possm.checkpoint import load_decoder, save_decoder

    decoder = decoder_of(bin_ms=10)
    loaded = load_decoder(save_decoder(decoder, tmp_path / "a.safetensors"))
    assert loaded.inputs == decoder.inputs
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.model.parameters(), decoder.model.parameters(), strict=True)
    )
