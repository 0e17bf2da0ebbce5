"""The Wiener filter: ridge regression on the recent spike counts, the yardstick of every score.

Protocol. Counts of the last bins, capped, z-scored with the mean and standard deviation of the training
samples. Weights from the training split alone. Number of lags (and of bins in a lag) and ridge strength
chosen on the validation split, the strength for each output by itself. No refit. Nothing of the test split
is looked at before `Wiener.decode`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from possm.baselines.lags import Bins, Design, bin_recording
from possm.data.caps import CAP_PERCENTILE, usual_most
from possm.data.recording import Intervals, Recording
from possm.errors import ConfigError, RecordingError

logger = logging.getLogger(__name__)

STRENGTHS = tuple(10.0 ** (0.5 * power) for power in range(13))
MAX_INPUTS = 8192  # lags x units: the normal equations then take 0.5 GB, and minutes


@dataclass(frozen=True, kw_only=True)
class WienerConfig:
    """Settings of `fit_wiener`. What is a tuple is a set of candidates, chosen from by validation R2."""

    lags: tuple[int, ...] = (10, 20)
    """Numbers of lags to try."""
    strengths: tuple[float, ...] = STRENGTHS
    """Ridge strengths to try, against z-scored inputs and the sum of squares over the training samples."""
    cap_percentile: float | None = CAP_PERCENTILE
    """No count above this percentile of the unit's training bins (and 1); None caps nothing."""
    bin_ms: float = 50.0
    """Length of a bin where the recording has spike times; a binned recording keeps its own bins."""
    widths: tuple[int, ...] = (1, 2, 4)
    """Bins summed in a lag, where the recording has spike times; a binned recording takes 1."""
    strict: bool = True
    """Whether the value at time t is made from bins that end at or before t. Otherwise from the bins up to
    the one that holds t, the convention of the paper."""
    ahead_ms: float = 0.0
    """How much further back the bins of a value end than `strict` says: above 0 forecasts."""
    rebin: bool = False
    """Whether a binned recording's bins are summed to bins of `bin_ms`, too."""
    cross_gaps: bool = False
    """Whether history reaches across gaps of the domain (see `bin_recording`). By default a gap starts it
    anew, as it does for the other decoders."""

    def __post_init__(self) -> None:
        if not self.lags or min(self.lags) < 1 or not self.widths or min(self.widths) < 1:
            raise ConfigError(
                "lags and widths are counts of bins", got=(self.lags, self.widths), wanted=">= 1"
            )
        if not self.strengths or min(self.strengths) <= 0:
            raise ConfigError("ridge strengths must be positive", got=self.strengths)
        if self.cap_percentile is not None and not 0 < self.cap_percentile <= 100:
            raise ConfigError("cap_percentile is out of range", got=self.cap_percentile, wanted="(0, 100]")
        if not self.bin_ms > 0:
            raise ConfigError("bin_ms must be positive", got=self.bin_ms)


