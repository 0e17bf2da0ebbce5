"""Principal components and nearest neighbours on the counts of whole trials: the baseline for handwriting.

Not causal: a trial is classified once it is over, from the square roots of the counts of all its bins. Bin,
number of components and of neighbours are the best on validation trials.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from possm.config import require
from possm.data.labels import TrialClasses
from possm.data.recording import Intervals, Recording
from possm.errors import ConfigError, RecordingError


@dataclass(frozen=True, kw_only=True)
class PcaKnnConfig:
    """What is tried; the first of equals wins."""

    bin_ms: tuple[int, ...] = (50, 100, 200)
    components: tuple[int, ...] = (5, 10, 20, 40, 80)
    neighbours: tuple[int, ...] = (1, 3, 5, 9)

    def __post_init__(self) -> None:
        for name in ("bin_ms", "components", "neighbours"):
            values = getattr(self, name)
            require(bool(values) and min(values) >= 1, name, values, "one or more, each 1 or more")


@dataclass(frozen=True, eq=False)
class PcaKnn:
    """A fitted classifier of trials of one length."""

    bin_ms: int
    components: int
    neighbours: int
    valid_accuracy: float
    length_s: float
    """Of the trials it was fitted on; of a longer one it reads no more, a shorter one ends silent."""
    pipeline: Any
    """scikit-learn's: scaling, components, neighbours."""

    @property
    def num_parameters(self) -> int:
        """Numbers it keeps: means and scales of the inputs, components, and the neighbours' coordinates."""
        scaler, pca, knn = (step for _, step in self.pipeline.steps)
        return int(2 * scaler.mean_.size + pca.components_.size + pca.mean_.size + knn._fit_X.size)

    def decide(self, recording: Recording, trials: Intervals) -> np.ndarray:
        """(n,) int64: the class of each trial."""
        features = trial_counts(recording, trials, bin_ms=self.bin_ms, length_s=self.length_s)
        return np.asarray(self.pipeline.predict(features), np.int64)


def fit_pca_knn(
    recording: Recording, train: TrialClasses, valid: TrialClasses, config: PcaKnnConfig | None = None
) -> PcaKnn:
    """Fit on training trials; keep what decides most validation trials rightly.

    Args:
        recording: Spikes or counts.
        train: Trials and their classes.
        valid: The same, for the choice.
        config: What to try.

    Raises:
        ConfigError: scikit-learn is not installed.
        RecordingError: There is no trial to train on or to choose by.
    """
    config = config or PcaKnnConfig()
    if not (len(train.trials) and len(valid.trials)):
        raise RecordingError("no trial to fit or to choose by", about=recording.name)
    length_s = float(np.median(train.trials.end_s - train.trials.start_s))
    tried = [
        (right, bin_ms, components, neighbours)
        for bin_ms in config.bin_ms
        for right, components, neighbours in _tried(recording, train, valid, config, bin_ms, length_s)
    ]
    if not tried:
        count = len(train.trials)
        raise RecordingError("too few training trials for any setting", about=recording.name, got=count)
    right, bin_ms, components, neighbours = max(tried, key=lambda one: one[0])  # the first of equals
    seen = trial_counts(recording, train.trials, bin_ms=bin_ms, length_s=length_s)
    pipeline = _pipeline(components, neighbours).fit(seen, train.number)
    return PcaKnn(bin_ms, components, neighbours, right, length_s, pipeline)


def _tried(
    recording: Recording,
    train: TrialClasses,
    valid: TrialClasses,
    config: PcaKnnConfig,
    bin_ms: int,
    length_s: float,
) -> Iterator[tuple[float, int, int]]:
    """(accuracy, components, neighbours) of one bin; fewer components are the first ones of more."""
    seen, held = (
        trial_counts(recording, part.trials, bin_ms=bin_ms, length_s=length_s) for part in (train, valid)
    )
    fitting = [components for components in config.components if components <= min(seen.shape)]
    if not fitting:
        return
    *reduce, (_, knn) = _pipeline(max(fitting), 1).steps
    for _, step in reduce:
        seen, held = step.fit_transform(seen), step.transform(held)
    for components, neighbours in itertools.product(fitting, config.neighbours):
        if neighbours <= len(seen):
            knn.set_params(n_neighbors=neighbours).fit(seen[:, :components], train.number)
            yield float(np.mean(knn.predict(held[:, :components]) == valid.number)), components, neighbours


def trial_counts(recording: Recording, trials: Intervals, *, bin_ms: int, length_s: float) -> np.ndarray:
    """Square roots of the counts of every unit in every bin of every trial: (trials, bins * units)."""
    num_bins = max(1, round(length_s * 1000 / bin_ms))
    table = np.zeros((len(trials), num_bins, recording.num_units), np.float32)
    for row, (start_s, end_s) in enumerate(trials):
        times_s, unit, count = recording.tokens(start_s, min(end_s, start_s + length_s))
        place = np.minimum(((times_s - start_s) * 1000 / bin_ms).astype(np.int64), num_bins - 1)
        np.add.at(table[row], (place, unit), count)
    return np.sqrt(table).reshape(len(trials), -1)


def _pipeline(components: int, neighbours: int) -> Any:
    try:
        from sklearn.decomposition import PCA
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ConfigError("PCA-KNN needs scikit-learn", fix="pip install scikit-learn") from error
    return make_pipeline(
        StandardScaler(),
        PCA(components, svd_solver="full"),
        KNeighborsClassifier(neighbours, weights="distance"),
    )
