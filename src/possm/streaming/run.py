"""From a source through a live decoder to a sink, until the source ends or Ctrl-C."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace

from possm.batch import Prediction
from possm.streaming.host import Collector, HostConfig, KeepWarm, steady_host
from possm.streaming.inbox import StreamCounts
from possm.streaming.links.base import Message, Sink, Source
from possm.streaming.links.horizon import LinkCounts
from possm.streaming.live import LiveDecoder
from possm.streaming.stale import StaleConfig, Ticker, Watchdog
from possm.streaming.successor import Successor
from possm.streaming.watch import Watch


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How a stream is run; what is done about its input is in `LiveConfig`."""

    stale: StaleConfig | None = None
    """What to do when input is missing; None waits for it, and writes nothing meanwhile."""
    host: HostConfig = HostConfig()
    """How to use the machine."""


@dataclass(frozen=True, kw_only=True)
class StreamReport:
    """What happened. A step is a push that decoded at least one chunk, from the moment its spikes are taken
    to the return of its predictions; waiting for the source, and what waits while the sink writes or a step
    is rehearsed, are not in it."""

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
    stalls: int = 0
    """How often input became stale."""
    stood_in: int = 0
    """Predictions written in place of answers while it was; they are among `predictions`."""
    sink_dropped: int = 0
    """Predictions that a sink with a queue dropped because it was too slow."""
    swaps: int = 0
    """How often another decoder took over."""
    link: str = ""
    """What the link of the source has counted, if it counts (`LinkCounts`)."""
    refused: tuple[str, ...] = ()
    """What the operating system refused."""

    def to_json(self) -> dict[str, object]:
        """Plain numbers and dicts."""
        return asdict(self)

    def text(self) -> str:
        """For a person to read."""
        counts, share = self.counts, 100 * self.missed / max(self.steps, 1)
        ended = "interrupted after" if self.interrupted else "in"
        lines = [
            f"decoded     {self.chunks} chunks, {self.predictions} predictions, {self.stretches} stretch(es)",
            f"spikes      {counts.received} received, {counts.used} used, "
            f"{counts.dropped + counts.waiting} not: "
            f"{counts.late} late, {counts.unknown} of unknown units, {counts.invalid} invalid, "
            f"{counts.discarded + counts.waiting} in chunks that never ended",
            *([f"link        {self.link}"] if self.link else []),
            *self._trouble(),
            *([f"decoder     swapped {self.swaps} time(s)"] if self.swaps else []),
            f"step        p50 {self.step_p50_ms:.3f}  p99 {self.step_p99_ms:.3f}  "
            f"p99.9 {self.step_p999_ms:.3f}  max {self.step_max_ms:.3f} ms",
            f"deadline    {self.missed} of {self.steps} ({share:.3g} %) took over {self.deadline_ms:g} ms",
            f"wall time   {ended} {self.wall_s:.2f} s",
            *(f"warning     {refused}" for refused in self.refused),
        ]
        return "\n".join(lines)

    def _trouble(self) -> list[str]:
        """What an undisturbed stream has none of."""
        counts = self.counts
        seen = {
            "duplicate spike(s)": counts.duplicate,
            "spike(s) over the cap": counts.capped,
            "bin(s) cut down to it": counts.cut,
            "clock jump(s)": counts.jumps,
            "spike(s) dropped while the clock was away": counts.held,
            "push(es) overtaken": counts.behind,
            "time(s) without input": self.stalls,
            "prediction(s) stood in meanwhile": self.stood_in,
            "prediction(s) dropped by a slow sink": self.sink_dropped,
        }
        text = ", ".join(f"{number} {what}" for what, number in seen.items() if number)
        return [f"trouble     {text}"] if text else []

    __str__ = text


