"""From a source through a live decoder to a sink, until the source ends or Ctrl-C."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass

from possm.streaming.inbox import StreamCounts
from possm.streaming.links.base import Message, Sink, Source
from possm.streaming.live import LiveDecoder
from possm.streaming.watch import Watch


@dataclass(frozen=True, kw_only=True)
class StreamReport:
    """What happened. A step is a push that decoded at least one chunk, from the arrival of its spikes to the
    return of its predictions; waiting for the source and writing to the sink are not in it."""

    chunks: int
    """Chunks decoded."""
    predictions: int
    """Predictions written."""
    counts: StreamCounts
    """What became of the spikes."""
    stretches: int
    """How often the stream began: 1, and 1 more for every cut."""
    steps: int
    step_p50_ms: float
    step_p99_ms: float
    step_p999_ms: float
    step_max_ms: float
    deadline_ms: float
    missed: int
    """Steps that took longer than the deadline."""
    wall_s: float
    """Time from the first message to the last."""
    interrupted: bool
    """Ended by Ctrl-C."""

    def to_json(self) -> dict[str, object]:
        """Plain numbers and dicts."""
        return asdict(self)

    def text(self) -> str:
        """For a person to read."""
        counts, share = self.counts, 100 * self.missed / max(self.steps, 1)
        dropped = counts.late + counts.unknown + counts.invalid + counts.discarded + counts.waiting
        ended = "interrupted after" if self.interrupted else "in"
        lines = [
            f"decoded     {self.chunks} chunks, {self.predictions} predictions, {self.stretches} stretch(es)",
            f"spikes      {counts.received} received, {counts.used} used, {dropped} not: "
            f"{counts.late} late, {counts.unknown} of unknown units, {counts.invalid} invalid, "
            f"{counts.discarded + counts.waiting} in chunks that never ended",
            f"step        p50 {self.step_p50_ms:.3f}  p99 {self.step_p99_ms:.3f}  "
            f"p99.9 {self.step_p999_ms:.3f}  max {self.step_max_ms:.3f} ms",
            f"deadline    {self.missed} of {self.steps} ({share:.3g} %) took over {self.deadline_ms:g} ms",
            f"wall time   {ended} {self.wall_s:.2f} s",
        ]
        return "\n".join(lines)

    __str__ = text


def run_stream(live: LiveDecoder, source: Source, sink: Sink, watch: Watch | None = None) -> StreamReport:
    """Run until the source ends; source and sink are closed in any case.

    A source that knows its units (`Source.unit_ids`) makes them those of the live decoder. Its first message,
    and every one after a cut, says where the stream begins (`Message.start_s`). Ctrl-C ends the run like the
    end of the source, and the report says so.

    Args:
        live: The decoder.
        source: Where spikes come from.
        sink: Where predictions go.
        watch: Counts steps; None makes one with a deadline of 10 ms.

    Raises:
        StreamError: The source delivers what a stream cannot take, or the sink refuses.
    """
    run = _Run(live, sink, watch or Watch())
    began, interrupted = time.perf_counter(), False
    try:
        if source.unit_ids is not None:
            live.use_units(source.unit_ids)
        sink.start(live.behaviors)
        for message in source:
            run.take(message)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        try:
            source.close()
        finally:
            sink.close()
    return run.report(time.perf_counter() - began, interrupted)


class _Run:
    def __init__(self, live: LiveDecoder, sink: Sink, watch: Watch) -> None:
        self.live, self.sink, self.watch = live, sink, watch
        self.predictions, self.stretches = 0, 0
        self.chunks_before = live.counts.chunks

    def take(self, message: Message) -> None:
        if message.start_s is not None:
            self.live.restart(message.start_s)
            self.stretches += 1
        chunk = self.live.chunk
        begin_s = time.perf_counter()
        predictions = self.live.push(
            message.spike_times_s,
            message.units,
            message.until_s,
            message.counts,
            received_s=message.received_s,
        )
        if self.live.chunk != chunk:
            self.watch.step(time.perf_counter() - begin_s)
        for prediction in predictions:
            self.sink.write(prediction)
            self.predictions += 1

    def report(self, wall_s: float, interrupted: bool) -> StreamReport:
        watch, counts = self.watch, self.live.counts
        return StreamReport(
            chunks=counts.chunks - self.chunks_before,
            predictions=self.predictions,
            counts=counts,
            stretches=self.stretches,
            steps=watch.steps,
            step_p50_ms=watch.percentile_ms(50),
            step_p99_ms=watch.percentile_ms(99),
            step_p999_ms=watch.percentile_ms(99.9),
            step_max_ms=watch.max_ms if watch.steps else math.nan,
            deadline_ms=watch.deadline_ms,
            missed=watch.missed,
            wall_s=wall_s,
            interrupted=interrupted,
        )
