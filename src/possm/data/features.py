"""Values in every bin, causally normalized: counts and spike-band power as a decoder reads them.

Training, scoring and streams go through the same lines: raw bins -> `measured` (what counts as missing) ->
`CausalNormalizer` (each value against those before it, from the first bin of the recording or stream on) ->
`ValueLayout` (which of the numbers of a chunk is which channel's).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from possm.batch import KINDS, Values
from possm.config import require
from possm.data.normalize import CausalNormalizer, NormalizeConfig
from possm.data.recording import Recording
from possm.data.series import Binned
from possm.errors import ConfigError, RecordingError


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """What a decoder reads, and how its values are made. Kept with the decoder, for streams make them too."""

    inputs: tuple[str, ...] = ("spikes",)
    """Names in KINDS."""
    rate_hz: float | None = None
    """Bins per second of the values; None where it reads spikes only."""
    normalize: NormalizeConfig = field(default_factory=NormalizeConfig)
    """How the past is weighed."""

    def __post_init__(self) -> None:
        known = f"one or more of {', '.join(KINDS)}"
        require(bool(self.inputs) and set(self.inputs) <= set(KINDS), "inputs", self.inputs, known)
        fits = self.rate_hz is None if not self.values else self.rate_hz is not None and self.rate_hz > 0
        require(fits, "rate_hz", self.rate_hz, "above 0 where values are read, else None")

    @property
    def values(self) -> tuple[str, ...]:
        """Those of the inputs that have a value in every bin, in order."""
        return tuple(name for name in self.inputs if KINDS[name])

    @property
    def spikes(self) -> bool:
        """Whether spikes are read, too."""
        return "spikes" in self.inputs

    def bins_in(self, chunk_ms: int) -> int:
        """Bins in a chunk.

        Raises:
            ConfigError: They are no whole number.
        """
        number = (self.rate_hz or 0.0) * chunk_ms / 1000
        if not self.values or round(number) < 1 or abs(number - round(number)) > 1e-5 * number:
            raise ConfigError(
                "a chunk does not hold a whole number of bins",
                got=f"{self.rate_hz} bins a second, chunks of {chunk_ms} ms",
                fix="choose another chunk_ms",
            )
        return round(number)

    def normalizer(self, num_units: int) -> CausalNormalizer:
        """For all kinds of all units, side by side."""
        assert self.rate_hz is not None
        number = len(self.values) * num_units
        return CausalNormalizer(number, rate_hz=self.rate_hz, config=self.normalize)


def input_config(
    recordings: Sequence[Recording], inputs: tuple[str, ...], normalize: NormalizeConfig
) -> InputConfig:
    """How a decoder of these inputs reads these recordings.

    Raises:
        RecordingError: A recording lacks what is to be read.
        ConfigError: Their bins differ in length.
    """
    if not any(KINDS.get(name) for name in inputs):
        return InputConfig(inputs=inputs)
    rates = set()
    for recording in recordings:
        for name in inputs:
            if KINDS.get(name):
                rates.add(round(raw_values(recording, name).rate_hz, 6))
    if len(rates) > 1:
        raise ConfigError("recordings differ in the length of their bins", got=f"{sorted(rates)} per second")
    return InputConfig(inputs=inputs, rate_hz=rates.pop(), normalize=normalize)


def raw_values(recording: Recording, name: str) -> Binned:
    """The counts or a feature of a recording as they were measured: (bins, units).

    Raises:
        RecordingError: It has none.
    """
    found = recording.binned if name == "counts" else recording.features.get(name)
    if found is None:
        have = ["counts"] * (recording.binned is not None) + list(recording.features)
        raise RecordingError(
            f"the recording has no {name} in bins",
            about=recording.name,
            got=", ".join(have) or "spike times only",
            fix=f"prepare it with {name}, or train a decoder that reads other inputs",
        )
    return found


def measured(name: str, rows: np.ndarray) -> np.ndarray:
    """(bins, units) float64, NaN where nothing was measured: a bin in which no channel has any power is
    a lost packet, not silence. Counts may all be 0."""
    rows = np.asarray(rows, np.float64)
    if name == "counts":
        return rows
    return np.where((rows == 0).all(axis=1, keepdims=True), np.nan, rows)


def normalized(recording: Recording, config: InputConfig) -> Binned:
    """All values of a recording: (bins, kinds * units) float32, kind by kind.

    Raises:
        RecordingError: It lacks some.
        ConfigError: Its bins have another length than the decoder's.
    """
    parts = []
    for name in config.values:
        raw = raw_values(recording, name)
        if abs(raw.rate_hz - (config.rate_hz or 0.0)) > 1e-5 * raw.rate_hz:
            raise ConfigError(
                "the decoder reads bins of another length",
                about=recording.name,
                got=f"{1000 / raw.rate_hz:g} ms",
                wanted=f"{1000 / (config.rate_hz or 0.0):g} ms",
            )
        parts.append(measured(name, raw.values[:]))
    values, _ = config.normalizer(recording.num_units)(np.concatenate(parts, axis=1))
    return replace(raw, values=values)


@dataclass(frozen=True, eq=False)
class ValueLayout:
    """Where the values of a chunk are: bin by bin, in a bin kind by kind, unit by unit."""

    config: InputConfig
    rows: np.ndarray
    """(units,) int64: vocabulary row of every unit, -1 where unknown; those are left out."""
    chunk_ms: int

    @cached_property
    def num_bins(self) -> int:
        """Bins in a chunk."""
        return self.config.bins_in(self.chunk_ms)

    @cached_property
    def known(self) -> np.ndarray:
        """Columns of the units that the vocabulary knows."""
        return np.flatnonzero(self.rows >= 0)

    @cached_property
    def columns(self) -> np.ndarray:
        """Columns of the known units in a table (bins, kinds * units)."""
        kinds = np.arange(len(self.config.values))
        return (kinds[:, None] * len(self.rows) + self.known).ravel()

    @cached_property
    def slots(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(1, M) unit, kind and time of the values of a chunk."""
        bins, kinds = np.arange(self.num_bins), np.array([KINDS[name] for name in self.config.values])
        shape = (self.num_bins, len(kinds), len(self.known))
        unit = np.broadcast_to(self.rows[self.known], shape)
        kind = np.broadcast_to(kinds[:, None], shape)
        centre_s = (bins + 0.5) * (self.chunk_ms / 1000 / self.num_bins)
        time_s = np.broadcast_to(centre_s[:, None, None], shape)
        unit, kind, time_s = (array.reshape(1, -1) for array in (unit, kind, time_s))
        return unit.astype(np.int64), kind.astype(np.int64), time_s.astype(np.float32)

    def values(self, table: np.ndarray, *, first: int, num_chunks: int) -> Values:
        """The chunks of one sequence.

        Args:
            table: (bins, kinds * units) of consecutive bins.
            first: The bin of row 0, counted from the first bin of chunk 0; may be below 0.
            num_chunks: C.
        """
        width = len(self.columns)
        held = np.zeros((num_chunks * self.num_bins, width), np.float32)
        begin, end = max(0, -first), min(len(table), len(held) - first)
        held[first + begin : first + end] = table[begin:end, self.columns]
        size = np.clip(first + end - np.arange(num_chunks) * self.num_bins, 0, self.num_bins) * width
        unit, kind, time_s = self.slots
        value = held.reshape(1, num_chunks, self.num_bins * width)
        return Values(value, unit, kind, time_s, size[None].astype(np.int64))


def feature_warnings(recording: Recording, name: str, feature: Binned) -> list[str]:
    """What looks wrong in a feature, each with a count.

    Raises:
        RecordingError: Nothing of it was measured.
    """
    inside = recording.domain.contains(feature.centres_s)
    values = np.asarray(feature.values[:], np.float64)[inside]
    lost = int((values == 0).all(axis=1).sum())
    missing = int((~np.isfinite(values)).any(axis=1).sum())
    there = np.isfinite(values)
    if not (there & (values != 0)).any():
        raise RecordingError(f"the feature '{name}' was not measured at all", about=recording.name)
    highest, lowest = (
        np.where(there, values, -np.inf).max(axis=0),
        np.where(there, values, np.inf).min(axis=0),
    )
    still = int((highest <= lowest).sum())
    found = {
        f"{name}: {missing} of {len(values)} bins of the domain hold NaN": missing,
        f"{name}: {lost} of {len(values)} bins are 0 on all channels, taken as missing": lost,
        f"{name}: {still} of {values.shape[1]} channels never change": still,
    }
    return [text for text, count in found.items() if count]
