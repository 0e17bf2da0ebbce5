"""Decoding a recording chunk by chunk: in any blocks, at any times, causally, and scored as by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import toys
from possm.data.intervals import Intervals
from possm.data.scaling import Scaling
from possm.data.series import Signal, Spikes
from possm.errors import CheckpointError, ConfigError, RecordingError
from possm.evaluation import score
from possm.evaluation.metrics import r2_per_dimension
from possm.evaluation.score import decode, evaluate, evaluation_intervals, targets_at
from possm.model.decoder import BehaviorConfig

RECORDING = toys.recording(seconds=20)
BINNED = toys.recording(seconds=20, bin_ms=50)
DECODER = toys.decoder_for(RECORDING)
SPAN = Intervals.of([(3.0, 9.0)])


def decoder_of(recording=RECORDING, **changes):
    made = toys.decoder_for(recording, **changes)
    made.model.double()
    return made


def spikes_changed_from(recording, time_s, seed=9):
    """Other spikes at and after a time, the same before."""
    kept = recording.spikes.times_s < time_s
    rng = np.random.default_rng(seed)
    times_s = np.sort(rng.uniform(time_s, 20.0, 3000))
    unit = rng.integers(0, recording.num_units, 3000)
    spikes = Spikes(
        np.concatenate([recording.spikes.times_s[kept], times_s]),
        np.concatenate([recording.spikes.unit[kept], unit]),
    )
    return replace(recording, spikes=spikes)


@pytest.mark.parametrize("block", [1, 2, 7, 50])
@pytest.mark.parametrize("recording", [RECORDING, BINNED], ids=["spikes", "bins"])
def test_blocks_change_nothing(monkeypatch, block, recording):
    decoder = decoder_of(recording)
    whole = decode(decoder, recording, SPAN)["vel"]
    monkeypatch.setattr(score, "BLOCK_CHUNKS", block)
    blocks = decode(decoder, recording, SPAN)["vel"]
    np.testing.assert_array_equal(blocks.times_s, whole.times_s)
    np.testing.assert_allclose(blocks.values, whole.values, rtol=1e-9, atol=1e-9)
    assert len(whole.times_s) == 600
    assert whole.values.std(axis=0).min() > 1e-2


@pytest.mark.parametrize("lead_ms", [0, 20, 50, 70, 120])
def test_every_sample_is_answered_once(lead_ms):
    """From a warm start, all of them; the times are those of the samples, bit by bit."""
    decoded = decode(decoder_of(lead_ms=lead_ms), RECORDING, SPAN)["vel"]
    np.testing.assert_array_equal(decoded.times_s, RECORDING.behavior("vel").slice(3.0, 9.0).times_s)


@pytest.mark.parametrize("lead_ms", [0, 50, 120])
def test_first_instants_without_a_chunk_are_absent(lead_ms):
    decoder = decoder_of(lead_ms=lead_ms)
    decoded = decode(decoder, RECORDING, SPAN, warmup_s=0.0)["vel"]
    samples_s = RECORDING.behavior("vel").slice(3.0, 9.0).times_s
    np.testing.assert_array_equal(decoded.times_s, samples_s[samples_s >= 3.0 + lead_ms / 1000 - 1e-9])


def test_given_times_equal_samples():
    decoder = decoder_of()
    own = decode(decoder, RECORDING, SPAN)["vel"]
    given = decode(decoder, RECORDING, SPAN, times_s={"vel": own.times_s})["vel"]
    np.testing.assert_array_equal(given.times_s, own.times_s)
    np.testing.assert_array_equal(given.values, own.values)
    part = decode(decoder, RECORDING, SPAN, times_s={"vel": own.times_s[100:400:7]})["vel"]
    np.testing.assert_allclose(part.values, own.values[100:400:7], rtol=1e-12)
    outside = decode(decoder, RECORDING, SPAN, times_s={"vel": np.array([2.999, 9.0, np.nan])})["vel"]
    assert outside.values.shape == (0, 2)


def test_times_of_some_behaviors():
    recording = replace(RECORDING, signals={**RECORDING.signals, "pos": RECORDING.signals["vel"]})
    decoder = decoder_of(
        recording, behaviors={name: BehaviorConfig(num_dimensions=2) for name in ("vel", "pos")}
    )
    asked = decode(decoder, recording, SPAN, times_s={"pos": np.array([4.0, 5.0])})
    assert list(asked) == ["pos"]
    assert set(decode(decoder, recording, SPAN)) == {"vel", "pos"}
    with pytest.raises(ConfigError, match="does not decode 'gaze'"):
        decode(decoder, recording, SPAN, times_s={"gaze": np.array([4.0])})


def test_physical_units():
    decoder = decoder_of()
    scaled = replace(decoder, scaling={"vel": type(decoder.scaling["vel"])((0.0, 0.0), (1.0, 1.0))})
    raw, physical = (decode(d, RECORDING, SPAN)["vel"].values for d in (scaled, decoder))
    scaling = decoder.scaling["vel"]
    np.testing.assert_allclose(physical, raw * scaling.std + scaling.mean, rtol=1e-9)


@pytest.mark.parametrize("at_s", [5.0, 5.0123, 6.45])
def test_strictly_causal(at_s):
    """Other spikes from t on leave every value at or before t the same, bit by bit, and change later ones."""
    decoder = toys.decoder_for(RECORDING)
    assert decoder.config.strictly_causal
    before = decode(decoder, RECORDING, SPAN)["vel"]
    after = decode(decoder, spikes_changed_from(RECORDING, at_s), SPAN)["vel"]
    same = (before.values == after.values).all(axis=1)
    assert same[before.times_s <= at_s].all()
    assert not same[before.times_s > at_s + 0.05].any()


def test_the_papers_convention_sees_its_own_chunk():
    """Guards the test above: with lead 0, what changes at t shows up to one chunk before t."""
    decoder = toys.decoder_for(RECORDING, lead_ms=0)
    at_s = 5.04
    before = decode(decoder, RECORDING, SPAN)["vel"]
    after = decode(decoder, spikes_changed_from(RECORDING, at_s), SPAN)["vel"]
    same = (before.values == after.values).all(axis=1)
    assert same[before.times_s < at_s - 0.05].all()
    assert not same[(before.times_s >= 5.0 + 1e-6) & (before.times_s < at_s)].any()


def test_binned_is_strictly_causal():
    """A value at t uses bins that end at or before t."""
    decoder = toys.decoder_for(BINNED)
    values = BINNED.binned.values.copy()
    values[100:] = 30 - values[100:]  # bins from 5.0 s on
    changed = replace(BINNED, binned=replace(BINNED.binned, values=values))
    before, after = (decode(decoder, r, SPAN)["vel"] for r in (BINNED, changed))
    same = (before.values == after.values).all(axis=1)
    assert same[before.times_s < 5.05 - 1e-6].all()
    assert not same[before.times_s > 5.05 + 1e-6].any()


def test_nothing_after_the_interval_is_used():
    """The last chunk of a stretch may reach over its end; spikes there are another split's."""
    decoder = toys.decoder_for(RECORDING, lead_ms=0)
    span = Intervals.of([(3.0, 8.97)])
    before = decode(decoder, RECORDING, span)["vel"]
    after = decode(decoder, spikes_changed_from(RECORDING, 8.97), span)["vel"]
    np.testing.assert_array_equal(before.values, after.values)


