"""Input that is late, delivered twice, too much, or on a clock that jumps: what is decoded and counted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_helpers import UNITS, assert_same, by_behavior, push_all, random_recording, small_decoder

from possm.errors import ConfigError, StreamError
from possm.streaming.bursts import cap_bursts, note_sizes
from possm.streaming.inbox import Arrivals, StreamCounts
from possm.streaming.live import LiveConfig, LiveDecoder
from possm.streaming.torch_engine import TorchEngine

ENGINE = TorchEngine(small_decoder())
NONE = np.zeros(0)


def live_decoder(origin_s=0.0, **settings):
    return LiveDecoder(ENGINE, origin_s=origin_s, config=LiveConfig(**settings))


class TestWaiting:
    def test_a_chunk_waits_for_late_spikes_and_no_longer(self):
        live, prompt = live_decoder(wait_ms=30), live_decoder()
        assert live.push([0.01], [1], 0.05) == []
        assert live.push([0.02], [2], 0.0799) == []
        (got, _) = live.push([0.085, 0.03], [4, 3], 0.08)
        (wanted, _) = prompt.push([0.01, 0.02, 0.03], [1, 2, 3], 0.05)
        np.testing.assert_array_equal(got.values, wanted.values)
        assert (got.chunk, got.end_s, got.spikes, got.late) == (0, 0.05, 3, 0)
        assert live.push([0.04], [5], 0.12) == [] and live.counts.late == 1

    def test_the_end_of_a_stream_ends_the_wait(self):
        live = live_decoder(wait_ms=200)
        assert live.push([0.01, 0.07], [1, 2], 0.12) == []
        assert_same(live.finish(), live_decoder().push([0.01, 0.07], [1, 2], 0.12))
        assert live.finish() == []

    @settings(max_examples=6, deadline=None)
    @given(seed=st.integers(0, 1000), wait_ms=st.sampled_from([20.0, 75.0, 200.0]))
    def test_spikes_late_by_less_than_the_wait_change_no_bit(self, seed, wait_ms):
        recording, rng = random_recording(end_s=1.0, seed=seed), np.random.default_rng(seed)
        times_s, unit, _ = recording.tokens(0, 1)
        arrival_s = times_s + rng.uniform(0, 0.99 * wait_ms / 1000, len(times_s))
        live, got = live_decoder(wait_ms=wait_ms), []
        for until_s in np.arange(1, 140) * 0.01:
            mine = (arrival_s < until_s) & (arrival_s >= until_s - 0.01)
            got += live.push(times_s[mine], unit[mine], until_s)
        wanted = push_all(live_decoder(), recording, until_s=1.0)
        assert live.counts.dropped == 0
        assert_same([p for p in got if p.end_s < 1.01], wanted)


class TestDuplicates:
    def test_a_packet_delivered_twice_while_it_waits(self):
        live, once = live_decoder(wait_ms=50), live_decoder(wait_ms=50)
        spikes = ([0.01, 0.02, 0.03], [1, 2, 1])
        for _ in range(3):
            live.push(*spikes, 0.05)
        once.push(*spikes, 0.05)
        got = live.push(NONE, NONE, 0.1)
        assert_same(got, once.push(NONE, NONE, 0.1))
        assert live.counts.duplicate == 6 and got[0].dropped == 6 and live.counts.received == 9

    def test_what_is_no_duplicate(self):
        live = live_decoder(wait_ms=50)
        live.push([0.01, 0.01], [1, 1], 0.05)  # twice within one push: a coarse clock
        live.push([0.01, 0.010002], [2, 1], 0.05)  # another unit; another time
        (got, _) = live.push(NONE, NONE, 0.1)
        assert got.spikes == 4 and live.counts.duplicate == 0

    def test_after_its_chunk_a_duplicate_is_late(self):
        live = live_decoder()
        live.push([0.01], [1], 0.05)
        live.push([0.01], [1], 0.1)
        assert (live.counts.late, live.counts.duplicate) == (1, 0)

    def test_they_can_be_kept(self):
        live = live_decoder(wait_ms=50, duplicate_tick_us=0)
        for _ in range(2):
            live.push([0.01], [1], 0.05)
        assert live.push(NONE, NONE, 0.1)[0].spikes == 2

    @pytest.mark.parametrize("origin_s", [0.0, 1_700_000_000.0])
    def test_against_a_set(self, origin_s):
        live, rng = live_decoder(origin_s=origin_s, wait_ms=1000), np.random.default_rng(0)
        held, wanted = set(), 0
        for _ in range(30):
            ticks, units = rng.integers(0, 60, 8), rng.integers(0, 3, 8)
            live.push(origin_s + ticks / 1000, units, origin_s + 0.1)
            pairs = list(zip(ticks, units, strict=True))
            wanted += sum(pair in held for pair in pairs)
            held |= set(pairs)
        assert live.counts.duplicate == wanted > 50


class TestJumps:
    @pytest.mark.parametrize("jump_s", [200_000.0, -200_000.0, 1e9 + 1 / 3])
    def test_following_keeps_hidden_state_and_waiting_spikes(self, jump_s):
        """All that differs from a stream without a jump is the clock."""
        recording = random_recording(end_s=3.0, rate_hz=20)
        plain, live = live_decoder(), live_decoder(on_jump="follow")
        wanted, got = [], []
        for number in range(150):
            times_s, unit, _ = recording.tokens(number * 0.02, (number + 1) * 0.02)
            shift_s = jump_s if number >= 71 else 0.0  # in the middle of a chunk
            wanted += plain.push(times_s, unit, (number + 1) * 0.02)
            got += live.push(times_s + shift_s, unit, (number + 1) * 0.02 + shift_s)
        assert live.counts.jumps == 1 and live.counts.dropped == 0
        assert [p.chunk for p in got] == [p.chunk for p in wanted]
        assert [p.spikes for p in got] == [p.spikes for p in wanted]
        before, after = (by_behavior(p)["cursor.pos"] for p in (wanted, got))
        coarse = (
            abs(jump_s) > 1e6
        )  # there a float resolves a tenth of a microsecond, which rotations can tell
        np.testing.assert_allclose(after[1], before[1], atol=2e-3 if coarse else 1e-5)
        np.testing.assert_allclose(after[0][28:] - jump_s, before[0][28:], atol=1e-6)
        assert (got[0].jumps, got[-1].jumps, got[-1].status) == (0, 1, "ok")

    @pytest.mark.parametrize("jump_s", [200_000.0, -200_000.0, np.nan])
    def test_holding_drops_until_the_clock_is_back(self, jump_s, caplog):
        live, plain = live_decoder(on_jump="hold"), live_decoder()
        live.push([0.01], [1], 0.1)
        plain.push([0.01], [1], 0.1)
        for number in range(3):
            assert live.push([jump_s], [1], 0.15 + jump_s + number * 0.05) == []
        assert "dropped until it is back" in caplog.text
        assert_same(live.push([0.31], [2], 0.35), plain.push([0.31], [2], 0.35))
        assert live.counts.jumps == 1 and live.counts.held == 3 and live.counts.dropped == 3
        live.push(NONE, NONE, 1e6)
        assert live.counts.jumps == 2

    @pytest.mark.parametrize("jump_s", [200_000.0, -200_000.0])
    def test_restarting_forgets_the_hidden_state(self, jump_s):
        live, fresh = live_decoder(on_jump="restart"), live_decoder(origin_s=jump_s)
        live.push([0.01, 0.06], [1, 2], 0.05)
        live.push([0.07], [2], 0.07)
        got = live.push([jump_s + 0.01], [3], jump_s + 0.02) + live.push(NONE, NONE, jump_s + 0.05)
        wanted = fresh.push([jump_s + 0.01], [3], jump_s + 0.05)
        assert [p.chunk for p in got] == [0, 0] and live.counts.jumps == 1 and live.counts.discarded == 2
        np.testing.assert_array_equal(got[0].values, wanted[0].values)

    def test_no_time_is_never_followed(self):
        for on_jump in ("follow", "restart"):
            live = live_decoder(on_jump=on_jump)
            live.push([0.01], [1], 0.05)
            assert live.push([0.06], [1], np.nan) == [] and live.counts.held == 1
            assert live.push([0.06], [1], 0.1)[0].start_s == 0.05
            assert live.counts.jumps == 1

    def test_a_stream_that_begins_far_away_has_not_jumped(self):
        live = live_decoder(on_jump="follow")
        (got, _) = live.push([1e9 - 0.01], [1], 1e9)
        assert (got.chunk, got.spikes, live.counts.jumps) == (0, 1, 0)
        assert got.end_s == pytest.approx(1e9, abs=1e-6)

    @pytest.mark.parametrize("start_s", [0.0, 200_000.0, 1_700_000_000.123])
    def test_after_a_jump_no_chunk_comes_a_push_late(self, start_s):
        live = live_decoder(on_jump="follow")
        live.push(NONE, NONE, 0.05)
        for number in range(120):
            assert len(live.push(NONE, NONE, 1e6 + start_s + number * 0.05)) == 2

    def test_a_push_that_was_overtaken_is_not_a_jump(self):
        live, plain = live_decoder(on_jump="follow", wait_ms=100), live_decoder()
        pushes = [([0.01], [1], 0.05), ([0.11], [3], 0.15), ([0.06], [2], 0.1), ([], [], 0.25)]
        got = [p for push in pushes for p in live.push(*push)]
        assert_same(got, plain.push([0.01, 0.06, 0.11], [1, 2, 3], 0.15))
        assert (live.counts.behind, live.counts.jumps, live.counts.dropped) == (1, 0, 0)

    def test_refusing_is_the_default(self):
        live = live_decoder()
        live.push(NONE, NONE, 1.0)
        for until_s in (0.9, 200_000.0, np.nan):
            with pytest.raises(StreamError):
                live.push(NONE, NONE, until_s)
        assert live.counts.jumps == 0

    def test_a_jump_survives_saving(self, tmp_path):
        live = live_decoder(on_jump="follow", wait_ms=20)
        live.push([0.01], [1], 0.05)
        live.push([1e5], [2], 1e5)
        resumed = LiveDecoder.resume(live.save(tmp_path / "s.safetensors"), ENGINE)
        rest = ([1e5 + 0.01], [3], 1e5 + 0.2)
        assert_same(live.push(*rest), resumed.push(*rest))
        assert resumed.counts == live.counts and resumed.counts.jumps == 1


class TestBursts:
    @settings(max_examples=50, deadline=None)
    @given(data=st.data())
    def test_against_one_spike_at_a_time(self, data):
        edges_s, most = np.array([0.0, 1.0, 2.0, 3.0]), data.draw(st.integers(1, 5))
        draw = st.tuples(st.floats(0, 2.99), st.integers(0, 3), st.integers(1, 7))
        rows = sorted(data.draw(st.lists(draw, max_size=30)), key=lambda row: row[0])
        times_s, unit, count = (np.array([row[i] for row in rows]) for i in range(3))
        total, kept, dropped, cut = {}, [], 0, 0
        for time, u, c in rows:
            room = most - total.get((int(time), u), 0)
            total[int(time), u] = total.get((int(time), u), 0) + c
            if room > 0:
                kept.append((time, u, min(c, room)))
            dropped, cut = dropped + (room <= 0), cut + (0 < room < c)
        counts = StreamCounts(used=len(rows))
        spikes = Arrivals(times_s.astype(float), unit.astype(np.int64), count.astype(np.float32))
        got = cap_bursts(spikes, edges_s, most, counts)
        assert list(zip(got.times_s, got.unit, got.count, strict=True)) == kept
        assert (counts.capped, counts.cut, counts.used) == (dropped, cut, len(kept))

    def test_in_a_stream(self):
        live, plain = live_decoder(max_count=3), live_decoder()
        burst = np.linspace(0.01, 0.04, 100)
        units = np.tile([1, 2], 50)
        got = live.push(np.append(burst, 0.06), np.append(units, 1), 0.1)
        keep = np.append(burst[:6], 0.06)
        wanted = plain.push(keep, np.append(units[:6], 1), 0.1)
        assert_same(got, wanted)
        assert live.counts.capped == 94 and live.counts.used == 7 and got[0].dropped == 94

    @pytest.mark.parametrize("factor", [10, 100])
    def test_without_a_cap_bursts_are_decoded(self, factor):
        live, rng = live_decoder(), np.random.default_rng(0)
        number = factor * UNITS
        got = live.push(rng.uniform(0, 0.05, number), rng.integers(0, UNITS, number), 0.05)
        assert got[0].spikes == number and np.isfinite(got[0].values).all()


def test_empty_chunks_are_counted():
    live = live_decoder()
    live.push([0.01, 0.16], [1, 2], 0.2)
    assert live.counts.chunks == 4 and live.counts.empty == 2


def test_bursts_are_counted_and_a_lasting_change_becomes_usual():
    counts, rng = StreamCounts(), np.random.default_rng(0)

    def bursts(sizes):
        for size in sizes:
            note_sizes([int(size)], counts)
            counts.chunks += 1
        return counts.bursts

    assert bursts(rng.poisson(20, 100)) == 0
    assert bursts([200, 20, 2000, 0, 0, 20]) == 2
    assert bursts([0] * 500) == 2 and counts.empty == 502 and counts.usual == pytest.approx(22, abs=3)
    assert bursts(rng.poisson(20, 50)) == 2
    lasting = bursts([200] * 300)
    assert 20 < lasting < 150 and bursts([200] * 50) == lasting


def test_a_burst_in_a_stream():
    live = live_decoder()
    for number, size in enumerate([5, 5, 5, 100, 5]):
        live.push(np.full(size, number * 0.05 + 0.02), np.arange(size) % UNITS, (number + 1) * 0.05)
    assert live.counts.bursts == 1 and 5 < live.counts.usual < 15


@pytest.mark.parametrize(
    "change",
    [
        {"wait_ms": -1.0},
        {"wait_ms": np.nan},
        {"on_jump": "run"},
        {"max_back_s": -1.0},
        {"max_count": 0},
        {"duplicate_tick_us": -1.0},
    ],
)
def test_settings_out_of_range(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        LiveConfig(**change)
