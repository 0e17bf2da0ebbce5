import csv
import time

import numpy as np
import pytest
from stream_helpers import SESSION, UNITS, binned_recording, random_recording, small_decoder

from possm.batch import Prediction
from possm.data.formats import write_hdf5
from possm.data.intervals import Intervals
from possm.errors import ConfigError, RecordingError, StreamError
from possm.streaming.links import SINKS, SOURCES, Message, open_sink, open_source
from possm.streaming.links.callback import CallbackSink, CallbackSource
from possm.streaming.links.csv import FACTS, CsvConfig, CsvSink, CsvSource
from possm.streaming.links.packets import PacketConfig
from possm.streaming.links.replay import ReplayConfig, ReplaySource
from possm.streaming.live import LiveDecoder


def prediction(behavior="cursor.pos", chunk=0, values=((1.0, 2.0),), times_s=None):
    values = np.array(values, np.float32)
    end_s = (chunk + 1) * 50 / 1000
    times_s = np.full(len(values), end_s) if times_s is None else np.array(times_s)
    return Prediction(behavior, times_s, values, chunk, end_s - 0.05, end_s, 7, 1, 2, 0.00123)


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class TestReplay:
    def joined(self, messages):
        fields = ("spike_times_s", "units", "counts")
        return tuple(np.concatenate([getattr(m, name) for m in messages]) for name in fields)

    @pytest.mark.parametrize("packet_ms", [1, 7, 50, 3000, 10**6])
    @pytest.mark.parametrize("make", [random_recording, binned_recording])
    def test_it_delivers_everything_once_in_order(self, make, packet_ms):
        recording = make(end_s=3.17)
        messages = list(ReplaySource(recording, ReplayConfig(packet_ms=packet_ms)))
        for got, wanted in zip(self.joined(messages), recording.tokens(0, 3.17), strict=True):
            np.testing.assert_array_equal(got, wanted)
        ends_s = [message.until_s for message in messages]
        assert ends_s == sorted(ends_s) and ends_s[-1] == 3.17
        assert ends_s[0] == min(packet_ms / 1000, 3.17)
        assert [m.start_s for m in messages] == [0.0] + [None] * (len(messages) - 1)
        for before_s, message in zip([0.0, *ends_s], messages, strict=False):
            inside = (message.spike_times_s >= before_s) & (message.spike_times_s < message.until_s)
            assert inside.all()

    def test_every_interval_begins_anew(self):
        recording = random_recording(domain=[(0.0, 1.0), (1.0, 1.52), (3.0, 4.0)])
        messages = list(ReplaySource(recording))
        assert [m.start_s for m in messages if m.start_s is not None] == [0.0, 1.0, 3.0]
        times_s, _, _ = self.joined(messages)
        assert len(times_s) and not ((times_s > 1.52) & (times_s < 3.0)).any()
        assert [m.until_s for m in messages if 1.4 < m.until_s < 3] == pytest.approx([1.45, 1.5, 1.52])

    def test_a_split_of_a_file(self, tmp_path):
        recording = random_recording(intervals={"test_domain": Intervals.of([(2.0, 3.0)])})
        path = tmp_path / "r.h5"
        write_hdf5(recording, path)
        source = open_source(f"replay:{path}?split=test&packet_ms=100&speed=inf")
        times_s, unit, _ = self.joined(list(source))
        source.close()
        wanted = recording.tokens(2.0, 3.0)
        np.testing.assert_array_equal(times_s, wanted[0])
        np.testing.assert_array_equal(unit, wanted[1])
        assert source.session_id == SESSION and source.unit_ids == recording.unit_ids
        with pytest.raises(RecordingError, match="no split 'valid'"):
            open_source(f"replay:{path}?split=valid")

    def test_bins_are_not_cut(self):
        """An interval that begins inside a bin is played from the next edge of a bin."""
        recording = binned_recording()
        source = ReplaySource(recording, ReplayConfig())
        source._stretches = Intervals.of([(1.03, 2.0)])
        messages = list(source)
        assert messages[0].start_s == pytest.approx(1.05) and messages[0].until_s == pytest.approx(1.1)
        assert all(len(np.unique(m.spike_times_s)) <= 1 for m in messages)

    def test_true_speed(self):
        recording = random_recording(end_s=0.3, domain=[(0.0, 0.1), (0.2, 0.3)])
        began, arrivals = time.monotonic(), []
        for message in ReplaySource(recording, ReplayConfig(speed=2.0)):
            arrivals.append((time.monotonic() - began, message.until_s))
        played_s = [until_s if until_s < 0.15 else until_s - 0.1 for _, until_s in arrivals]
        for (arrived_s, _), wanted_s in zip(arrivals, played_s, strict=True):
            assert arrived_s >= wanted_s / 2 - 1e-3  # never before its time
        assert arrivals[-1][0] < 2.0