def test_warm_up_reaches_back_but_not_across_a_cut():
    decoder = toys.decoder_for(RECORDING)
    cut = replace(RECORDING, domain=Intervals.of([(0.0, 2.9), (2.9, 20.0)]))

    def first(recording, **settings):
        return decode(decoder, recording, Intervals.of([(3.0, 4.0)]), **settings)["vel"].values

    def without(start_s, end_s, of=RECORDING):
        kept = (of.spikes.times_s < start_s) | (of.spikes.times_s >= end_s)
        return replace(of, spikes=Spikes(of.spikes.times_s[kept], of.spikes.unit[kept]))

    assert not np.array_equal(first(RECORDING), first(without(2.5, 2.8)))  # it does look back
    np.testing.assert_array_equal(first(cut), first(without(0.0, 2.9, cut)))  # but not over the cut
    assert not np.array_equal(first(cut), first(without(2.92, 2.98, cut)))
    np.testing.assert_array_equal(first(RECORDING, warmup_s=1.0), first(without(0, 2.0), warmup_s=1.0))
    np.testing.assert_array_equal(first(RECORDING, warmup_s=0.0), first(without(0, 3.0), warmup_s=0.0))


def test_intervals_are_decoded_on_their_own():
    two = Intervals.of([(3.0, 5.0), (7.0, 7.31)])
    decoder = decoder_of()
    both = decode(decoder, RECORDING, two)["vel"]
    each = [decode(decoder, RECORDING, Intervals.of([pair]))["vel"] for pair in two]
    np.testing.assert_array_equal(both.times_s, np.concatenate([e.times_s for e in each]))
    np.testing.assert_array_equal(both.values, np.concatenate([e.values for e in each]))


