"""PCA-KNN counts right, agrees with scikit-learn by hand, and tells classes that rates tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from possm.baselines.pca_knn import PcaKnnConfig, fit_pca_knn, trial_counts
from possm.data.intervals import Intervals
from possm.data.labels import TrialClasses
from possm.errors import ConfigError, RecordingError
from possm.evaluation.trials import scored_trials
from trial_toys import CLASSES, LABEL, trial_recording

RECORDING = trial_recording()


def part(split, recording=RECORDING):
    return scored_trials(recording, LABEL, CLASSES, split=split, within=None)


def test_counts_are_those_of_a_hand():
    trials = RECORDING.intervals["trials"]
    counts = trial_counts(RECORDING, trials, bin_ms=150, length_s=0.6).reshape(60, 4, 12)
    begin_s = trials.start_s[7]
    spikes = RECORDING.spikes
    for place in range(4):
        inside = (spikes.times_s >= begin_s + place * 0.15) & (spikes.times_s < begin_s + (place + 1) * 0.15)
        wanted = np.bincount(spikes.unit[inside], minlength=12)
        np.testing.assert_allclose(counts[7, place] ** 2, wanted, rtol=1e-5)


def test_a_trial_of_another_length_is_cut_or_ends_silent():
    start_s = RECORDING.intervals["trials"].start_s[:2]
    trials = Intervals(start_s, start_s + np.array([0.3, 0.6]))
    counts = trial_counts(RECORDING, trials, bin_ms=100, length_s=0.4).reshape(2, 4, 12)
    assert counts[0, 3].sum() == 0 and counts[0, 2].sum() > 0
    assert (counts[1] ** 2).sum() == pytest.approx(len(RECORDING.spikes.slice(start_s[1], start_s[1] + 0.4)))


def test_it_decides_as_scikit_learn_by_hand():
    config = PcaKnnConfig(bin_ms=(200,), components=(3,), neighbours=(5,))
    fitted = fit_pca_knn(RECORDING, part("train"), part("valid"), config)
    seen = trial_counts(RECORDING, part("train").trials, bin_ms=200, length_s=0.6)
    mean, scale = seen.mean(axis=0), seen.std(axis=0)
    scale[scale == 0] = 1
    pca = PCA(3).fit((seen - mean) / scale)
    knn = KNeighborsClassifier(5, weights="distance").fit(
        pca.transform((seen - mean) / scale), part("train").number
    )
    held = trial_counts(RECORDING, part("test").trials, bin_ms=200, length_s=0.6)
    wanted = knn.predict(pca.transform((held - mean) / scale))
    np.testing.assert_array_equal(fitted.decide(RECORDING, part("test").trials), wanted)
    assert fitted.num_parameters == 2 * 36 + 3 * 36 + 36 + 40 * 3


def test_it_tells_the_classes_and_chooses_on_validation_trials():
    fitted = fit_pca_knn(RECORDING, part("train"), part("valid"))
    assert np.mean(fitted.decide(RECORDING, part("test").trials) == part("test").number) > 0.9
    tried = [
        fit_pca_knn(RECORDING, part("train"), part("valid"), PcaKnnConfig(components=(c,), neighbours=(k,)))
        for c in (5, 20)
        for k in (1, 9)
    ]
    assert fitted.valid_accuracy >= max(one.valid_accuracy for one in tried)
    for one in (fitted, *tried):  # what it was chosen by is what it does
        held = np.mean(one.decide(RECORDING, part("valid").trials) == part("valid").number)
        assert one.valid_accuracy == pytest.approx(held)
    blind = []
    for seed in range(8):
        number = np.random.default_rng(seed).permutation(part("train").number)
        other = fit_pca_knn(RECORDING, replace(part("train"), number=number), part("valid"))
        blind.append(np.mean(other.decide(RECORDING, part("test").trials) == part("test").number))
    assert np.mean(blind) < 0.6  # chance is 1/3


def test_what_cannot_be_fitted_is_refused():
    nothing = TrialClasses(Intervals.of([]), np.zeros(0, np.int64))
    with pytest.raises(RecordingError, match="no trial to fit"):
        fit_pca_knn(RECORDING, part("train"), nothing)
    with pytest.raises(RecordingError, match="too few"):
        fit_pca_knn(RECORDING, part("train"), part("valid"), PcaKnnConfig(neighbours=(100,)))
    with pytest.raises(ConfigError, match="components"):
        PcaKnnConfig(components=())
