"""A small random decoder, recordings of random spikes, and what batch decoding says about them."""

import numpy as np
import torch

from possm.data.chunks import collate
from possm.data.loader import SampleMaker
from possm.data.recording import Binned, Intervals, Recording, Spikes
from possm.data.windows import Window
from possm.model.decoder import BehaviorConfig, PossmConfig
from possm.streaming.rehearsal import random_decoder, random_spikes

UNITS, SESSION = 20, "monday"
BEHAVIORS = {"cursor.pos": BehaviorConfig(num_dimensions=2), "hand.vel": BehaviorConfig(num_dimensions=3)}


def small_decoder(*, seed=0, dtype=torch.float32, sessions=(SESSION,), num_units=UNITS, **changes):
    config = PossmConfig(**{"width": 16, "hidden": 24, "behaviors": BEHAVIORS, **changes})
    return random_decoder(config, num_units=num_units, sessions=sessions, seed=seed, dtype=dtype)


def recording_of(times_s, unit, *, end_s, domain=None, **more):
    return Recording(
        session_id=SESSION,
        unit_ids=tuple(str(row) for row in range(UNITS)),
        domain=Intervals.of(domain or [(0.0, end_s)]),
        spikes=Spikes(np.asarray(times_s), np.asarray(unit)),
        **more,
    )


def random_recording(*, end_s=4.0, start_s=0.0, rate_hz=8.0, seed=0, domain=None, **more):
    times_s, unit = random_spikes(UNITS, rate_hz=rate_hz, duration_s=end_s - start_s, seed=seed)
    return recording_of(start_s + times_s, unit, end_s=end_s, domain=domain or [(start_s, end_s)], **more)


def binned_recording(*, end_s=4.0, rate_hz=20.0, seed=0):
    values = np.random.default_rng(seed).poisson(0.4, (round(end_s * rate_hz), UNITS))
    return Recording(
        session_id=SESSION,
        unit_ids=tuple(str(row) for row in range(UNITS)),
        domain=Intervals.of([(0.0, end_s)]),
        binned=Binned(values, 0.0, rate_hz),
    )


def batch_answers(decoder, recording, times_s, *, start_s=0.0, end_s=4.0):
    """Behavior -> answers at these times, decoded in one call from `start_s`, in scaled units."""
    config = decoder.config
    maker = SampleMaker(
        recordings=[recording],
        vocabulary=decoder.vocabulary,
        scaling=decoder.scaling,
        chunk_ms=config.chunk_ms,
        lead_ms=config.effective_lead_ms,
        inputs=decoder.inputs,
    )
    num_chunks = int(np.ceil((end_s - start_s) / config.chunk_s - 1e-9))
    sample = maker.sample_at(Window(0, start_s, end_s), num_chunks=num_chunks, times_s=times_s)
    with torch.inference_mode():
        answers, _ = decoder.model(collate([sample]).to(torch.from_numpy))
    return {name: answer.numpy() for name, answer in answers.items()}


def by_behavior(predictions):
    """Behavior -> times (Q,) and values (Q, D) of all its predictions."""
    joined = {}
    for name in {prediction.behavior for prediction in predictions}:
        mine = [prediction for prediction in predictions if prediction.behavior == name]
        times_s = np.concatenate([prediction.times_s for prediction in mine])
        joined[name] = times_s, np.concatenate([prediction.values for prediction in mine])
    return joined


def push_all(live, recording, *, until_s, packet_s=0.05, start_s=0.0):
    """Everything of a recording, in regular packets."""
    predictions = []
    for number in range(round((until_s - start_s) / packet_s)):
        begin_s, end_s = start_s + number * packet_s, start_s + (number + 1) * packet_s
        times_s, unit, count = recording.tokens(begin_s, end_s)
        predictions += live.push(times_s, unit, end_s, count)
    return predictions


def assert_same(one, other):
    """Two lists of predictions agree to the bit, but for the time they took."""
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert (a.behavior, a.chunk, a.start_s, a.end_s) == (b.behavior, b.chunk, b.start_s, b.end_s)
        assert a.spikes == b.spikes
        np.testing.assert_array_equal(a.times_s, b.times_s)
        np.testing.assert_array_equal(a.values, b.values)
