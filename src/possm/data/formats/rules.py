"""What a map of MATLAB fields can say: one frozen dataclass for each table of the TOML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dict_field
from typing import Any

from possm.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SessionRule:
    """Who a file is from, by its name."""

    file: str
    """Regular expression, searched in the file name without its suffix; its named groups fill the rest."""
    id: str
    subject: str | None = None
    attributes: Mapping[str, str] = dict_field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BinsRule:
    """Counts in bins of one length."""

    field: str
    """Table (bins, units)."""
    holds: str
    """"counts", or "rates" in spikes per second."""
    bin_s: float
    times: str | None = None
    """Field with the start of every bin in seconds; without it the first bin starts at 0."""


@dataclass(frozen=True, kw_only=True)
class SpikesRule:
    """Spike times: a list with the times of every unit, or one list of times and one of unit numbers."""

    field: str
    times: str | None = None
    """Field of each entry of the list that holds its times; without it the entries are the times."""
    unit: str | None = None
    """Field with the number of the unit of every spike, when `field` is one long list."""
    scale_s: float = 1.0
    """Seconds in one tick of the file's clock: 0.001 if it holds milliseconds."""


@dataclass(frozen=True, kw_only=True)
class RastersRule:
    """One struct for each trial with its raster, in tables (trials, classes); column k is of class k + 1."""

    train: str
    """Field with the table of the trials for training and validation."""
    test: str
    raster: str
    """Field of a struct with the counts, (units, bins)."""
    number: str
    """Field of a struct with the number of the trial, by which trials are put in order."""
    bin_s: float
    label: str = "label"
    """Column of the trials that says the class."""
    times: Mapping[str, float] = dict_field(default_factory=dict)
    """Further columns of the trials: seconds since their start."""
    gap_s: float = 0.3
    """Between the end of a trial and the start of the next, for such files have no clock."""
    valid_every: int = 6
    """Of the trials for training, every so-manieth of each class is for validation."""


@dataclass(frozen=True, kw_only=True)
class UnitsRule:
    """Names of the units."""

    ids: str | None = None
    """Field with a name for every unit; without it they are numbered from 1, after `prefix`."""
    prefix: str = "unit_"
    columns: Mapping[str, str] = dict_field(default_factory=dict)
    """Numbers to take from the names: a regular expression with one group for each column."""


@dataclass(frozen=True, kw_only=True)
class SignalRule:
    """A behavior."""

    name: str
    field: str | tuple[str, ...] | None = None
    """Field (samples, dimensions), or several with one dimension each."""
    columns: tuple[int, ...] | None = None
    """Which of its dimensions, from 0; all when missing."""
    times: str | None = None
    """Field with the time of every sample; without it sample i belongs to bin i."""
    stamp: str = "start"
    """Without `times`: whether the sample was taken at the "start" or the "end" of its bin."""
    gradient_of: str | None = None
    """Instead of `field`: the rate of change of another signal, by central differences inside the domain."""
    unit: str = ""
    optional: bool = False
    """Leave the signal out when the field is missing or empty, instead of an error."""


@dataclass(frozen=True, kw_only=True)
class WordsRule:
    """Event codes: a table of [seconds, code]."""

    field: str


@dataclass(frozen=True, kw_only=True)
class ColumnRule:
    """One column of the trials."""

    column: tuple[int, ...] = ()
    """Column of the table, from 0; of several, the first that is not missing (NaN or -1)."""
    letter: bool = False
    """The number is the code of a letter."""
    word: tuple[int, int] | None = None
    """Instead of a column: the newest word of the trial with a code in this range, less the lower end."""
    times: float = 1.0
    plus: float = 0.0
    modulo: float | None = None
    """The value becomes `times` x number + `plus`, brought to [0, modulo)."""


@dataclass(frozen=True, kw_only=True)
class TrialsRule:
    """A table with one row for each trial, which becomes the intervals "trials"."""

    field: str
    start: int
    end: int
    columns: Mapping[str, ColumnRule] = dict_field(default_factory=dict)
    if_field: str | None = None
    """Use this rule only when the file has that field."""
    unless_field: str | None = None