def test_no_interval():
    empty = decode(decoder_of(), RECORDING, Intervals.of([]))["vel"]
    assert empty.values.shape == (0, 2)


def test_scores_are_those_of_a_hand():
    decoder = toys.decoder_for(RECORDING)
    (row,), kept = evaluate(decoder, RECORDING)
    decoded = decode(decoder, RECORDING, RECORDING.split("test"))["vel"]
    signal = RECORDING.behavior("vel")
    start_s, end_s = next(iter(RECORDING.split("test")))
    target = signal.values[(signal.times_s >= start_s) & (signal.times_s < end_s)]
    error = np.square(decoded.values - target).sum(axis=0)
    by_hand = 1 - error / np.square(target - target.mean(axis=0)).sum(axis=0)
    np.testing.assert_allclose(row.r2_per_dimension, by_hand, rtol=1e-6)
    assert row.r2 == pytest.approx(by_hand.mean(), rel=1e-6)
    assert (row.session, row.behavior, row.split) == ("toy", "vel", "test")
    assert row.seconds == pytest.approx(end_s - start_s)
    assert row.chunks == round((end_s - start_s) / 0.05)
    np.testing.assert_array_equal(kept["vel"].values, decoded.values)
    assert set(row.to_json()) == {
        *("session", "behavior", "split", "r2", "r2_per_dimension", "r2_wiener", "seconds", "chunks")
    }


def test_only_samples_inside_the_evaluation_intervals_count():
    reaches = Intervals.of([(16.5, 17.0), (18.2, 19.1), (1.0, 2.0)])
    recording = replace(RECORDING, intervals={**RECORDING.intervals, "reach": reaches})
    decoder = toys.decoder_for(recording)
    (row,), kept = evaluate(decoder, recording, within="reach")
    whole = decode(decoder, recording, recording.split("test"))["vel"]
    inside = reaches.contains(whole.times_s)
    np.testing.assert_array_equal(kept["vel"].times_s, whole.times_s[inside])
    np.testing.assert_array_equal(kept["vel"].values, whole.values[inside])  # the whole split is decoded
    target = targets_at(recording, "vel", whole.times_s[inside])
    np.testing.assert_allclose(row.r2_per_dimension, r2_per_dimension(target, whole.values[inside]))
    assert row.seconds == pytest.approx(1.4)
    with pytest.raises(RecordingError, match="no intervals 'hold'") as caught:
        evaluate(decoder, recording, within="hold")
    assert "reach" in str(caught.value.got)


def test_targets_of_irregular_samples():
    stamps = np.sort(np.random.default_rng(0).uniform(0, 20, 200))
    recording = replace(
        RECORDING, signals={"vel": Signal(np.stack([stamps, -stamps], 1), timestamps_s=stamps)}
    )
    decoded = decode(toys.decoder_for(recording), recording, SPAN)["vel"]
    np.testing.assert_array_equal(targets_at(recording, "vel", decoded.times_s)[:, 0], decoded.times_s)


