"""A decoder in real time: push spikes as they come, get predictions as soon as their chunk is over.

OPEN THIS FIRST. One push goes: spikes -> inbox (checked, counted, held) -> the same chunks, collate and step
as in batch decoding -> physical units. Everything a live decoder remembers can be saved and resumed.
Numpy only; the engine brings whatever it needs itself.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from possm.batch import Batch, Prediction, State
from possm.config import from_json, require, to_json
from possm.data.series import Binned
from possm.errors import StreamError
from possm.streaming.binding import Binding, bind
from possm.streaming.bursts import cap_bursts
from possm.streaming.clock import StreamClock
from possm.streaming.engines import open_engine
from possm.streaming.inbox import Arrivals, Inbox, StreamCounts
from possm.streaming.jumps import ON_JUMP, OnJump, settle
from possm.streaming.outputs import OutputClock, Stretch, output_clock
from possm.streaming.saved import Saved, read_saved, write_saved
from possm.streaming.step import decode_stretch
from possm.streaming.values import ValueFeed


@dataclass(frozen=True, kw_only=True)
class LiveConfig:
    """How a live decoder treats its input; the defaults suit a rig."""

    max_chunks: int = 1
    """Most chunks decoded in one step when several are due at once. 1 makes the answers bitwise independent
    of how the input is cut into pushes; more catches up faster, and answers differ by rounding only."""
    wait_ms: float = 0.0
    """How long to wait for late spikes, on the clock of the input: a chunk is decoded once a push has ended
    this much after it."""
    max_gap_s: float = 3600.0
    """A push that ends later than this after the end of the one before comes from a clock that has jumped; a
    spike later than this after the end of its push is dropped."""
    on_jump: OnJump = "refuse"
    """When the clock jumps, or goes back: "refuse" raises an error; "hold" drops what comes until the clock
    is back; "follow" moves on to the new time with hidden state and waiting spikes; "restart" begins anew
    there, its hidden state forgotten. All but the first count the jump."""
    max_back_s: float = 1.0
    """Unless jumps are refused, a push that ends at most this much before an earlier one was overtaken on its
    way: its spikes are taken as far as their chunks are not decoded. One that ends before that is a jump."""
    duplicate_tick_us: float = 1.0
    """A spike is dropped as delivered twice when one of the same unit at the same time, to this tick, already
    waits from an earlier push; 0 keeps them."""
    max_count: int | None = None
    """Most spikes a unit may have in one chunk; the rest are dropped and counted. None leaves it to the caps
    that the decoder was trained with, if any; with a number, the lower of the two holds."""

    def __post_init__(self) -> None:
        require(self.max_chunks >= 1, "max_chunks", self.max_chunks, "1 or more")
        require(0 <= self.wait_ms < math.inf, "wait_ms", self.wait_ms, "0 or more")
        require(self.max_gap_s > 0, "max_gap_s", self.max_gap_s, "above 0")
        require(self.on_jump in ON_JUMP, "on_jump", self.on_jump, f"one of {', '.join(ON_JUMP)}")
        require(self.max_back_s >= 0, "max_back_s", self.max_back_s, "0 or more")
        require(0 <= self.duplicate_tick_us < 1e6, "duplicate_tick_us", self.duplicate_tick_us, "0 or more")
        require(self.max_count is None or self.max_count >= 1, "max_count", self.max_count, "1 or more")


class LiveDecoder:
    """Decodes one stream. Not for several threads at once.

    The clock of a stream begins at `origin_s`: chunk i covers [origin + i * chunk, origin + (i + 1) * chunk),
    the same edges as a batch that begins there. A chunk is decoded as soon as a push says that everything
    up to its end has been delivered.

    Args:
        decoder: A `possm.checkpoint.Decoder`, the path of its file, or an engine.
        session: Session the units are of; None is the decoder's only one.
        behaviors: What to decode; none named is all.
        unit_ids: Names of the stream's units, whose rows pushed whole numbers mean; None is the units the
            decoder knows of this session, in its order.
        origin_s: Start of chunk 0 on the clock of the spike times.
        output_rate_hz: Answer on a regular clock that begins at the origin; None answers once a chunk, at
            the first time the chunk answers for (its end, when lead and chunk are equal).
        output_times_s: Behavior -> ascending times to answer at, instead of a clock.
        config: How to treat the input.

    Raises:
        StreamError: The session is not clear, a behavior is not decoded, or no unit is known.
        CheckpointError: The decoder has never seen the session, or its file cannot be used.
    """

    def __init__(
        self,
        decoder: Any,
        *,
        session: str | None = None,
        behaviors: Sequence[str] = (),
        unit_ids: Sequence[str] | None = None,
        origin_s: float = 0.0,
        output_rate_hz: float | None = None,
        output_times_s: Mapping[str, np.ndarray] | None = None,
        config: LiveConfig | None = None,
    ) -> None:
        self.config = config or LiveConfig()
        self.bound: Binding = bind(decoder, session=session, behaviors=behaviors, unit_ids=unit_ids)
        """The decoder, session, behaviors and units of this stream."""
        self.outputs: OutputClock = output_clock(output_rate_hz, output_times_s)
        """When it answers."""
        self._inbox = self._new_inbox()
        self._feed = self._new_feed()
        self._last: Batch | None = None
        self.restart(origin_s)

    @property
    def counts(self) -> StreamCounts:
        """What became of everything pushed so far (a copy)."""
        return replace(self._inbox.counts)

    @property
    def origin_s(self) -> float:
        """Start of chunk 0."""
        return self._clock.origin_s

    @property
    def behaviors(self) -> dict[str, int]:
        """What it decodes: behavior -> dimensions."""
        return {name: self.bound.spec.behaviors[name] for name in self.bound.behaviors}

    @property
    def chunk(self) -> int:
        """Number of the next chunk, counted from the origin."""
        return self._clock.next

    @property
    def decoded_s(self) -> float:
        """Start of the next chunk: everything before it has been decoded."""
        return self._clock.decoded_s

    @property
    def heard_s(self) -> float | None:
        """Everything before this has been delivered; None before the first push."""
        return self._clock.until_s

    def restart(self, origin_s: float) -> None:
        """Begin anew at another time, as after a cut in a recording: forget the hidden state and the spikes
        that wait (counted as discarded), number chunks from 0. The counters go on, and so does what is known
        of the usual level of each channel.

        Raises:
            StreamError: The time is not finite.
        """
        self._clock = StreamClock(float(origin_s), self.bound.spec.chunk_ms)
        self._inbox.discard()
        if self._feed is not None:
            self._feed.discard()
        self._state: State = self.bound.engine.initial_state()

    def push(
        self,
        spike_times_s: Any,
        unit_ids: Any,
        until_s: float,
        counts: Any = None,
        *,
        features: Mapping[str, Binned] | None = None,
        received_s: float = math.nan,
    ) -> list[Prediction]:
        """Deliver spikes, and decode every chunk that has ended by `until_s`.

        Spikes may be in any order, may be later than `until_s` (they are kept), and may be older than the
        push before as long as their chunk is not decoded. What cannot be used is counted, see `counts`.

        Args:
            spike_times_s: (n,) seconds on the stream's clock.
            unit_ids: (n,) names, or whole numbers that count the stream's units from 0; the latter is faster.
            until_s: Everything before this time has now been delivered.
            counts: (n,) multiplicities, for binned input: a bin at its centre with the spikes in it.
            features: Name -> bins that have ended since the push before, one column per unit of the stream;
                what a decoder of spike-band power reads.
            received_s: When this arrived, on the stream's clock; predictions then report the input's delay.

        Returns:
            A prediction for each behavior and decoded chunk that answers for at least one output time, in
            time order. Values have the dtype of the decoder's weights.

        Raises:
            StreamError: The arrays do not fit each other, or a feature the decoder reads is missing; or
                `until_s` is not a time, goes back, or is too far ahead, and `on_jump` is "refuse". No spike
                has been taken then.
        """
        config = self.config
        if config.on_jump == "refuse":
            self._clock.check(until_s, max_gap_s=config.max_gap_s)
        elif not self._settle(float(until_s)):
            self._inbox.refuse(spike_times_s)
            return []
        until_s = float(until_s) if self._clock.until_s is None else max(float(until_s), self._clock.until_s)
        if self._feed is not None:
            self._feed.put(features)
        limit_s = until_s + config.max_gap_s
        self._inbox.put(spike_times_s, unit_ids, counts, open_s=self.decoded_s, limit_s=limit_s)
        self._clock.advance(until_s)
        return self._decode(self._clock.due_edges_s(config.wait_ms / 1000), received_s)

    def finish(self) -> list[Prediction]:
        """Decode the chunks that have ended and only wait for late spikes, as at the end of a stream."""
        return self._decode(self._clock.due_edges_s(), math.nan)

    def rehearse(self) -> None:
        """Run the step of the last chunk once more and forget what it gives.

        Between two chunks other programs take the caches of the core; the next step would be slower, up to
        several times.
        """
        if self._last is not None:
            self.bound.engine.step(self._last, self._state)

    def use_units(self, unit_ids: Sequence[str]) -> None:
        """Name the units that pushed whole numbers mean from now on.

        Raises:
            StreamError: The decoder knows none of them, or spikes are waiting under the old ones.
        """
        if tuple(unit_ids) == self.bound.unit_ids:
            return
        if self._inbox.counts.waiting:
            raise StreamError("units cannot change while spikes wait", got=f"{self.counts.waiting} spike(s)")
        session, behaviors = self.bound.session_id, self.bound.behaviors
        self.bound = bind(self.bound.engine, session=session, behaviors=behaviors, unit_ids=unit_ids)
        self._inbox, self._feed = self._new_inbox(self._inbox.counts), self._new_feed()

    def swap(self, decoder: Any, *, session: str | None = None) -> None:
        """Go on with another decoder from the next chunk on; hidden state, clock and waiting spikes stay.

        Args:
            decoder: As at the start; it must have the same backbone, chunk and lead.
            session: Its session of these units; None is the present one if it knows that, else its only one.

        Raises:
            StreamError: It cannot take over. The present decoder then stays.
            CheckpointError: It has never seen the session.
        """
        engine = open_engine(decoder)
        if session is None and self.bound.session_id in engine.spec.vocabulary.sessions:
            session = self.bound.session_id
        behaviors, unit_ids = self.bound.behaviors, self.bound.unit_ids
        bound = bind(engine, session=session, behaviors=behaviors, unit_ids=unit_ids)
        if bound.footprint != self.bound.footprint:
            raise StreamError(
                "this decoder cannot take over the stream",
                about=bound.session_id,
                got=bound.footprint,
                wanted=self.bound.footprint,
            )
        self.bound, self._last = bound, None
        self._inbox.change_known(bound.known)
        if self._feed is not None:
            self._feed.rebind(bound)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all that this stream remembers to a .safetensors file, for `resume`.

        Raises:
            StreamError: The disk refuses.
        """
        rate_hz, times_s = self.outputs.settings
        saved = Saved(
            decoder_hash=self.bound.spec.hash,
            config=to_json(self.config),
            session=self.bound.session_id,
            behaviors=self.bound.behaviors,
            unit_ids=self.bound.unit_ids,
            output_rate_hz=rate_hz,
            output_times_s=times_s,
            clock=replace(self._clock),
            counts=self.counts,
            state=self._state,
            waiting=self._inbox.waiting(),
            values={} if self._feed is None else self._feed.arrays(),
        )
        return write_saved(saved, path)

    @classmethod
    def resume(cls, path: str | os.PathLike[str], decoder: Any) -> LiveDecoder:
        """Go on where a saved stream stopped, to the bit.

        Args:
            path: What `save` wrote.
            decoder: The decoder that ran then, or an engine of it.

        Raises:
            StreamError: The file cannot be used, or is of another decoder.
        """
        saved, engine = read_saved(path), open_engine(decoder)
        if engine.spec.hash != saved.decoder_hash:
            raise StreamError(
                "the saved stream is of another decoder",
                about=path,
                got=engine.spec.hash[:12],
                wanted=saved.decoder_hash[:12],
                fix="resume it with the decoder that ran, or start anew",
            )
        live = cls(
            engine,
            session=saved.session,
            behaviors=saved.behaviors,
            unit_ids=saved.unit_ids,
            output_rate_hz=saved.output_rate_hz,
            output_times_s=saved.output_times_s,
            config=from_json(LiveConfig, saved.config),
        )
        live._clock, live._state = saved.clock, saved.state
        live._inbox.hold(saved.waiting)
        live._inbox.counts = saved.counts
        if live._feed is not None:
            live._feed.restore(saved.values)
        return live

    def _new_inbox(self, counts: StreamCounts | None = None) -> Inbox:
        tick_s = self.config.duplicate_tick_us / 1e6
        return Inbox(self.bound.unit_ids, self.bound.known, counts=counts, tick_s=tick_s)

    def _new_feed(self) -> ValueFeed | None:
        return ValueFeed(self.bound) if self.bound.spec.inputs.values else None

    def _settle(self, until_s: float) -> bool:
        """Go along with a clock that has jumped, as configured; False if a push is not to be taken."""
        config = self.config
        return settle(
            self._clock,
            self._inbox,
            until_s,
            on_jump=config.on_jump,
            max_gap_s=config.max_gap_s,
            max_back_s=config.max_back_s,
            restart=self.restart,
        )

    def _decode(self, edges_s: np.ndarray, received_s: float) -> list[Prediction]:
        """Decode all chunks between these edges, which are the next ones."""
        if len(edges_s) < 2:
            return []
        spikes = self._inbox.take(edges_s[-1])
        most = self.bound.caps(self.config.max_count)
        if most is not None:
            spikes = cap_bursts(spikes, edges_s, most, self._inbox.counts)
        predictions: list[Prediction] = []
        for first in range(0, len(edges_s) - 1, self.config.max_chunks):
            edges = edges_s[first : first + self.config.max_chunks + 1]
            predictions += self._step(spikes, edges, received_s)
        return predictions

    def _step(self, spikes: Arrivals, edges_s: np.ndarray, received_s: float) -> list[Prediction]:
        """Decode the chunks between these edges, which are the next ones."""
        spec, counts = self.bound.spec, self._inbox.counts
        clock = self._clock
        stretch = Stretch(clock.origin_s, clock.next, edges_s, spec.chunk_ms, spec.lead_ms)
        decoded = decode_stretch(
            self.bound,
            stretch,
            spikes,
            outputs=self.outputs,
            state=self._state,
            counts=counts,
            feed=self._feed,
            received_s=received_s,
        )
        self._state = decoded.state
        if len(edges_s) == 2:
            self._last = decoded.batch
        clock.next += len(edges_s) - 1
        counts.chunks += len(edges_s) - 1
        return decoded.predictions
