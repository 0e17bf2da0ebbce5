"""A recording: the neural activity, behavior and events of one session, in seconds.

The arrays are numpy, or h5py datasets of an open file (a lazy recording); `slice` always returns numpy.
Nothing here knows a file format (see `possm.data.formats`) or a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from possm.data.intervals import Intervals
from possm.data.series import Binned, Signal, Spikes
from possm.errors import RecordingError

__all__ = ["Binned", "Intervals", "Recording", "Signal", "Spikes"]

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class Recording:
    """One file, one session: spikes (or binned values), behaviors, intervals, and who it is from."""

    session_id: str
    unit_ids: tuple[str, ...]
    """Names of the units; they may repeat in other sessions, see `global_unit_ids`."""
    domain: Intervals
    """The time that counts: inside it, spikes and behavior were recorded properly."""
    subject_id: str | None = None
    unit_columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Facts about the units, every array (units, ...): electrode, area."""
    spikes: Spikes | None = None
    binned: Binned | None = None
    """Counts, when there are no spike times. Exactly one of `spikes` and `binned` is there."""
    features: Mapping[str, Binned] = field(default_factory=dict)
    """What else was measured of every unit in every bin, by name: ``power``, the spike-band power. All on one
    clock, that of `binned` where there is one; NaN where nothing was measured."""
    signals: Mapping[str, Signal] = field(default_factory=dict)
    """Behaviors by name, such as ``cursor.pos``."""
    intervals: Mapping[str, Intervals] = field(default_factory=dict)
    """Trials, movement phases, splits (``train_domain``) by name."""
    attributes: Mapping[str, str | float] = field(default_factory=dict)
    """Facts about the session by ``group.name``: ``session.recording_date``, ``subject.species``."""
    path: Path | None = None
    """The file it was read from."""
    file: Any = field(default=None, repr=False)
    """The file of a lazy recording; `close` ends reading it."""

    def __post_init__(self) -> None:
        if (self.spikes is None) == (self.binned is None):
            raise RecordingError(
                "a recording has either spikes or binned counts",
                about=self.name,
                got="neither" if self.spikes is None else "both",
            )
        widths = {f"unit column '{name}'": len(column) for name, column in self.unit_columns.items()}
        if self.binned is not None:
            widths["the table of binned counts"] = self.binned.values.shape[1]
        widths |= {f"the feature '{name}'": part.values.shape[1] for name, part in self.features.items()}
        for what, width in widths.items():
            if width != self.num_units:
                raise RecordingError(
                    f"{what} does not fit the units", about=self.name, got=width, wanted=self.num_units
                )
        for name, part in self.features.items():
            if part.clock != self.bins.clock:  # type: ignore[union-attr]
                raise RecordingError(
                    f"the feature '{name}' has another clock than the other bins",
                    about=self.name,
                    got=part.clock_text(),
                    wanted=self.bins.clock_text(),  # type: ignore[union-attr]
                    fix="bin everything alike",
                )

    def __repr__(self) -> str:
        activity = (
            f"{len(self.spikes)} spikes" if self.spikes is not None else f"{len(self.binned or ())} bins"
        )
        return (
            f"Recording({self.name}: {self.num_units} units, {activity}, {self.domain.total_s:.1f} s, "
            f"signals {list(self.signals)}, intervals {list(self.intervals)})"
        )

    @property
    def name(self) -> str:
        """What error messages call this recording: its file if it has one, else its session."""
        return str(self.path or self.session_id)

    @property
    def dataset_id(self) -> str:
        """The dataset it belongs to: its brainset; "" where the file does not say."""
        return str(self.attributes.get("brainset.id", ""))

    @property
    def bins(self) -> Binned | None:
        """What tells the clock of its bins: the counts, else a feature; None where all is spike times."""
        return self.binned if self.binned is not None else next(iter(self.features.values()), None)

    @property
    def num_units(self) -> int:
        """Rows of the unit table."""
        return len(self.unit_ids)

    @property
    def global_unit_ids(self) -> tuple[str, ...]:
        """Unit names that stay unique across sessions: ``session_id/unit_id``."""
        return tuple(f"{self.session_id}/{unit}" for unit in self.unit_ids)

    def behavior(self, name: str) -> Signal:
        """The signal called `name`; a `RecordingError` lists what there is."""
        if name not in self.signals:
            have = ", ".join(self.signals) or "no behavior at all"
            raise RecordingError(f"no behavior '{name}'", about=self.name, got=have, fix="name one of these")
        return self.signals[name]

    def split(self, name: str) -> Intervals:
        """The intervals of the split ``train``, ``valid`` or ``test``."""
        if f"{name}_domain" not in self.intervals:
            have = [split for split in SPLITS if f"{split}_domain" in self.intervals]
            raise RecordingError(
                f"there is no split '{name}'",
                about=self.name,
                got=", ".join(have) or "no splits",
                fix="make one with possm.data.splits.chronological_split(recording)",
            )
        return self.intervals[f"{name}_domain"]

    def tokens(self, start_s: float, end_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the decoder reads of ``[start_s, end_s)``: times (s), unit rows (int64), counts (float32).

        A spike is a token of count 1. A bin with a count above 0 is one token at the centre of the bin.
        """
        if self.spikes is not None:
            spikes = self.spikes.slice(start_s, end_s)
            return spikes.times_s, spikes.unit, np.ones(len(spikes.times_s), np.float32)
        assert self.binned is not None
        part = self.binned.slice(start_s, end_s)
        row, unit = np.nonzero(part.values > 0)
        return part.centres_s[row], unit.astype(np.int64), part.values[row, unit].astype(np.float32)

    def slice(self, start_s: float, end_s: float) -> Recording:
        """Everything in ``[start_s, end_s)``, in memory; times stay absolute, intervals are cut off."""
        return replace(
            self,
            spikes=None if self.spikes is None else self.spikes.slice(start_s, end_s),
            binned=None if self.binned is None else self.binned.slice(start_s, end_s),
            features={name: part.slice(start_s, end_s) for name, part in self.features.items()},
            signals={name: signal.slice(start_s, end_s) for name, signal in self.signals.items()},
            intervals={name: part.slice(start_s, end_s) for name, part in self.intervals.items()},
            domain=self.domain.slice(start_s, end_s),
            file=None,
        )

    def load(self) -> Recording:
        """The same recording in memory; close the lazy one to close its file."""
        return replace(
            self,
            spikes=None if self.spikes is None else self.spikes.load(),
            binned=None if self.binned is None else self.binned.load(),
            features={name: part.load() for name, part in self.features.items()},
            signals={name: signal.load() for name, signal in self.signals.items()},
            file=None,
        )

    def close(self) -> None:
        """End reading the file of a lazy recording. Closing twice is fine."""
        if self.file is not None:
            self.file.close()

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
