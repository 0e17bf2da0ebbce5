"""A stream, however it is cut into pushes, against decoding the same recording in one call."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_helpers import (
    SESSION,
    UNITS,
    assert_same,
    batch_answers,
    binned_recording,
    by_behavior,
    push_all,
    random_recording,
    recording_of,
    small_decoder,
)

from possm.batch import Queries, Tokens
from possm.data.chunks import Sample, chunk_edges_s, chunk_tokens, collate
from possm.streaming.inbox import Arrivals
from possm.streaming.live import LiveConfig, LiveDecoder

END_S, CHUNK_S = 4.0, 0.05
DECODERS = {dtype: small_decoder(dtype=dtype) for dtype in (torch.float32, torch.float64)}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}


def ends_of_chunks(first_s=0.0, end_s=END_S):
    """Where a strictly causal decoder answers by itself."""
    return first_s + np.arange(1, round((end_s - first_s) / CHUNK_S) + 1) * 50 / 1000


def assert_equal(predictions, answers, times_s, tolerance):
    got = by_behavior(predictions)
    assert got.keys() == answers.keys()
    for name, (got_times_s, values) in got.items():
        np.testing.assert_allclose(got_times_s, times_s[name], atol=1e-9)
        assert values.shape == answers[name].shape
        assert np.abs(values - answers[name]).max() <= tolerance, name


@st.composite
def deliveries(draw):
    """Ends of pushes of any length, some at the edges of chunks and some empty, and a seed for the spikes."""
    edges = st.integers(1, 80).map(lambda number: number * 50 / 1000)
    ends_s = sorted(draw(st.lists(st.floats(0, END_S) | edges, max_size=30)))
    return [*ends_s, END_S], draw(st.integers(0, 2**32 - 1))


def deliver(live, times_s, unit, ends_s, rng):
    """Every spike comes in any push up to the one that ends its chunk, in any order; all predictions."""
    due = np.searchsorted(ends_s, np.floor(times_s / CHUNK_S + 1) * CHUNK_S - 1e-9)
    push = np.maximum(np.minimum(due, len(ends_s) - 1) - rng.integers(0, 3, len(due)), 0)
    predictions = []
    for number, until_s in enumerate(ends_s):
        mine = rng.permutation(np.flatnonzero(push == number))
        predictions += live.push(times_s[mine], unit[mine], until_s)
    return predictions


@pytest.mark.parametrize("dtype", DECODERS)
@settings(max_examples=30, deadline=None)
@given(delivery=deliveries(), max_chunks=st.sampled_from([1, 2, 1000]))
def test_any_cut_into_pushes_equals_the_batch(dtype, delivery, max_chunks):
    recording, (ends_s, seed) = random_recording(seed=3), delivery
    live = LiveDecoder(DECODERS[dtype], config=LiveConfig(max_chunks=max_chunks))
    times_s, unit, _ = recording.tokens(0, END_S)
    predictions = deliver(live, times_s, unit, ends_s, np.random.default_rng(seed))
    asked = dict.fromkeys(live.behaviors, ends_of_chunks())
    assert_equal(predictions, batch_answers(DECODERS[dtype], recording, asked), asked, TOLERANCE[dtype])
    assert live.counts.used == live.counts.received == len(times_s)
    assert predictions[0].values.dtype == np.dtype(str(dtype).removeprefix("torch."))


@settings(max_examples=15, deadline=None)
@given(delivery=deliveries())
def test_decoding_chunk_by_chunk_does_not_depend_on_the_pushes_at_all(delivery):
    recording, (ends_s, seed) = random_recording(seed=3), delivery
    times_s, unit, _ = recording.tokens(0, END_S)
    one, other = LiveDecoder(DECODERS[torch.float32]), LiveDecoder(DECODERS[torch.float32])
    assert_same(
        deliver(one, times_s, unit, ends_s, np.random.default_rng(seed)),
        other.push(times_s, unit, END_S),
    )


@pytest.mark.parametrize("origin_s", [0.0, 0.1, 12.345, 86_400.7, -3.3])
def test_wherever_the_clock_begins(origin_s):
    decoder = DECODERS[torch.float32]
    recording = random_recording(start_s=origin_s, end_s=origin_s + 3.0)
    live = LiveDecoder(decoder, origin_s=origin_s)
    predictions = push_all(live, recording, start_s=origin_s, until_s=origin_s + 3.0)
    times_s = dict.fromkeys(live.behaviors, ends_of_chunks(origin_s, origin_s + 3.0))
    answers = batch_answers(decoder, recording, times_s, start_s=origin_s, end_s=origin_s + 3.0)
    assert_equal(predictions, answers, times_s, 1e-5)
    assert live.counts.used == len(recording.spikes)


def test_spikes_on_the_edges_belong_to_the_later_chunk():
    edges_s = ends_of_chunks()[:-1]
    recording = recording_of(edges_s, np.arange(len(edges_s)) % UNITS, end_s=END_S)
    live = LiveDecoder(DECODERS[torch.float32])
    predictions = push_all(live, recording, until_s=END_S)
    asked = dict.fromkeys(live.behaviors, ends_of_chunks())
    assert_equal(predictions, batch_answers(DECODERS[torch.float32], recording, asked), asked, 1e-5)
    assert [p.spikes for p in predictions if p.behavior == "cursor.pos"] == [0] + [1] * 79


def test_silence_is_decoded_too():
    recording = recording_of([], np.zeros(0, np.int64), end_s=END_S)
    live = LiveDecoder(DECODERS[torch.float32])
    predictions = push_all(live, recording, until_s=END_S)
    asked = dict.fromkeys(live.behaviors, ends_of_chunks())
    assert_equal(predictions, batch_answers(DECODERS[torch.float32], recording, asked), asked, 1e-5)


def test_binned_input_with_counts():
    recording, live = binned_recording(), LiveDecoder(DECODERS[torch.float32])
    predictions = push_all(live, recording, until_s=END_S)
    asked = dict.fromkeys(live.behaviors, ends_of_chunks())
    assert_equal(predictions, batch_answers(DECODERS[torch.float32], recording, asked), asked, 1e-5)


@pytest.mark.parametrize("lead_ms", [0, 30, 50, 120])
@pytest.mark.parametrize("rate_hz", [3.0, 20.0, 100.0, 59.94])
def test_a_regular_output_clock(lead_ms, rate_hz):
    decoder, recording = small_decoder(lead_ms=lead_ms), random_recording()
    live = LiveDecoder(decoder, output_rate_hz=rate_hz)
    predictions = push_all(live, recording, until_s=END_S)
    ticks_s = np.arange(1000) / rate_hz
    inside = (ticks_s >= lead_ms / 1000 - 1e-9) & (ticks_s < END_S + lead_ms / 1000 - 1e-9)
    asked = dict.fromkeys(live.behaviors, ticks_s[inside])
    assert_equal(predictions, batch_answers(decoder, recording, asked), asked, 1e-5)
    assert all(len(p.times_s) for p in predictions)


@pytest.mark.parametrize("lead_ms", [0, 30, 50, 120])
def test_the_default_output_clock_at_any_lead(lead_ms):
    """The first time a chunk answers for: its start plus the lead."""
    decoder, recording = small_decoder(lead_ms=lead_ms), random_recording()
    predictions = push_all(LiveDecoder(decoder), recording, until_s=END_S)
    asked = dict.fromkeys(decoder.scaling, np.arange(80) * 0.05 + lead_ms / 1000)
    assert_equal(predictions, batch_answers(decoder, recording, asked), asked, 1e-5)
    if lead_ms == 50:
        assert all(p.times_s == [p.end_s] for p in predictions)


def test_given_output_times_of_each_behavior():
    rng, recording = np.random.default_rng(0), random_recording()
    asked = {"cursor.pos": np.sort(rng.uniform(0.05, 4.04, 77)), "hand.vel": np.arange(1, 80) * 0.05}
    live = LiveDecoder(DECODERS[torch.float32], output_times_s=asked)
    predictions = push_all(live, recording, until_s=END_S)
    assert_equal(predictions, batch_answers(DECODERS[torch.float32], recording, asked), asked, 1e-5)


def test_times_before_the_first_answer_or_after_the_last_are_not_answered():
    asked = {"cursor.pos": np.array([-5.0, 0.0, 0.049, 0.05, 4.0, 4.049, 4.06])}
    live = LiveDecoder(DECODERS[torch.float32], output_times_s=asked)
    predictions = push_all(live, random_recording(), until_s=END_S)
    times_s, _ = by_behavior(predictions)["cursor.pos"]
    assert times_s.tolist() == [0.05, 4.0, 4.049]
    assert {p.behavior for p in predictions} == {"cursor.pos"}


def test_the_future_changes_no_bit_of_what_was_said():
    recording = random_recording(seed=5)
    times_s, unit, _ = recording.tokens(0, END_S)
    other = np.where(times_s < 2.0, unit, (unit + 1) % UNITS)
    one, two = LiveDecoder(DECODERS[torch.float32]), LiveDecoder(DECODERS[torch.float32])
    before = [p for p in one.push(times_s, unit, END_S) if p.end_s <= 2.0]
    changed = two.push(times_s, other, END_S)
    assert_same(before, [p for p in changed if p.end_s <= 2.0])
    assert np.abs(changed[-1].values - one.push([], [], END_S + CHUNK_S)[-1].values).max() > 0


def test_the_chunks_of_a_stream_are_collated_like_any_other():
    live, recording = LiveDecoder(DECODERS[torch.float32]), random_recording()
    edges_s = chunk_edges_s(0.0, first=2, count=3, chunk_ms=50)
    times_s, unit, count = recording.tokens(0.0, END_S)
    queries = {"cursor.pos": Queries(np.array([0, 2]), np.zeros(2, np.float32))}
    got = live.bound.batch(Arrivals(times_s, unit, count), edges_s, queries)
    wanted = collate([Sample(chunk_tokens(times_s, unit + 1, count, edges_s), 0, queries)])
    assert got.num_chunks == wanted.num_chunks and got.targets == wanted.targets == {}
    for one, other in [
        *((getattr(got.tokens, f.name), getattr(wanted.tokens, f.name)) for f in fields(Tokens)),
        (got.session, wanted.session),
        (got.queries["cursor.pos"].chunk, wanted.queries["cursor.pos"].chunk),
        (got.queries["cursor.pos"].time_s, wanted.queries["cursor.pos"].time_s),
    ]:
        np.testing.assert_array_equal(one, other, strict=True)


def test_physical_units():
    """Scaling is undone: the same answers, stretched and moved."""
    from possm.checkpoint import Decoder
    from possm.data.scaling import Scaling

    plain = DECODERS[torch.float32]
    scaling = {"cursor.pos": Scaling((5.0, -2.0), (10.0, 0.5), "cm"), "hand.vel": plain.scaling["hand.vel"]}
    scaled = Decoder(plain.model, plain.vocabulary, scaling)
    recording = random_recording()
    one = by_behavior(push_all(LiveDecoder(plain), recording, until_s=1.0))
    two = by_behavior(push_all(LiveDecoder(scaled, session=SESSION), recording, until_s=1.0))
    np.testing.assert_allclose(two["cursor.pos"][1], one["cursor.pos"][1] * [10, 0.5] + [5, -2], rtol=1e-5)
    np.testing.assert_array_equal(two["hand.vel"][1], one["hand.vel"][1])


def test_a_session_with_a_scaling_of_its_own():
    """A stream answers in the units of its session, as decoding a file does."""
    from dataclasses import replace

    from possm.data.scaling import Scaling

    decoder = small_decoder(sessions=(SESSION, "other"))
    own = {SESSION: {"cursor.pos": Scaling((5.0, -2.0), (10.0, 0.5))}}
    scaled, recording = replace(decoder, session_scaling=own), random_recording()
    for session, (mean, std) in {SESSION: ((5, -2), (10, 0.5)), "other": ((0, 0), (1, 1))}.items():
        live = [LiveDecoder(d, session=session) for d in (decoder, scaled)]
        one, two = (by_behavior(push_all(each, recording, until_s=1.0)) for each in live)
        np.testing.assert_allclose(two["cursor.pos"][1], one["cursor.pos"][1] * std + mean, rtol=1e-5)
        np.testing.assert_array_equal(two["hand.vel"][1], one["hand.vel"][1])