def run_stream(
    live: LiveDecoder,
    source: Source,
    sink: Sink,
    watch: Watch | None = None,
    *,
    config: RunConfig | None = None,
    now: Callable[[], float] | None = None,
    successor: Successor | None = None,
) -> StreamReport:
    """Run until the source ends; source and sink are closed in any case.

    A source that knows its units (`Source.unit_ids`) makes them those of the live decoder. Its first message,
    and every one after a cut, says where the stream begins (`Message.start_s`). Ctrl-C ends the run like the
    end of the source, and the report says so.

    Garbage is collected between two messages only, about once a second.

    Args:
        live: The decoder.
        source: Where spikes come from.
        sink: Where predictions go.
        watch: Counts steps; None makes one with a deadline of 10 ms.
        config: What to do about missing input, and about the machine.
        now: The clock on the wall by which input is stale, for simulations: it is looked at when a message
            comes, be it empty. None is the real one, which is looked at whatever the source does.
        successor: Where a decoder may come from that goes on with the stream; closed in any case.

    Raises:
        StreamError: The source delivers what a stream cannot take, or the sink refuses.
    """
    config = config or RunConfig()
    began, interrupted = time.perf_counter(), False
    dog = None if config.stale is None else Watchdog(config.stale, now=now or time.monotonic)
    with ExitStack() as closing:
        closing.callback(sink.close)
        closing.callback(source.close)
        if successor is not None:
            closing.callback(successor.close)
        refused = closing.enter_context(steady_host(config.host))
        run = _Run(live, sink, watch or Watch(), dog, closing.enter_context(Collector()))
        run.warm = KeepWarm(live.rehearse) if config.host.keep_warm else None
        try:
            if source.unit_ids is not None:
                live.use_units(source.unit_ids)
            sink.start(live.behaviors)
            if config.stale is not None and now is None:
                run.ticker = Ticker(run.stand_in, every_s=config.stale.every_ms / 2000)
                closing.callback(run.ticker.stop)
            for message in source:
                run.take(message)
                if successor is not None:
                    run.swaps += successor.take(live)
        except KeyboardInterrupt:
            interrupted = True
        run.finish()
        run.check()
    report = run.report(time.perf_counter() - began, interrupted, refused)
    counts = getattr(source, "counts", None)
    return replace(report, link=counts.text()) if isinstance(counts, LinkCounts) else report


class _Run:
    def __init__(
        self, live: LiveDecoder, sink: Sink, watch: Watch, dog: Watchdog | None, collector: Collector
    ) -> None:
        self.live, self.sink, self.watch, self.dog, self.collector = live, sink, watch, dog, collector
        self.predictions, self.stretches, self.swaps = 0, 0, 0
        self.chunks_before = live.counts.chunks
        self.ticker: Ticker | None = None
        self.warm: KeepWarm | None = None
        self._lock = threading.Lock()  # the watchdog writes from a thread of its own

    def take(self, message: Message) -> None:
        """Decode what has come, write the answers, and then do what can wait."""
        self.check()
        if message.start_s is not None:
            self.finish()
            self.live.restart(message.start_s)
            self.stretches += 1
        chunk, heard_s = self.live.chunk, self.live.heard_s
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
        if predictions or self.live.heard_s != heard_s:
            self._write(predictions)
        else:
            self.stand_in()
        self.collector.idle()
        if self.warm is not None and self.live.chunk == chunk:
            self.warm.idle()

    def finish(self) -> None:
        """Nothing more belongs to this stretch: decode what waits for late spikes only."""
        self._write(self.live.finish())

    def check(self) -> None:
        """Raise what went wrong in the thread of the watchdog."""
        if self.ticker is not None:
            self.ticker.check()

    def stand_in(self) -> None:
        """Write what stands in for answers, if input is stale."""
        if self.dog is not None:
            with self._lock:
                self._hand_over(self.dog.tick())

    def _write(self, predictions: Sequence[Prediction]) -> None:
        with self._lock:
            if self.dog is not None:
                self.dog.heard(predictions)
            self._hand_over(predictions)

    def _hand_over(self, predictions: Sequence[Prediction]) -> None:
        for prediction in predictions:
            self.sink.write(prediction)
            self.predictions += 1

    def report(self, wall_s: float, interrupted: bool, refused: tuple[str, ...]) -> StreamReport:
        watch, counts, dog = self.watch, self.live.counts, self.dog
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
            stalls=0 if dog is None else dog.stalls,
            stood_in=0 if dog is None else dog.stood_in,
            sink_dropped=getattr(self.sink, "dropped", 0),
            swaps=self.swaps,
            refused=refused,
        )
