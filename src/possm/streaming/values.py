"""Values of a stream: what arrived in each bin -> the normalized values that training made of a recording.

Counts are counted from what was pushed (spikes, or bins with a count); power and other features come with a
push as tables of bins. A bin of which nothing came is missing: it is answered with the mean, counted, and not
remembered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from possm.batch import Values
from possm.data.features import ValueLayout, measured
from possm.data.normalize import NormalizerState
from possm.data.series import Binned
from possm.errors import StreamError
from possm.streaming.binding import Binding
from possm.streaming.inbox import Arrivals, StreamCounts

NORMALIZER_ARRAYS = ("seen", "missing", "weight", "mean", "spread", "ring")


class ValueFeed:
    """Holds the features of bins to come and the running means of the past; one for each live decoder.

    Args:
        bound: The decoder, which reads values, and the units of the stream.
    """

    def __init__(self, bound: Binding) -> None:
        self.config, self.num_units = bound.spec.inputs, len(bound.unit_ids)
        self.rebind(bound)
        self.bin_s = bound.spec.chunk_ms / 1000 / self.layout.num_bins
        self._normalize = self.config.normalizer(self.num_units)
        self._state = self._normalize.initial_state()
        self._waiting: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.discard()

    def rebind(self, bound: Binding) -> None:
        """Go on with another decoder of the same inputs, whose rows of the units may be others."""
        self.layout = ValueLayout(self.config, bound.rows, bound.spec.chunk_ms)

    @property
    def features(self) -> tuple[str, ...]:
        """What has to come with a push."""
        return tuple(name for name in self.config.values if name != "counts")

    def put(self, features: Mapping[str, Binned] | None) -> None:
        """Keep bins until their chunk is due.

        Raises:
            StreamError: A feature the decoder reads is not there, has another number of channels than the
                stream has units, or bins of another length. Nothing is kept then.
        """
        given = features or {}
        for name in self.features:
            if name not in given:
                raise StreamError(
                    f"the decoder reads {name}, which this push lacks",
                    got=", ".join(given) or "no features",
                    fix=f"push(..., features={{'{name}': Binned(values, start_s, rate_hz)}})",
                )
            self._check(name, given[name])
        for name in self.features:
            times_s, rows = self._waiting[name]
            new = given[name]
            joined = np.concatenate([rows, np.asarray(new.values, np.float64)])
            self._waiting[name] = np.concatenate([times_s, new.centres_s]), joined

    def take(self, spikes: Arrivals, edges_s: np.ndarray, counts: StreamCounts) -> Values:
        """The values of the chunks between these edges, which are the next ones; missing bins are counted."""
        num_chunks = len(edges_s) - 1
        tables = []
        for name in self.config.values:
            bins = self._counted(spikes, edges_s) if name == "counts" else self._held(name, edges_s)
            rows = measured(name, bins)
            counts.missing_bins += int(np.isnan(rows).all(axis=1).sum())
            tables.append(rows)
        raw = tables[0] if len(tables) == 1 else np.concatenate(tables, axis=1)
        table, self._state = self._normalize(raw, self._state)
        return self.layout.values(table, first=0, num_chunks=num_chunks)

    def discard(self) -> None:
        """Forget the bins that wait, as when a stream begins anew; running means stay."""
        empty = np.zeros(0), np.zeros((0, self.num_units))
        self._waiting = dict.fromkeys(self.features, empty)

    def arrays(self) -> dict[str, np.ndarray]:
        """All it remembers, for a file."""
        saved = {f"past.{field}": getattr(self._state, field) for field in NORMALIZER_ARRAYS}
        saved["past.next"] = np.array(self._state.next)
        for name, (times_s, rows) in self._waiting.items():
            saved |= {f"{name}.times_s": times_s, f"{name}.rows": rows}
        return saved

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take up what `arrays` gave."""
        parts: dict[str, Any] = {field: arrays[f"past.{field}"] for field in NORMALIZER_ARRAYS}
        self._state = NormalizerState(**parts, next=arrays["past.next"].item())
        for name in self._waiting:
            self._waiting[name] = arrays[f"{name}.times_s"], arrays[f"{name}.rows"]

    def _counted(self, spikes: Arrivals, edges_s: np.ndarray) -> np.ndarray:
        """(bins, units): what arrived in each bin."""
        chunk = np.searchsorted(edges_s, spikes.times_s, side="right") - 1
        inside = (chunk >= 0) & (chunk < len(edges_s) - 1)
        row = self._row(spikes.times_s[inside], chunk[inside], edges_s)
        table = np.zeros(((len(edges_s) - 1) * self.layout.num_bins, self.num_units))
        np.add.at(table, (row, spikes.unit[inside]), spikes.count[inside])
        return table

    def _held(self, name: str, edges_s: np.ndarray) -> np.ndarray:
        """(bins, units): what was pushed of each bin, NaN where nothing was; older bins are let go."""
        times_s, rows = self._waiting[name]
        chunk = np.searchsorted(edges_s, times_s, side="right") - 1
        inside, later = (chunk >= 0) & (chunk < len(edges_s) - 1), chunk >= len(edges_s) - 1
        table = np.full(((len(edges_s) - 1) * self.layout.num_bins, self.num_units), np.nan)
        table[self._row(times_s[inside], chunk[inside], edges_s)] = rows[inside]
        self._waiting[name] = times_s[later], rows[later]
        return table

    def _row(self, times_s: np.ndarray, chunk: np.ndarray, edges_s: np.ndarray) -> np.ndarray:
        """Which bin of the stretch each time is in."""
        within = np.floor((times_s - edges_s[chunk]) / self.bin_s + 1e-6).astype(np.int64)
        return chunk * self.layout.num_bins + np.clip(within, 0, self.layout.num_bins - 1)

    def _check(self, name: str, bins: Binned) -> None:
        if bins.values.shape[1] != self.num_units:
            raise StreamError(
                f"{name} has another number of channels than the stream has units",
                got=bins.values.shape[1],
                wanted=self.num_units,
                fix="name the units that are pushed: unit_ids=..., or use_units",
            )
        if abs(bins.rate_hz * self.bin_s - 1) > 1e-5:
            got, wanted = f"{1000 / bins.rate_hz:g} ms", f"{1000 * self.bin_s:g} ms"
            raise StreamError(f"bins of {name} have another length than in training", got=got, wanted=wanted)
