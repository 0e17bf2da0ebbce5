"""Slice + augment + chunk + collate: windows of recordings -> batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from possm.batch import Queries, Targets, Tokens, Values
from possm.data.augment import AugmentConfig, augment_tokens, augment_values
from possm.data.caps import capped
from possm.data.chunks import (
    EDGE_TOLERANCE_S,
    Sample,
    chunk_edges_s,
    chunk_tokens,
    class_times,
    no_tokens,
    query_chunks,
)
from possm.data.features import InputConfig, ValueLayout, normalized
from possm.data.labels import TrialClasses, as_labels, class_numbers, has_behavior
from possm.data.recording import Recording
from possm.data.scaling import Scaling, ScalingTable, scaling_of
from possm.data.series import Binned
from possm.data.vocabulary import Vocabulary
from possm.data.windows import Window


@dataclass(frozen=True, kw_only=True)
class SampleMaker:
    """Cuts windows out of recordings the way a decoder wants them."""

    recordings: Sequence[Recording]
    vocabulary: Vocabulary
    scaling: Mapping[str, Scaling]
    """By behavior: what is asked, and how it is scaled in sessions without a scaling of their own."""
    chunk_ms: int
    lead_ms: int
    session_scaling: ScalingTable = field(default_factory=dict)
    """Session -> behavior -> scaling, where a session has its own."""
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By category behavior: what is asked, and the order of its classes."""
    interval_weights: Mapping[str, float] = field(default_factory=dict)
    """Loss weight of samples inside a named interval; overlapping ones multiply, elsewhere it is 1."""
    dataset_weights: Mapping[str, float] = field(default_factory=dict)
    """Loss weight of samples of a dataset, by `Recording.dataset_id`; 1 unless given."""
    allow_missing: bool = False
    """Whether a recording without one of the behaviors is asked for the others, or is an error."""
    augment: AugmentConfig = AugmentConfig()
    inputs: InputConfig = InputConfig()
    """What the decoder reads."""

    def scaling_of(self, session_id: str) -> dict[str, Scaling]:
        """By behavior, for one session."""
        return scaling_of(session_id, self.scaling, self.session_scaling)

    @cached_property
    def rows(self) -> tuple[np.ndarray, ...]:
        """Vocabulary rows of every recording's units, -1 where the vocabulary does not know one."""
        return tuple(self.vocabulary.unit_rows(recording) for recording in self.recordings)

    @cached_property
    def caps(self) -> tuple[np.ndarray | None, ...]:
        """(units,) the cap of every recording's units; None where the vocabulary has none."""
        return tuple(self.vocabulary.caps_of(rows) for rows in self.rows)

    def edges_s(self, window: Window, num_chunks: int) -> np.ndarray:
        """(C + 1,) float64: where the chunks of a window begin and end."""
        first = window.first_chunk
        return chunk_edges_s(window.start_s, first=first, count=num_chunks, chunk_ms=self.chunk_ms)

    def sample(self, window: Window, *, num_chunks: int, rng: np.random.Generator | None = None) -> Sample:
        """Tokens and targets of one window; with `rng`, augmented. Every behavior sample that a chunk of the
        window answers for is asked; those with NaN are not."""
        recording = self.recordings[window.recording]
        edges_s = self.edges_s(window, num_chunks)
        asked = {name: self._ask(recording, window, name, edges_s) for name in self.scaling}
        asked |= {name: self._ask_class(window, name, edges_s) for name in self.classes}
        return Sample(
            self.tokens(window, edges_s, rng=rng),
            self.vocabulary.session_row(recording.session_id),
            {name: queries for name, (queries, _) in asked.items()},
            {name: targets for name, (_, targets) in asked.items()},
            self.values(window, edges_s, rng=rng),
        )

    def sample_at(self, window: Window, *, num_chunks: int, times_s: Mapping[str, np.ndarray]) -> Sample:
        """Tokens of one window and the queries of given output times, all of which its chunks must answer."""
        edges_s = self.edges_s(window, num_chunks)
        lead_s = self.lead_ms / 1000
        queries = {name: Queries(*query_chunks(t, edges_s, lead_s=lead_s)) for name, t in times_s.items()}
        session = self.recordings[window.recording].session_id
        row, values = self.vocabulary.session_row(session), self.values(window, edges_s)
        return Sample(self.tokens(window, edges_s), row, queries, values=values)

    def tokens(
        self, window: Window, edges_s: np.ndarray, *, rng: np.random.Generator | None = None
    ) -> Tokens:
        """The tokens of a window; units that the vocabulary does not know are left out."""
        if not self.inputs.spikes:
            return no_tokens(len(edges_s) - 1)
        recording, rows = self.recordings[window.recording], self.rows[window.recording]
        times_s, unit, count = recording.tokens(edges_s[0], min(edges_s[-1], window.limit_s))
        keep = rows[unit] >= 0
        if rng is not None:
            kept, count = augment_tokens(
                unit, count, num_units=recording.num_units, config=self.augment, rng=rng
            )
            keep &= kept
        caps = self.caps[window.recording]
        if caps is not None:
            count = _cap(edges_s, times_s, unit, count, caps)
            keep &= count > 0
        return chunk_tokens(times_s[keep], rows[unit[keep]], count[keep], edges_s)

    def values(
        self, window: Window, edges_s: np.ndarray, *, rng: np.random.Generator | None = None
    ) -> Values | None:
        """The values of a window; None where the decoder reads none."""
        if not self.inputs.values:
            return None
        layout, table = self._values(window.recording)
        part = table.slice(edges_s[0], min(edges_s[-1], window.limit_s))
        first = round((part.span_s[0] - edges_s[0]) * part.rate_hz)
        values = layout.values(part.values, first=first, num_chunks=len(edges_s) - 1)
        if rng is None:
            return values
        kinds, chunk_s = len(self.inputs.values), self.chunk_ms / 1000
        return augment_values(values, kinds=kinds, chunk_s=chunk_s, config=self.augment, rng=rng)

    def _values(self, recording: int) -> tuple[ValueLayout, Binned]:
        """Those of a whole recording, normalized from its first bin on."""
        if recording not in self._tables:
            layout = ValueLayout(self.inputs, self.rows[recording], self.chunk_ms)
            self._tables[recording] = layout, normalized(self.recordings[recording], self.inputs)
        return self._tables[recording]

    @cached_property
    def _tables(self) -> dict[int, tuple[ValueLayout, Binned]]:
        return {}

    def _ask(
        self, recording: Recording, window: Window, behavior: str, edges_s: np.ndarray
    ) -> tuple[Queries, Targets]:
        scaling = self.scaling_of(recording.session_id)[behavior]
        if self.allow_missing and behavior not in recording.signals:
            return nothing_asked(np.zeros((0, len(scaling.mean)), np.float32))
        lead_s = self.lead_ms / 1000
        until_s = min(edges_s[-1] + lead_s, window.limit_s)
        signal = recording.behavior(behavior).slice(edges_s[0] - EDGE_TOLERANCE_S, until_s)
        times_s, values = signal.times_s, np.asarray(signal.values)
        chunk, relative_s = query_chunks(times_s, edges_s, lead_s=lead_s)
        good = (chunk >= 0) & (chunk < len(edges_s) - 1) & np.isfinite(values).all(axis=1)
        scaled = scaling.apply(values[good])
        weights = self._weights(recording, times_s[good])
        return Queries(chunk[good], relative_s[good]), Targets(scaled, weights)

    def _ask_class(self, window: Window, behavior: str, edges_s: np.ndarray) -> tuple[Queries, Targets]:
        """A signal of classes is asked at its samples; trials once per chunk, and a chunk is of the trial
        that holds its start."""
        recording, lead_s = self.recordings[window.recording], self.lead_ms / 1000
        if self.allow_missing and not has_behavior(recording, behavior):
            return nothing_asked(np.zeros(0, np.int64))
        if behavior in recording.signals:
            until_s = min(edges_s[-1] + lead_s, window.limit_s)
            signal = recording.signals[behavior].slice(edges_s[0] - EDGE_TOLERANCE_S, until_s)
            asked_s = inside_s = signal.times_s
            about = f"{recording.name}, '{behavior}'"
            number = class_numbers(as_labels(signal.values), self.classes[behavior], about=about)
        else:
            asked_s = class_times(edges_s, (edges_s[0], window.limit_s), lead_s=lead_s)
            inside_s = asked_s - lead_s + EDGE_TOLERANCE_S
            number = self.trials(window.recording, behavior).at(inside_s)
        chunk, relative_s = query_chunks(asked_s, edges_s, lead_s=lead_s)
        good = (chunk >= 0) & (chunk < len(edges_s) - 1) & (number >= 0)
        weights = self._weights(recording, inside_s[good])
        return Queries(chunk[good], relative_s[good]), Targets(number[good], weights)

    def trials(self, recording: int, behavior: str) -> TrialClasses:
        """The trials of a recording and their classes."""
        if (recording, behavior) not in self._trials:
            made = TrialClasses.of(self.recordings[recording], behavior, self.classes[behavior])
            self._trials[recording, behavior] = made
        return self._trials[recording, behavior]

    @cached_property
    def _trials(self) -> dict[tuple[int, str], TrialClasses]:
        return {}

    def _weights(self, recording: Recording, times_s: np.ndarray) -> np.ndarray:
        dataset = self.dataset_weights.get(recording.dataset_id, 1.0)
        weights = np.full(len(times_s), dataset, np.float32)
        for name, weight in self.interval_weights.items():
            if name in recording.intervals:
                weights[recording.intervals[name].contains(times_s)] *= weight
        return weights


def nothing_asked(values: np.ndarray) -> tuple[Queries, Targets]:
    """Queries and targets of a behavior that nobody is asked for; the values are empty."""
    return Queries(np.zeros(0, np.int64), np.zeros(0, np.float32)), Targets(values, np.zeros(0, np.float32))


def _cap(
    edges_s: np.ndarray, times_s: np.ndarray, unit: np.ndarray, count: np.ndarray, caps: np.ndarray
) -> np.ndarray:
    """Counts (n,) cut down to the caps (units,) of their units in each chunk."""
    chunk = np.searchsorted(edges_s, times_s, side="right")
    return capped(chunk * len(caps) + unit, count, caps[unit])