@dataclass(frozen=True, kw_only=True)
class PhaseRule:
    """Intervals between two columns of the trials; trials where one is missing have none."""

    name: str
    start: str
    end: str
    where: Mapping[str, tuple[Any, ...]] = dict_field(default_factory=dict)
    """Only trials with one of these values in a column."""


@dataclass(frozen=True, kw_only=True)
class FrozenRule:
    """A signal that stays within a range for so long was not recorded."""

    signal: str
    within: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class OffScaleRule:
    """Samples too far from the median, and what is around them."""

    signal: str
    limit: float
    margin_s: float
    """Length of the stretch around each of these samples that goes with it."""


@dataclass(frozen=True, kw_only=True)
class QualityRule:
    """What does not belong to the domain."""

    silent_s: float | None = None
    """Stretches of this length without a spike of any unit."""
    frozen: FrozenRule | None = None
    off_scale: OffScaleRule | None = None


@dataclass(frozen=True, kw_only=True)
class CutsRule:
    """Joined pieces: the position steps by more than the velocity says."""

    position: str
    velocity: str
    tolerance: float


@dataclass(frozen=True, kw_only=True)
class MatlabMap:
    """A whole map. Exactly one of `bins`, `spikes` and `rasters` is there."""

    name: str
    about: str = ""
    root: tuple[str, ...] = ()
    """Structs that may hold the fields, tried in turn; none when they lie at the top of the file."""
    session: tuple[SessionRule, ...] = ()
    """Tried in turn; without a match the session is named after the file."""
    attributes: Mapping[str, str] = dict_field(default_factory=dict)
    bins: BinsRule | None = None
    spikes: SpikesRule | None = None
    rasters: RastersRule | None = None
    units: UnitsRule = UnitsRule()
    signals: tuple[SignalRule, ...] = ()
    words: WordsRule | None = None
    trials: tuple[TrialsRule, ...] = ()
    """The first that fits the file is used."""
    phases: tuple[PhaseRule, ...] = ()
    quality: QualityRule = QualityRule()
    cuts: CutsRule | None = None

    def __post_init__(self) -> None:
        if sum(rule is not None for rule in (self.bins, self.spikes, self.rasters)) != 1:
            raise ConfigError("a map has one of [bins], [spikes] and [rasters]", about=self.name)
        if self.rasters is not None and (self.signals or self.trials or self.cuts or self.words):
            raise ConfigError("a map of [rasters] has no signals, trials, words or cuts", about=self.name)
        if self.bins is not None and (self.bins.holds not in ("counts", "rates") or not self.bins.bin_s > 0):
            raise ConfigError(
                "[bins]", about=self.name, got=self.bins, wanted='holds = "counts" or "rates", bin_s above 0'
            )
        names = [signal.name for signal in self.signals]
        for signal in self.signals:
            self._check(signal, names)
        for rule in (self.quality.frozen, self.quality.off_scale):
            if rule is not None and rule.signal not in names:
                raise ConfigError(
                    "[quality] names an unknown signal", about=self.name, got=rule.signal, wanted=names
                )

    def _check(self, signal: SignalRule, names: list[str]) -> None:
        about = f"{self.name}: signal '{signal.name}'"
        if (signal.field is None) == (signal.gradient_of is None):
            raise ConfigError("a signal has either a field or gradient_of", about=about)
        if signal.stamp not in ("start", "end"):
            raise ConfigError("stamp", about=about, got=signal.stamp, wanted='"start" or "end"')
        if signal.gradient_of is not None and signal.gradient_of not in names[: names.index(signal.name)]:
            raise ConfigError("gradient_of names no signal above", about=about, got=signal.gradient_of)
        if signal.field is not None and signal.times is None and self.bins is None:
            raise ConfigError("without bins a signal needs a field of times", about=about)
