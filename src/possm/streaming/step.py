"""One step of a live decoder: the next chunks of a stream -> predictions in physical units, and the state."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from possm.batch import Batch, Prediction, State
from possm.streaming.binding import Binding
from possm.streaming.bursts import note_sizes
from possm.streaming.inbox import Arrivals, StreamCounts
from possm.streaming.outputs import Asked, OutputClock, Stretch, ask_frames
from possm.streaming.values import ValueFeed


class Decoded(NamedTuple):
    """What a step leaves."""

    predictions: list[Prediction]
    state: State
    batch: Batch
    """What the engine was given."""


def decode_stretch(
    bound: Binding,
    stretch: Stretch,
    spikes: Arrivals,
    *,
    outputs: OutputClock,
    state: State,
    counts: StreamCounts,
    feed: ValueFeed | None = None,
    received_s: float = math.nan,
) -> Decoded:
    """Decode consecutive chunks in one call of the engine.

    Args:
        bound: The decoder and the stream's units.
        stretch: Which chunks.
        spikes: Theirs, sorted by time; more before and after does no harm.
        outputs: Says which times they are asked for.
        state: What the chunk before left.
        counts: Of the stream, for the predictions to report; empty chunks and bursts are counted here.
        feed: Makes the values of the chunks, where the decoder reads some.
        received_s: When the input arrived, on the stream's clock, if known.
    """
    begin_s = time.perf_counter()
    asked = {name: _ask(bound, name, stretch, outputs) for name in bound.behaviors}
    queries = {name: queries for name, (times_s, queries) in asked.items() if len(times_s)}
    cuts = spikes.times_s.searchsorted(stretch.edges_s)
    spikes = spikes.pick(slice(cuts[0], cuts[-1]))
    values = None if feed is None else feed.take(spikes, stretch.edges_s, counts)
    batch = bound.batch(spikes, stretch.edges_s, queries, values)
    answers, state = bound.engine.step(batch, state)
    answered = {name: bound.physical(name, answer) for name, answer in answers.items()}
    took_s = time.perf_counter() - begin_s

    dropped = counts.dropped
    sizes = (cuts[1:] - cuts[:-1]).tolist()
    note_sizes(sizes, counts)

    numbers = np.arange(batch.num_chunks + 1)
    begins = {name: asked_of.chunk.searchsorted(numbers).tolist() for name, asked_of in queries.items()}

    def predictions() -> Iterator[Prediction]:
        for chunk in range(batch.num_chunks):
            for name, begin in begins.items():
                rows = slice(begin[chunk], begin[chunk + 1])
                if rows.start == rows.stop:
                    continue
                yield Prediction(
                    behavior=name,
                    times_s=asked[name][0][rows],
                    values=answered[name][rows],
                    chunk=stretch.first + chunk,
                    start_s=float(stretch.edges_s[chunk]),
                    end_s=float(stretch.edges_s[chunk + 1]),
                    spikes=sizes[chunk],
                    late=counts.late,
                    unknown=counts.unknown,
                    compute_s=took_s,
                    input_delay_s=received_s - float(stretch.edges_s[chunk + 1]),
                    decoder_hash=bound.spec.hash,
                    dropped=dropped,
                    jumps=counts.jumps,
                    classes=classes_of(bound, name),
                )

    return Decoded(list(predictions()), state, batch)


def _ask(bound: Binding, behavior: str, stretch: Stretch, outputs: OutputClock) -> Asked:
    """A sequence has a clock of its own, the others that of the stream."""
    if behavior in bound.spec.sequences:
        return ask_frames(stretch, bound.spec.frame_chunks)
    return outputs.ask(behavior, stretch)


def classes_of(bound: Binding, behavior: str) -> tuple[str, ...]:
    """Names of the columns of a category's or sequence's answers; that of the blank is ""."""
    if behavior in bound.spec.sequences:
        return ("", *bound.spec.sequences[behavior])
    return bound.spec.classes.get(behavior, ())
