"""A recording of trials whose class the rates of its units tell."""

from __future__ import annotations

import numpy as np

import toys
from possm.checkpoint import Decoder
from possm.data.intervals import Intervals
from possm.data.recording import Recording
from possm.data.series import Spikes
from possm.data.vocabulary import Vocabulary
from possm.model.decoder import BehaviorConfig, Possm

CLASSES = ("left", "right", "up")
LABEL = "trials.target"


def trial_recording(
    *, session: str = "toy", trials: int = 60, units: int = 12, seed: int = 0, trial_s: float = 0.6
) -> Recording:
    """Trials of 0.6 s, 0.2 s apart, in shuffled classes; unit u fires at 40 Hz in class u mod 3, else at 5.

    Of six trials in a row, four are for training, one for validation, one for testing.
    """
    rng = np.random.default_rng(seed)
    start_s = 0.1 + np.arange(trials) * (trial_s + 0.2)
    number = rng.permutation(np.arange(trials) % len(CLASSES))
    times, unit = [], []
    for begin_s, mine in zip(start_s, number, strict=True):
        for u in range(units):
            rate_hz = 40 if u % len(CLASSES) == mine else 5
            spikes = rng.uniform(begin_s, begin_s + trial_s, rng.poisson(rate_hz * trial_s))
            times.append(spikes)
            unit.append(np.full(len(spikes), u))
    times_s, units_of = np.concatenate(times), np.concatenate(unit)
    order = np.argsort(times_s)
    all_trials = Intervals(start_s, start_s + trial_s, {"target": np.array(CLASSES)[number]})
    part = np.arange(trials) % 6
    return Recording(
        session_id=session,
        unit_ids=tuple(f"u{i}" for i in range(units)),
        spikes=Spikes(times_s[order], units_of[order].astype(np.int64)),
        domain=Intervals.of([(0.0, float(start_s[-1] + trial_s + 0.2))]),
        intervals={
            "trials": all_trials,
            "train_domain": Intervals(*_span(all_trials.where(part < 4))),
            "valid_domain": Intervals(*_span(all_trials.where(part == 4))),
            "test_domain": Intervals(*_span(all_trials.where(part == 5))),
        },
    )


def _span(trials: Intervals) -> tuple[np.ndarray, np.ndarray]:
    return trials.start_s, trials.end_s


def behavior(classes: tuple[str, ...] = CLASSES) -> BehaviorConfig:
    """How it is decoded."""
    return BehaviorConfig(num_dimensions=len(classes), readout="category", classes=classes)


def class_decoder(*recordings: Recording, seed: int = 0, **changes) -> Decoder:
    """An untrained decoder of the trials, with random weights."""
    config = toys.tiny_config(**{"behaviors": {LABEL: behavior()}, **changes})
    vocabulary = Vocabulary.of(recordings)
    model = Possm(config, num_units=len(vocabulary.units), num_sessions=len(vocabulary.sessions))
    return Decoder(toys.random_weights(model, seed=seed), vocabulary, {})