def test_samples_without_a_value_do_not_count():
    values = RECORDING.signals["vel"].values.copy()
    values[1700:1750] = np.nan
    holed = replace(RECORDING, signals={"vel": replace(RECORDING.signals["vel"], values=values)})
    decoder = toys.decoder_for(RECORDING)
    (row,), kept = evaluate(decoder, holed)
    assert len(kept["vel"].times_s) == 400  # decoded all the same
    good = np.isfinite(targets_at(holed, "vel", kept["vel"].times_s)).all(axis=1)
    target = targets_at(RECORDING, "vel", kept["vel"].times_s[good])
    np.testing.assert_allclose(row.r2_per_dimension, r2_per_dimension(target, kept["vel"].values[good]))


def test_a_session_never_seen():
    with pytest.raises(CheckpointError, match="never seen this session"):
        decode(DECODER, replace(RECORDING, session_id="tomorrow"), SPAN)


def test_units_the_decoder_does_not_know_are_counted(caplog):
    changed = replace(RECORDING, unit_ids=(*RECORDING.unit_ids[:-3], "x", "y", "z"))
    known = RECORDING.spikes.unit < 17
    fewer = replace(RECORDING, spikes=Spikes(RECORDING.spikes.times_s[known], RECORDING.spikes.unit[known]))
    ours, theirs = (decode(DECODER, r, SPAN)["vel"].values for r in (changed, fewer))
    np.testing.assert_array_equal(ours, theirs)
    assert ["3 of 20 units" in message for message in caplog.messages] == [True]


def test_decoding_leaves_no_gradients_and_no_training_mode():
    decoder = toys.decoder_for(RECORDING)
    decoder.model.train()
    values = decode(decoder, RECORDING, SPAN)["vel"].values
    np.testing.assert_array_equal(values, decode(decoder, RECORDING, SPAN)["vel"].values)  # no dropout
    assert all(p.grad is None for p in decoder.model.parameters())
    assert torch.is_grad_enabled()


def test_a_session_with_a_scaling_of_its_own():
    plain = decoder_of()
    own = Scaling((100.0, 50.0), tuple(2 * s for s in plain.scaling["vel"].std))
    scaled = replace(plain, session_scaling={RECORDING.session_id: {"vel": own}})
    one, two = (decode(d, RECORDING, RECORDING.split("test"))["vel"].values for d in (plain, scaled))
    np.testing.assert_allclose(two - [100, 50], 2 * (one - plain.scaling["vel"].mean), rtol=1e-4, atol=1e-4)


def test_evaluation_intervals_of_several_names():
    """Those of the first name that the recording has."""
    intervals = {**RECORDING.intervals, "random": Intervals.of([(1.0, 2.0)])}
    recording = replace(RECORDING, intervals=intervals)
    assert evaluation_intervals(recording, "reach|random|*").start_s == [1.0]
    assert evaluation_intervals(recording, "*|random") is recording.domain
    with pytest.raises(RecordingError, match=r"no intervals 'reach\|jump'"):
        evaluation_intervals(recording, "reach|jump")


def test_a_part_of_the_split_and_of_the_behaviors():
    decoder = decoder_of()
    (whole,), _ = evaluate(decoder, RECORDING, split="train")
    (part,), decoded = evaluate(decoder, RECORDING, split="train", limit_s=3.0)
    assert whole.seconds == pytest.approx(13.5) and part.seconds == pytest.approx(3.0)
    assert len(decoded["vel"].times_s) == pytest.approx(300, abs=6)
    assert evaluate(decoder, RECORDING, split="train", behaviors=[])[0] == []


def test_targets_are_read_where_they_are_needed():
    class Counting:
        shape, dtype, rows = (2000, 2), np.dtype(float), 0

        def __len__(self):
            return 2000

        def __getitem__(self, rows):
            Counting.rows += rows.stop - rows.start
            return RECORDING.signals["vel"].values[rows]

    signal = replace(RECORDING.signals["vel"], values=Counting())
    times_s = RECORDING.signals["vel"].times_s[500:520:3]
    found = targets_at(replace(RECORDING, signals={"vel": signal}), "vel", times_s)
    np.testing.assert_array_equal(found, RECORDING.signals["vel"].values[500:520:3])
    assert Counting.rows <= 20
    assert targets_at(RECORDING, "vel", np.zeros(0)).shape == (0, 2)