class TestCsvSink:
    def test_one_behavior(self, tmp_path):
        sink = open_sink(f"csv:{tmp_path}/new/out.csv")
        sink.start({"cursor.pos": 2})
        sink.write(prediction(values=[[0.1, -2.5]]))
        sink.write(prediction(chunk=1, values=[[3.0, 1e-7], [4.0, 5.0]], times_s=[0.1, 0.12]))
        sink.close()
        sink.close()
        rows = read(tmp_path / "new" / "out.csv")
        assert list(rows[0]) == ["time_s", "cursor.pos.0", "cursor.pos.1", *FACTS]
        assert [float(row["time_s"]) for row in rows] == [0.05, 0.1, 0.12]
        assert np.float32(rows[0]["cursor.pos.0"]) == np.float32(0.1)
        assert np.float32(rows[1]["cursor.pos.1"]) == np.float32(1e-7)
        assert (rows[1]["chunk"], rows[1]["spikes"], rows[1]["late"], rows[1]["unknown"]) == (
            "1",
            "7",
            "1",
            "2",
        )
        assert float(rows[0]["compute_ms"]) == 1.23

    def test_behaviors_share_the_rows_of_equal_times(self, tmp_path):
        sink = CsvSink(tmp_path / "out.csv")
        sink.start({"cursor.pos": 2, "hand.vel": 1})
        sink.write(prediction())
        sink.write(prediction("hand.vel", values=[[9.0], [8.0]], times_s=[0.05, 0.06]))
        sink.write(prediction("hand.vel", chunk=1, values=[[7.0]]))
        sink.write(prediction("hand.vel", chunk=2, values=[[6.0]]))
        sink.close()
        table = [(r["time_s"], r["cursor.pos.0"], r["hand.vel.0"]) for r in read(tmp_path / "out.csv")]
        wanted = [("0.05", "1.0", "9.0"), ("0.06", "", "8.0"), ("0.1", "", "7.0"), ("0.15", "", "6.0")]
        assert [(str(round(float(t), 9)), a, b) for t, a, b in table] == wanted

    def test_an_existing_file_is_left_alone_unless_told(self, tmp_path):
        path = tmp_path / "out.csv"
        path.write_text("precious")
        with pytest.raises(StreamError, match="there already"):
            open_sink(f"csv:{path}")
        assert path.read_text() == "precious"
        sink = open_sink(f"csv:{path}?overwrite=yes")
        sink.start({"cursor.pos": 2})
        sink.close()
        assert path.read_text().startswith("time_s,")

    def test_it_can_be_read_while_it_is_written(self, tmp_path):
        sink = CsvSink(tmp_path / "out.csv", CsvConfig(flush_rows=5))
        sink.start({"cursor.pos": 2})
        assert (tmp_path / "out.csv").read_text().count("\n") == 1
        for chunk in range(9):
            sink.write(prediction(chunk=chunk))
        assert 5 <= len(read(tmp_path / "out.csv")) <= 9
        sink.close()
        assert len(read(tmp_path / "out.csv")) == 9

    def test_a_place_that_refuses(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(StreamError, match="cannot write"):
            CsvSink(tmp_path / "file" / "out.csv")

    def test_a_disk_that_is_full(self):
        sink = CsvSink("/dev/full", CsvConfig(overwrite=True))
        with pytest.raises(StreamError, match="cannot write"):
            sink.start({"cursor.pos": 2})
        with pytest.raises(StreamError, match="cannot write"):
            sink.close()
        sink.close()

    def test_every_digit_survives(self, tmp_path):
        values = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
        times_s = 0.05 + np.sort(np.random.default_rng(1).uniform(0, 0.05, 30))
        sink = CsvSink(tmp_path / "out.csv")
        sink.start({"cursor.pos": 2})
        sink.write(prediction(values=values, times_s=times_s))
        sink.close()
        rows = read(tmp_path / "out.csv")
        assert [float(row["time_s"]) for row in rows] == times_s.tolist()
        got = np.array([[row["cursor.pos.0"], row["cursor.pos.1"]] for row in rows], np.float32)
        np.testing.assert_array_equal(got, values)


class TestCsvSource:
    def test_spikes_of_a_table(self, tmp_path):
        path = tmp_path / "spikes.csv"
        path.write_text("time_s,unit,count\n10.26,b,1\n10.12,a,3\n10.11,b,\n")
        source = open_source(f"csv:{path}?packet_ms=50")
        messages = list(source)
        source.close()
        assert source.unit_ids == ("a", "b")
        assert messages[0].start_s == pytest.approx(10.1)
        assert [m.until_s for m in messages] == pytest.approx([10.15, 10.2, 10.25, 10.3])
        assert messages[0].spike_times_s.tolist() == [10.11, 10.12]
        assert messages[0].units.tolist() == [1, 0] and messages[0].counts.tolist() == [1, 3]
        assert messages[3].spike_times_s.tolist() == [10.26]

    def test_an_empty_table(self, tmp_path):
        (tmp_path / "s.csv").write_text("time_s,unit\n")
        assert list(CsvSource(tmp_path / "s.csv")) == []

    @pytest.mark.parametrize(
        "text", ["", "a,b\n1,2\n", "time_s,unit\nnow,3\n", "time_s,unit\nnan,3\n", "time_s,unit\n1.5\n"]
    )
    def test_a_table_that_is_none(self, tmp_path, text):
        (tmp_path / "s.csv").write_text(text)
        with pytest.raises(StreamError, match=r"s\.csv"):
            CsvSource(tmp_path / "s.csv")

    def test_no_table(self, tmp_path):
        with pytest.raises(StreamError, match="cannot read"):
            CsvSource(tmp_path / "none.csv")


RECEIVED: list[Prediction] = []


def receive(item):
    RECEIVED.append(item)


def nothing_more():
    return None


class TestCallback:
    def test_a_function_is_a_source(self):
        queue = [Message(np.array([0.01]), np.array(["3"]), 0.05), Message(np.zeros(0), np.zeros(0), 0.1)]
        source = CallbackSource(lambda: queue.pop(0) if queue else None)
        live = LiveDecoder(small_decoder())
        got = [p for m in source for p in live.push(m.spike_times_s, m.units, m.until_s)]
        assert [p.spikes for p in got if p.behavior == "cursor.pos"] == [1, 0]

    def test_a_function_is_a_sink(self):
        received = []
        sink = CallbackSink(received.append)
        sink.start({})
        sink.write(prediction())
        sink.close()
        assert received[0].chunk == 0

    def test_by_name(self):
        open_sink(f"callback:{__name__}:receive").write(prediction(chunk=5))
        assert RECEIVED[-1].chunk == 5
        assert list(open_source(f"callback:{__name__}:nothing_more")) == []

    @pytest.mark.parametrize(
        "address",
        [f"callback:{__name__}:nobody", "callback:no_such_module:f", f"callback:{__name__}", "callback::x"],
    )
    def test_no_such_function(self, address):
        with pytest.raises(StreamError, match="no such function"):
            open_sink(address)

    def test_no_function_and_no_options(self):
        with pytest.raises(StreamError, match="not a function"):
            open_sink(f"callback:{__name__}:RECEIVED")
        with pytest.raises(StreamError, match="no options"):
            open_sink(f"callback:{__name__}:receive?speed=1")


class TestAddresses:
    @pytest.mark.parametrize("address", ["out.csv", "tcp:here", "csv:", "", ":", "csv:?overwrite=1"])
    def test_addresses_that_say_nothing(self, address):
        with pytest.raises(StreamError, match="one of"):
            open_sink(address)
        with pytest.raises(StreamError, match=", ".join(SOURCES)):
            open_source(address if not address.startswith("csv:?") else "replay:?speed=1")

    def test_options_are_checked(self, tmp_path):
        path = tmp_path / "r.h5"
        write_hdf5(random_recording(), path)
        with pytest.raises(ConfigError, match="did you mean 'speed'"):
            open_source(f"replay:{path}?sped=1")
        with pytest.raises(ConfigError, match="'speed' cannot be read"):
            open_source(f"replay:{path}?speed=fast")
        with pytest.raises(ConfigError, match="speed"):
            open_source(f"replay:{path}?speed=0")
        with pytest.raises(ConfigError, match="packet_ms"):
            open_source(f"replay:{path}?packet_ms=0")
        with pytest.raises(ConfigError, match="yes or no"):
            open_sink(f"csv:{tmp_path}/o.csv?overwrite=perhaps")
        with pytest.raises(RecordingError):
            open_source("replay:nowhere.h5")

    def test_every_kind_has_its_doors(self):
        assert set(SINKS) <= set(SOURCES)
        assert ReplayConfig().packet_ms == PacketConfig().packet_ms == 50
        assert UNITS == 20