@dataclass(frozen=True, eq=False)
class Wiener:
    """A fitted Wiener filter for one behavior of one session."""

    config: WienerConfig
    session_id: str
    behavior: str
    unit_ids: tuple[str, ...]
    bin_s: float
    """Length of the bins it was fitted on."""
    lags: int
    """The number of lags chosen."""
    width: int
    """The number of bins in a lag chosen."""
    strengths: np.ndarray
    """(d,) the ridge strength chosen for each output."""
    valid_r2: np.ndarray
    """(d,) validation R2 of each output; optimistic, for the choices were made by it."""
    ceiling: np.ndarray
    """(units,) the highest count a bin may have; infinite without a cap."""
    mean: np.ndarray
    """(lags * units,) of the inputs over the training samples."""
    weights: np.ndarray
    """(lags * units, d) from the inputs, less their mean, to the outputs in physical units."""
    offset: np.ndarray
    """(d,) mean of the outputs over the training samples."""

    def decode(
        self, recording: Recording, intervals: Intervals | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Decode the behavior at its own sample times.

        Args:
            recording: The session it was fitted on, or another one of the same units.
            intervals: Where to decode; the domain if None. Every sample there is answered, also one without
                a measured value; one outside the domain has no history and gets the training mean.

        Returns:
            Times (n,) float64 in seconds, and values (n, d) float64 in the unit of the behavior.

        Raises:
            RecordingError: The recording has other units or other bins.
        """
        if recording.unit_ids != self.unit_ids:
            raise RecordingError(
                "a Wiener filter decodes only the units it was fitted on",
                about=recording.name,
                got=f"{recording.num_units} units",
                wanted=f"the {len(self.unit_ids)} units of {self.session_id}",
            )
        bins = _bins(recording, self.config)
        if not np.isclose(bins.bin_s, self.bin_s, rtol=1e-6):
            raise RecordingError(
                "the bins have another length", about=recording.name, got=f"{bins.bin_s} s", wanted=self.bin_s
            )
        times_s = recording.behavior(self.behavior).times_s
        times_s = times_s[(recording.domain if intervals is None else intervals).contains(times_s)]
        design = Design(bins.capped(self.ceiling), self.lags, self.width, self.config.strict)
        ahead_s = self.config.ahead_ms / 1e3
        rows = [inputs @ self.weights for _, inputs in design.blocks(times_s - ahead_s, self.mean)]
        return times_s, self.offset + (np.concatenate(rows) if rows else np.zeros((0, len(self.offset))))


def fit_wiener(
    recording: Recording,
    behavior: str,
    config: WienerConfig | None = None,
    *,
    selection: Intervals | None = None,
) -> Wiener:
    """Fit a Wiener filter on the split ``train``, choose its settings on the split ``valid``.

    Args:
        recording: With both splits.
        behavior: Name of the signal to decode.
        config: The defaults if None.
        selection: Where inside the validation split to choose, such as the evaluation intervals.

    Raises:
        RecordingError: No such behavior or split, a split without one measured sample, or more inputs than
            normal equations can take.
    """
    config = _affordable(config or WienerConfig(), recording)
    bins = _bins(recording, config)
    train = _measured(recording, behavior, "train", ahead_ms=config.ahead_ms)
    valid = _measured(recording, behavior, "valid", selection, ahead_ms=config.ahead_ms)
    ceiling = _ceiling(bins, recording.split("train"), config.cap_percentile)
    capped = bins.capped(ceiling)
    widths = config.widths if bins.from_spikes else (1,)
    tried = [fit for width in widths for fit in _fits(capped, train, valid, width=width, config=config)]
    best = max(tried, key=lambda fit: fit.valid_r2.mean())
    return Wiener(
        config=config,
        session_id=recording.session_id,
        behavior=behavior,
        unit_ids=recording.unit_ids,
        bin_s=bins.bin_s,
        ceiling=ceiling,
        offset=train[1].mean(axis=0),
        **vars(best),
    )


def _affordable(config: WienerConfig, recording: Recording) -> WienerConfig:
    """The config without the numbers of lags that make too many inputs; the log says if some are left out."""
    lags = tuple(lags for lags in config.lags if lags * recording.num_units <= MAX_INPUTS)
    if not lags:
        raise RecordingError(
            "too many units for a Wiener filter",
            about=recording.name,
            got=f"{recording.num_units} units x {min(config.lags)} lags",
            wanted=f"at most {MAX_INPUTS} inputs",
            fix="fewer lags, or a recording of fewer units",
        )
    if lags != config.lags:
        logger.warning("%s: Wiener filter with %s lags only, of %s", recording.name, lags, config.lags)
    return replace(config, lags=lags)


@dataclass(frozen=True, eq=False)
class _Fit:
    """One candidate; fields as in `Wiener`."""

    lags: int
    width: int
    strengths: np.ndarray
    valid_r2: np.ndarray
    mean: np.ndarray
    weights: np.ndarray


def _fits(
    bins: Bins,
    train: tuple[np.ndarray, np.ndarray],
    valid: tuple[np.ndarray, np.ndarray],
    *,
    width: int,
    config: WienerConfig,
) -> Iterator[_Fit]:
    """The best fit of every number of lags: fewer lags are the leading block of the same normal equations."""
    design = Design(bins, max(config.lags), width, config.strict)
    times_s, target, weight = design.fold(*train)
    offset = np.average(target, axis=0, weights=weight)
    mean, scale = design.moments(times_s, weight)
    gram = np.zeros((len(mean), len(mean)))
    cross = np.zeros((len(mean), target.shape[1]))
    for rows, inputs in design.blocks(times_s, mean):
        inputs /= scale
        weighed = inputs * weight[rows, None]
        gram += weighed.T @ inputs
        cross += weighed.T @ (target[rows] - offset)
    for lags in config.lags:
        part = slice(0, lags * bins.values.shape[1])
        path = _ridge_path(gram[part, part], cross[part], config.strengths) / scale[part, None, None]
        r2 = _path_r2(Design(bins, lags, width, config.strict), mean[part], path, offset, valid)
        best = r2.argmax(axis=0)
        outputs = np.arange(len(best))
        strengths = np.asarray(config.strengths)[best]
        yield _Fit(lags, width, strengths, r2[best, outputs], mean[part], path[:, best, outputs])


def _ridge_path(gram: np.ndarray, cross: np.ndarray, strengths: tuple[float, ...]) -> np.ndarray:
    """(inputs, strengths, d) ridge weights. They are those of scikit-learn's `Ridge` (a test holds them
    together), which would solve anew for each strength; one eigendecomposition serves all.
    """
    values, vectors = np.linalg.eigh(gram)
    values = np.maximum(values, 0.0)  # a rank short of full shows as a negative rounding error
    shrunk = (vectors.T @ cross)[:, None, :] / (values[:, None, None] + np.asarray(strengths)[None, :, None])
    return np.tensordot(vectors, shrunk, axes=1)


def _path_r2(
    design: Design,
    mean: np.ndarray,
    path: np.ndarray,
    offset: np.ndarray,
    valid: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """(strengths, d) validation R2 of every weight vector of the path; spread 1 if constant."""
    times_s, target = valid
    error = np.zeros(path.shape[1:])
    for rows, inputs in design.blocks(times_s, mean):
        decoded = np.tensordot(inputs, path, axes=1) + offset
        error += np.square(decoded - target[rows, None, :]).sum(axis=0)
    spread = np.square(target - target.mean(axis=0)).sum(axis=0)
    return np.asarray(1.0 - error / np.where(spread > 0, spread, 1.0))


def _ceiling(bins: Bins, train: Intervals, percentile: float | None) -> np.ndarray:
    """(units,) cap of every unit; at least 1, for the percentile of a rarely firing unit is 0."""
    if percentile is None:
        return np.full(bins.values.shape[1], np.inf)
    return usual_most(bins.values[bins.inside(train)], percentile)


def _bins(recording: Recording, config: WienerConfig) -> Bins:
    return bin_recording(recording, config.bin_ms, cross_gaps=config.cross_gaps, rebin=config.rebin)


def _measured(
    recording: Recording, behavior: str, split: str, within: Intervals | None = None, *, ahead_ms: float
) -> tuple[np.ndarray, np.ndarray]:
    """Values (n, d) of the samples of a split that have one in every dimension, and when (n,) to look for the
    bins of each."""
    signal = recording.behavior(behavior)
    times_s, values = signal.times_s, np.asarray(signal.values[:], np.float64)
    keep = np.isfinite(values).all(axis=1) & recording.domain.contains(times_s)
    for intervals in (recording.split(split), within):
        if intervals is not None:
            keep &= intervals.contains(times_s)
    if not keep.any():
        raise RecordingError(
            f"the {split} split has no sample of '{behavior}'", about=recording.name, got="0 samples"
        )
    return times_s[keep] - ahead_ms / 1e3, values[keep]
