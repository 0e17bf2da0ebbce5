"""What a live decoder refuses, drops and counts; saving, resuming, swapping; the engine that runs it."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_helpers import SESSION, UNITS, assert_same, push_all, random_recording, small_decoder

from possm.checkpoint import save_decoder
from possm.config import from_json, to_json
from possm.errors import CheckpointError, ConfigError, StreamError
from possm.streaming.engines import StreamSpec, open_engine
from possm.streaming.live import LiveConfig, LiveDecoder
from possm.streaming.torch_engine import TorchEngine

DECODER = small_decoder()
ENGINE = TorchEngine(DECODER)
NONE = np.zeros(0)


def live_decoder(**settings):
    return LiveDecoder(ENGINE, **settings)


class TestTime:
    def test_nothing_is_decoded_before_a_chunk_is_over(self):
        live = live_decoder()
        assert live.push([0.01], [0], 0.049) == []
        assert live.counts.waiting == 1
        (first, second) = live.push(NONE, NONE, 0.05)
        assert (first.behavior, second.behavior) == ("cursor.pos", "hand.vel")
        assert (first.chunk, first.start_s, first.end_s, first.spikes) == (0, 0.0, 0.05, 1)
        assert first.compute_s > 0
        assert live.decoded_s == 0.05 and live.counts.waiting == 0

    def test_spikes_ahead_of_their_push_wait_for_their_chunk(self):
        live = live_decoder()
        early = live.push([0.21, 0.06, 0.01], [3, 2, 1], 0.05) + live.push(NONE, NONE, 0.3)
        fresh = live_decoder()
        prompt = fresh.push([0.01], [1], 0.05) + fresh.push([0.06], [2], 0.1)
        prompt += fresh.push([0.21], [3], 0.25) + fresh.push(NONE, NONE, 0.3)
        assert_same(early, prompt)

    def test_an_end_missed_by_rounding_still_ends_the_chunk(self):
        live, until_s = live_decoder(), 0.0
        for number in range(1, 200):
            until_s += 0.05  # accumulates rounding errors, unlike number * 0.05
            live.push(NONE, NONE, until_s)
            assert live.chunk == number

    @pytest.mark.parametrize("origin_s", [0.3, -7.77, 86_399.9, 1_700_000_000.123])
    def test_every_push_of_a_chunk_decodes_one_chunk(self, origin_s):
        """Also on a clock of seconds since 1970, where a float resolves a quarter of a microsecond."""
        live = live_decoder(origin_s=origin_s)
        for number in range(1, 200):
            (got, _) = live.push([origin_s + number * 0.05 - 0.01], [1], origin_s + number * 0.05)
            assert (got.chunk, got.spikes, len(got.times_s)) == (number - 1, 1, 1)
        assert live.counts.late == 0

    def test_equal_times_keep_the_order_of_arrival(self):
        """So that sorting, which only some pushes need, changes no bit."""
        times_s, units = np.append(np.full(300, 0.02), 0.03), np.arange(301) * 7 % UNITS
        behind = live_decoder().push(np.roll(times_s, 1), np.roll(units, 1), 0.05)
        assert_same(behind, live_decoder().push(times_s, units, 0.05))

    @pytest.mark.parametrize("until_s", [np.nan, np.inf, -np.inf])
    def test_a_push_that_ends_at_no_time(self, until_s):
        with pytest.raises(StreamError, match="no time"):
            live_decoder().push(NONE, NONE, until_s)

    def test_time_that_goes_back_changes_nothing(self):
        live = live_decoder()
        live.push([0.01], [0], 0.2)
        before = live.counts
        with pytest.raises(StreamError, match=r"goes back[\s\S]*0\.100000 s after one until 0\.200000"):
            live.push([0.15], [0], 0.1)
        assert live.counts == before and live.chunk == 4
        assert live.push(NONE, NONE, 0.2) == []  # the same end again is not back
        assert len(live.push(NONE, NONE, 0.25)) == 2

    @pytest.mark.parametrize("jump_s", [200_000.0, 1e12])
    def test_a_clock_that_jumps_ahead_is_refused(self, jump_s):
        live = live_decoder()
        live.push(NONE, NONE, 1.0)
        with pytest.raises(StreamError, match="jumps ahead"):
            live.push([jump_s], [0], jump_s)
        assert live.push([1.01], [0], 1.05)[0].spikes == 1
        live.restart(jump_s)
        assert live.push([jump_s + 0.01], [0], jump_s + 0.05)[0].start_s == jump_s

    def test_restart_forgets_the_past_but_not_the_counters(self):
        live, fresh = live_decoder(), live_decoder(origin_s=70.0)
        live.push([0.01, 0.99, 0.0], [0, 1, 999], 0.97)
        live.restart(70.0)
        assert live.counts.discarded == 1 and live.counts.unknown == 1 and live.counts.waiting == 0
        spikes = ([70.01, 70.07], [3, 4], 70.1)
        assert_same(live.push(*spikes), fresh.push(*spikes))
        with pytest.raises(StreamError, match="begin"):
            live.restart(np.nan)


class TestCounting:
    def test_late_spikes_are_dropped_and_reported_in_every_prediction(self):
        live, plain = live_decoder(), live_decoder()
        live.push([0.01], [0], 0.1)
        plain.push([0.01], [0], 0.1)
        got = live.push([0.09, 0.05, 0.12, -5.0], [1, 2, 3, 4], 0.15)
        assert [p.late for p in got] == [3, 3] and live.counts.late == 3
        assert_same(got, plain.push([0.12], [3], 0.15))

    def test_unknown_units_by_name_and_by_row(self):
        live = live_decoder()
        got = live.push([0.01, 0.02, 0.03, 0.04], ["3", "nobody", "", "19"], 0.05)
        assert got[0].unknown == 2 and got[0].spikes == 2
        got = live.push([0.06, 0.07, 0.08, 0.09], [UNITS, -1, 2**40, 0], 0.1)
        assert got[0].unknown == 5 and got[0].spikes == 1

    def test_names_and_rows_mean_the_same(self):
        times_s = np.linspace(0, 0.49, 37)
        rows = np.random.default_rng(0).integers(0, UNITS, 37)
        names = np.array([str(row) for row in rows])
        wanted = live_decoder().push(times_s, rows, 0.5)
        for units in (names, list(names), names.astype(object), names.astype("S"), rows.astype(np.uint8)):
            assert_same(live_decoder().push(times_s, units, 0.5), wanted)

    def test_times_that_are_none_or_absurd(self):
        live = live_decoder()
        got = live.push([np.nan, np.inf, -np.inf, 1e12, 0.01], [0, 0, 0, 0, 0], 0.05)
        assert live.counts.invalid == 4 and got[0].spikes == 1
        assert np.isfinite(got[0].values).all()

    def test_counts_that_are_none_or_absurd(self):
        live = live_decoder()
        counts = [1, 3, 0, -1, np.nan, np.inf]
        got = live.push([0.01] * 6, [0] * 6, 0.05, counts)
        assert live.counts.invalid == 3 and live.counts.received == 5 and got[0].spikes == 2

    def test_a_count_is_as_many_spikes(self):
        once = live_decoder().push([0.01, 0.03], [4, 5], 0.05, [3, 1])
        thrice = live_decoder().push([0.01, 0.01, 0.03, 0.01], [4, 4, 5, 4], 0.05)
        np.testing.assert_allclose(once[0].values, thrice[0].values, atol=1e-6)

    @settings(max_examples=40, deadline=None)
    @given(data=st.data())
    def test_every_spike_is_accounted_for(self, data):
        live, until_s = live_decoder(), 0.0
        time = st.floats(-1, 3) | st.sampled_from([np.nan, np.inf, 0.05, 1e9])
        for _ in range(data.draw(st.integers(1, 6))):
            spikes = data.draw(st.lists(st.tuples(time, st.integers(-3, UNITS + 3)), max_size=12))
            until_s += data.draw(st.sampled_from([0.0, 0.02, 0.05, 0.4]))
            times_s, units = [t for t, _ in spikes], [u for _, u in spikes]
            predictions = live.push(times_s, units, until_s)
            assert all(np.isfinite(p.values).all() for p in predictions)
            if data.draw(st.integers(0, 9)) == 0:
                live.restart(until_s)
        c = live.counts
        assert c.received == c.used + c.waiting + c.dropped

    @pytest.mark.parametrize(
        "arguments",
        [([0.1, 0.2], [0], 1.0), ([0.1], [0], 1.0, [1, 2]), ([[0.1]], [[0]], 1.0), (0.1, 0, 1.0)],
    )
    def test_arrays_that_do_not_fit_change_nothing(self, arguments):
        live = live_decoder()
        with pytest.raises(StreamError, match="one unit"):
            live.push(*arguments)
        assert live.counts.received == 0 and live.chunk == 0

    def test_units_that_are_neither_names_nor_rows(self):
        with pytest.raises(StreamError, match="neither names nor rows"):
            live_decoder().push([0.1], [1.0], 0.5)

    def test_arrays_of_the_caller_are_copied(self):
        live, times_s, rows = live_decoder(), np.array([0.01]), np.array([1])
        live.push(times_s, rows, 0.0)
        times_s[:], rows[:] = 0.04, 2
        assert_same(live.push(NONE, NONE, 0.05), live_decoder().push([0.01], [1], 0.05))


class TestSetup:
    def test_a_decoder_of_several_sessions_needs_one_named(self):
        decoder = small_decoder(sessions=("monday", "tuesday"))
        with pytest.raises(StreamError, match="needs a session"):
            LiveDecoder(decoder)
        with pytest.raises(CheckpointError, match="never seen"):
            LiveDecoder(decoder, session="sunday")
        one = LiveDecoder(decoder, session="monday").push([0.01], ["3"], 0.05)
        other = LiveDecoder(decoder, session="tuesday").push([0.01], ["3"], 0.05)
        assert np.abs(one[0].values - other[0].values).max() > 1e-3

    def test_only_some_behaviors(self):
        live = live_decoder(behaviors=["hand.vel"])
        assert live.behaviors == {"hand.vel": 3}
        (got,) = live.push(NONE, NONE, 0.05)
        assert got.behavior == "hand.vel" and got.values.shape == (1, 3)
        with pytest.raises(StreamError, match=r"does not decode 'foot.pos'[\s\S]*cursor.pos"):
            live_decoder(behaviors=["foot.pos"])

    def test_units_of_the_stream_may_be_fewer_more_and_in_another_order(self, caplog):
        units = ["7", "extra", "3"]
        live = live_decoder(unit_ids=units)
        assert "does not know 1 of 3" in caplog.text
        got = live.push([0.01, 0.02, 0.03], [0, 1, 2], 0.05)
        assert got[0].unknown == 1
        plain = live_decoder().push([0.01, 0.03], [7, 3], 0.05)
        assert_same(got, plain)

    def test_a_stream_of_other_units(self):
        with pytest.raises(StreamError, match="none of the stream's units"):
            live_decoder(unit_ids=["elec1", "elec2"])
        with pytest.raises(StreamError, match="same name"):
            live_decoder(unit_ids=["1", "2", "1"])

    def test_units_can_be_named_before_spikes_wait(self):
        live = live_decoder()
        live.use_units(["5", "6"])
        live.push([0.01, 0.07], [1, 0], 0.05)
        live.use_units(("5", "6"))
        with pytest.raises(StreamError, match="wait"):
            live.use_units(["1"])
        assert live.counts.received == 2

    @pytest.mark.parametrize("change", [{"max_chunks": 0}, {"max_gap_s": 0.0}])
    def test_settings_out_of_range(self, change):
        with pytest.raises(ConfigError):
            LiveConfig(**change)

    @pytest.mark.parametrize("rate_hz", [0.0, -1.0, np.nan, np.inf])
    def test_an_output_rate_out_of_range(self, rate_hz):
        with pytest.raises(ConfigError, match="output_rate_hz"):
            live_decoder(output_rate_hz=rate_hz)

    @pytest.mark.parametrize("times_s", [[0.2, 0.1], [np.nan], [[0.1]]])
    def test_output_times_out_of_order(self, times_s):
        with pytest.raises(StreamError, match="ascending"):
            live_decoder(output_times_s={"cursor.pos": np.array(times_s)})


class TestSaving:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("outputs", ["chunks", "rate", "times"])
    def test_resumed_in_the_middle_of_a_chunk_it_goes_on_to_the_bit(self, tmp_path, outputs, dtype):
        more = {"chunks": {}, "rate": {"output_rate_hz": 70.0}}
        asked = {"output_times_s": {"cursor.pos": np.sort(np.random.default_rng(0).uniform(0, 3, 90))}}
        decoder, recording = small_decoder(dtype=dtype), random_recording(end_s=3.0)
        times_s, unit, _ = recording.tokens(0, 3)
        settings_ = {"unit_ids": recording.unit_ids, "config": LiveConfig(max_gap_s=50.0), "origin_s": 0.013}
        live = LiveDecoder(decoder, **settings_, **more.get(outputs, asked))
        first = times_s < 1.51
        live.push([0.5, 0.5], ["nobody", "4"], 1.0)
        live.push(times_s[first], unit[first], 1.49)
        path = live.save(tmp_path / "stream.safetensors")
        resumed = LiveDecoder.resume(path, decoder)
        assert resumed.counts == live.counts and resumed.counts.late > 0 and resumed.counts.waiting > 0
        assert resumed.config == live.config and resumed.origin_s == live.origin_s
        rest = (times_s[~first], unit[~first], 3.0)
        assert_same(resumed.push(*rest), live.push(*rest))
        assert resumed.counts == live.counts

    def test_before_the_first_push(self, tmp_path):
        live = live_decoder()
        resumed = LiveDecoder.resume(live.save(tmp_path / "s.safetensors"), ENGINE)
        assert_same(resumed.push([0.01], [1], 0.1), live.push([0.01], [1], 0.1))

    def test_the_state_of_another_decoder_is_refused(self, tmp_path):
        path = live_decoder().save(tmp_path / "s.safetensors")
        with pytest.raises(StreamError, match="another decoder"):
            LiveDecoder.resume(path, small_decoder(seed=1))

    def test_damaged_foreign_and_missing_files(self, tmp_path):
        live = live_decoder()
        live.push([0.01, 0.06], [1, 2], 0.05)
        path = live.save(tmp_path / "s.safetensors")
        content = path.read_bytes()
        for place in np.random.default_rng(0).integers(8, len(content), 40):
            path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
            with pytest.raises(StreamError):
                LiveDecoder.resume(path, ENGINE)
            path.write_bytes(content[:place])
            with pytest.raises(StreamError):
                LiveDecoder.resume(path, ENGINE)
        decoder_file = save_decoder(DECODER, tmp_path / "d.safetensors")
        with pytest.raises(StreamError, match="not a saved stream"):
            LiveDecoder.resume(decoder_file, ENGINE)
        with pytest.raises(StreamError, match="no such file"):
            LiveDecoder.resume(tmp_path / "none.safetensors", ENGINE)

    def test_a_disk_that_refuses(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(StreamError, match="cannot save"):
            live_decoder().save(tmp_path / "file" / "s.safetensors")


class TestSwap:
    def test_to_a_copy_changes_no_bit(self):
        recording = random_recording(end_s=2.0)
        live, plain = live_decoder(), live_decoder()
        first = push_all(live, recording, until_s=1.0)
        live.swap(small_decoder())
        got = first + push_all(live, recording, start_s=1.0, until_s=2.0)
        assert_same(got, push_all(plain, recording, until_s=2.0))

    def test_to_other_weights_keeps_state_time_and_waiting_spikes(self):
        live = live_decoder()
        live.push([0.01, 0.12], [1, 2], 0.1)
        other = small_decoder(seed=1)
        live.swap(other)
        (got, _) = live.push(NONE, NONE, 0.15)
        assert got.chunk == 2 and got.spikes == 1
        started_there = LiveDecoder(other, origin_s=0.1).push([0.12], [2], 0.15)[0]
        assert np.abs(got.values - started_there.values).max() > 1e-4  # the hidden state came along

    def test_to_a_new_session_and_fewer_units(self):
        live = live_decoder()
        live.push([0.06, 0.07], ["3", "15"], 0.05)
        live.swap(small_decoder(sessions=("today",), num_units=10))
        got = live.push([0.08], ["4"], 0.1)
        assert live.bound.session_id == "today" and got[0].spikes == 2 and got[0].unknown == 1

    @pytest.mark.parametrize(
        "other",
        [{"hidden": 32}, {"chunk_ms": 20}, {"lead_ms": 0}, {"dtype": torch.float64}, {"num_context": 2}],
    )
    def test_a_decoder_that_does_not_fit_is_refused_and_nothing_changes(self, other):
        live, plain = live_decoder(), live_decoder()
        with pytest.raises(StreamError, match="cannot take over"):
            live.swap(small_decoder(**other))
        assert_same(live.push([0.01], [1], 0.1), plain.push([0.01], [1], 0.1))


class TestEngine:
    def test_by_decoder_path_or_engine(self, tmp_path):
        path = save_decoder(DECODER, tmp_path / "d.safetensors")
        wanted = live_decoder().push([0.01], [1], 0.1)
        for decoder in (DECODER, path, str(path), ENGINE):
            assert_same(LiveDecoder(decoder).push([0.01], [1], 0.1), wanted)
        with pytest.raises(StreamError, match="no such engine"):
            open_engine(DECODER, name="abacus")

    def test_training_that_goes_on_does_not_reach_it(self):
        decoder = small_decoder()
        engine = TorchEngine(decoder)
        decoder.model.train()
        with torch.no_grad():
            for parameter in decoder.model.parameters():
                parameter.zero_()
        assert_same(LiveDecoder(engine).push([0.01], [1], 0.1), live_decoder().push([0.01], [1], 0.1))
        assert decoder.model.training

    def test_nothing_global_is_set(self):
        before = torch.get_num_threads(), torch.get_default_dtype(), torch.is_inference_mode_enabled()
        live_decoder().push([0.01], [1], 0.1)
        assert before == (
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.is_inference_mode_enabled(),
        )

    def test_its_spec_survives_json(self):
        text = json.dumps(to_json(ENGINE.spec))
        assert from_json(StreamSpec, json.loads(text)) == ENGINE.spec
        assert ENGINE.spec.lead_ms == 50 and ENGINE.spec.hash == DECODER.hash
        assert ENGINE.spec.behaviors == {"cursor.pos": 2, "hand.vel": 3}

    def test_state_is_numpy_and_is_not_changed_by_a_step(self):
        state = ENGINE.initial_state()
        copy = [array.copy() for array in (*state.backbone, state.recent, state.seen)]
        live = live_decoder()
        batch = live.bound.batch(live._inbox.waiting(), np.array([0.0, 0.05]), {})
        _, after = ENGINE.step(batch, state)
        for array, before in zip((*state.backbone, state.recent, state.seen), copy, strict=True):
            assert type(array) is np.ndarray
            np.testing.assert_array_equal(array, before)
        assert np.abs(after.recent).max() > 0

    def test_the_live_path_loads_no_torch(self):
        code = (
            "import sys, possm.streaming.live, possm.streaming.run, possm.streaming.links\n"
            "assert 'torch' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


def test_session_is_what_the_helpers_say():
    assert live_decoder().bound.session_id == SESSION
    assert dataclasses.asdict(live_decoder().counts)["received"] == 0
