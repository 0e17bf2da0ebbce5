import csv
import math

import numpy as np
import pytest
from stream_helpers import UNITS, by_behavior, push_all, random_recording, small_decoder

from possm.errors import StreamError
from possm.streaming.links import Message
from possm.streaming.links.callback import CallbackSink
from possm.streaming.links.csv import CsvSink
from possm.streaming.links.replay import ReplayConfig, ReplaySource
from possm.streaming.live import LiveDecoder
from possm.streaming.run import run_stream
from possm.streaming.torch_engine import TorchEngine
from possm.streaming.watch import Watch

ENGINE = TorchEngine(small_decoder())


class Recorder:
    """A sink that remembers what happened to it."""

    def __init__(self, fail_after=math.inf):
        self.predictions, self.behaviors, self.closed, self.fail_after = [], None, 0, fail_after

    def start(self, behaviors):
        self.behaviors = dict(behaviors)

    def write(self, prediction):
        if len(self.predictions) >= self.fail_after:
            raise StreamError("the sink refuses")
        self.predictions.append(prediction)

    def close(self):
        self.closed += 1


class Scripted:
    """A source of given messages; an exception among them is raised."""

    def __init__(self, *messages, unit_ids=None):
        self.messages, self.unit_ids, self.session_id, self.closed = messages, unit_ids, None, 0

    def __iter__(self):
        for message in self.messages:
            if isinstance(message, BaseException):
                raise message
            yield message

    def close(self):
        self.closed += 1


def packet(until_s, times_s=(), units=(), start_s=None):
    return Message(np.array(times_s, float), np.array(units, int), until_s, None, start_s)


def test_a_replayed_recording_gives_what_pushing_it_gives():
    recording, sink = random_recording(), Recorder()
    report = run_stream(LiveDecoder(ENGINE), ReplaySource(recording), sink)
    wanted = by_behavior(push_all(LiveDecoder(ENGINE), recording, until_s=4.0))
    for name, (times_s, values) in by_behavior(sink.predictions).items():
        np.testing.assert_array_equal(times_s, wanted[name][0])
        np.testing.assert_array_equal(values, wanted[name][1])
    assert sink.behaviors == {"cursor.pos": 2, "hand.vel": 3} and sink.closed == 1
    assert (report.chunks, report.steps, report.predictions, report.stretches) == (80, 80, 160, 1)
    assert report.counts.used == report.counts.received == len(recording.spikes)
    assert 0 < report.step_p50_ms <= report.step_p99_ms <= report.step_p999_ms <= report.step_max_ms
    assert report.wall_s > 0 and not report.interrupted
    for part in ("80 chunks", f"{len(recording.spikes)} received", "p50", "0 late"):
        assert part in report.text()


def test_a_cut_begins_anew_and_its_unfinished_chunk_is_counted():
    recording = random_recording(rate_hz=50, domain=[(0.0, 1.02), (1.02, 2.0)])
    live, sink = LiveDecoder(ENGINE), Recorder()
    report = run_stream(live, ReplaySource(recording, ReplayConfig(packet_ms=10)), sink)
    alone = LiveDecoder(ENGINE, origin_s=1.02)
    times_s, unit, _ = recording.tokens(1.02, 2.0)
    wanted = by_behavior(alone.push(times_s, unit, 2.0))["cursor.pos"]
    second = [p for p in sink.predictions if p.start_s >= 1.02 and p.behavior == "cursor.pos"]
    np.testing.assert_array_equal(np.concatenate([p.values for p in second]), wanted[1])
    assert [p.chunk for p in second] == list(range(19))
    counts = report.counts
    assert report.stretches == 2 and report.chunks == 20 + 19
    assert counts.discarded > 0 and counts.received == counts.used + counts.discarded + counts.waiting


def test_units_are_those_of_the_source():
    units = tuple(str(row) for row in reversed(range(UNITS)))
    sink, plain = Recorder(), LiveDecoder(ENGINE)
    source = Scripted(packet(0.05, [0.01, 0.02], [0, 3], start_s=0.0), unit_ids=units)
    run_stream(LiveDecoder(ENGINE), source, sink)
    (wanted, _) = plain.push([0.01, 0.02], [UNITS - 1, UNITS - 4], 0.05)
    np.testing.assert_array_equal(sink.predictions[0].values, wanted.values)


def test_ctrl_c_ends_the_run_like_the_end_of_the_source():
    sink, source = Recorder(), Scripted(packet(0.1, start_s=0.0), KeyboardInterrupt(), packet(0.2))
    report = run_stream(LiveDecoder(ENGINE), source, sink)
    assert report.interrupted and report.chunks == 2 and "interrupted" in report.text()
    assert sink.closed == 1 and source.closed == 1


@pytest.mark.parametrize("failing", ["source", "push", "sink"])
def test_source_and_sink_are_closed_whatever_happens(failing):
    bad = {"source": StreamError("the source died"), "push": packet(-1.0), "sink": packet(0.2)}[failing]
    sink = Recorder(fail_after=3 if failing == "sink" else math.inf)
    source = Scripted(packet(0.05, start_s=0.0), bad)
    with pytest.raises(StreamError):
        run_stream(LiveDecoder(ENGINE), source, sink)
    assert sink.closed == 1 and source.closed == 1 and len(sink.predictions) >= 2


def test_deadlines_are_counted():
    watch = Watch(deadline_ms=1e-4)
    report = run_stream(LiveDecoder(ENGINE), ReplaySource(random_recording()), Recorder(), watch)
    assert report.missed == report.steps == watch.steps == 80
    assert "80 of 80 (100 %) took over 0.0001 ms" in report.text()


def test_an_empty_source():
    report = run_stream(LiveDecoder(ENGINE), Scripted(), Recorder())
    assert report.steps == 0 and math.isnan(report.step_p50_ms)
    assert "0 chunks" in report.text()


def test_a_whole_run_into_a_csv(tmp_path):
    live, path = LiveDecoder(ENGINE, output_rate_hz=50.0), tmp_path / "out.csv"
    run_stream(live, ReplaySource(random_recording()), CsvSink(path))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    times_s = np.array([float(row["time_s"]) for row in rows])
    wanted = by_behavior(push_all(LiveDecoder(ENGINE, output_rate_hz=50.0), random_recording(), until_s=4.0))
    np.testing.assert_array_equal(times_s, wanted["hand.vel"][0])
    got = np.array([[row[f"hand.vel.{i}"] for i in range(3)] for row in rows], np.float32)
    np.testing.assert_array_equal(got, wanted["hand.vel"][1])


def test_what_a_callback_raises_reaches_the_caller():
    def refuse(prediction):
        raise RuntimeError("from the user")

    with pytest.raises(RuntimeError, match="from the user"):
        run_stream(LiveDecoder(ENGINE), ReplaySource(random_recording()), CallbackSink(refuse))
