"""Simulated attempted speech: sentences of common words, read from 256 channels in 20 ms bins.

    config = SpeechConfig(num_sentences=40)
    recording = simulate_speech(config, session=3, seed=0)      # "speech-s00-d03"

Channels read positions and velocities of articulators (`possm.data.articulation`) a little ahead of the
movement. A session has counts and spike-band power; its trials carry the phonemes. Days drift: gains, rates,
and what each channel is tuned to. See docs/clinical-data.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from possm.config import require
from possm.data.articulation import ARTICULATORS, REST, articulate
from possm.data.channels import BinClock, binned_rates, poisson_counts
from possm.data.intervals import Intervals
from possm.data.phonemes import COMMON_WORDS, SILENCE, VOWELS, join_phonemes, of_words
from possm.data.recording import Recording
from possm.data.series import Binned
from possm.data.simulate import check_numbers, session_facts, sessions_of, stream
from possm.data.speech_channels import LAG_S, SpeechChannels, SpeechDrift, speech_channels
from possm.data.trial_splits import split_trials

_TALKING, _NOISE, _COUNTS, _POWER, _SPLIT = range(200, 205)  # random streams of their own, see `simulate`

SPEED = 10.0
"""One unit of the velocity latents, per second."""
EDGE_S = 0.3  # a trial begins this much before the first phoneme and ends this much after the last
PAUSE_S = 0.7  # between two trials
SENTENCES_A_BLOCK = 20
RELATIVE_TIME = {"vowel": 1.25, "consonant": 0.85, "silence": 0.5}  # of `SpeechConfig.phoneme_s`


@dataclass(frozen=True, kw_only=True)
class SpeechConfig:
    """What to simulate."""

    task: Literal["speech"] = "speech"
    num_sentences: int = 40
    """Sentences in a session."""
    min_sentence_s: float = 2.0
    """Trials are at least this long ..."""
    max_sentence_s: float = 18.0
    """... and at most this long; the logarithm of their length is spread evenly between the two."""
    phoneme_s: float = 0.18
    """Mean time of a phoneme; attempted speech is slow."""
    rate_spread: float = 0.15
    """Standard deviation of the logarithm of the speaking rate, from sentence to sentence."""
    duration_spread: float = 0.25
    """The same of each phoneme inside a sentence."""
    num_units: int = 256
    """Channels; the first half is in area 6v and knows of articulators, the others know little."""
    bin_ms: float = 20.0
    """Width of the bins of counts and power."""
    mean_rate_hz: float = 20.0
    """Mean count rate over channels."""
    tuning: float = 1.0
    """Factor on everything articulators do to the rates."""
    noise: float = 0.15
    """Deviation of the log rates that channels share: a fluctuation (0.2 s), and as much arousal (20 s)."""
    private_noise: float = 0.1
    """Deviation of each channel's own slow change of log rate within a session (two minutes)."""
    power_noise: float = 1.0
    """Deviation of the log spike-band power of a bin around what the rate says."""
    drift: SpeechDrift = field(default_factory=SpeechDrift)
    """What changes from one day to the next."""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Of the sentences, for train, valid and test."""
    name: str = "speech"
    """Begins every session and subject id; give simulations that are to be mixed different names."""

    def __post_init__(self) -> None:
        checks = {
            "num_sentences": (self.num_sentences >= 1, "1 or more"),
            "min_sentence_s": (self.min_sentence_s >= 2 * EDGE_S + 0.2, f"{2 * EDGE_S + 0.2} s or more"),
            "max_sentence_s": (
                self.min_sentence_s <= self.max_sentence_s < 100,
                "from min_sentence_s to 100",
            ),
            "phoneme_s": (0.02 <= self.phoneme_s <= 2, "0.02 to 2 s"),
            "num_units": (self.num_units >= 1, "1 or more"),
            "bin_ms": (1 <= self.bin_ms <= 100, "1 to 100 ms"),
            "mean_rate_hz": (1 <= self.mean_rate_hz <= 60, "1 to 60 Hz"),
            "name": (bool(self.name) and "/" not in self.name, "a word without a slash"),
        }
        for name in ("rate_spread", "duration_spread", "tuning", "noise", "private_noise", "power_noise"):
            value = getattr(self, name)
            checks[name] = (math.isfinite(value) and value >= 0, "0 or more")
        for name, (good, wanted) in checks.items():
            require(good, f"SpeechConfig.{name}", getattr(self, name), wanted)


@dataclass(frozen=True)
class Talking:
    """What was said in a session, exact at any time."""

    trials: Intervals
    """With the columns ``phonemes`` ("HH AY SIL ..."), ``text``, ``go_cue_time``, ``block``."""
    spoken: tuple[tuple[tuple[str, ...], np.ndarray, float], ...]
    """Phonemes, durations (s) and start (s) of each sentence."""

    def latents(self, times_s: np.ndarray) -> np.ndarray:
        """(times, 2 x articulators): positions away from rest, and velocities per `SPEED`, in the trials."""
        found = np.zeros((len(times_s), 2 * len(ARTICULATORS)))
        for (phonemes, duration_s, start_s), end_s in zip(self.spoken, self.trials.end_s, strict=True):
            first, last = np.searchsorted(times_s, (start_s - EDGE_S, end_s))
            position, velocity = articulate(phonemes, duration_s, times_s[first:last], start_s=start_s)
            found[first:last] = np.hstack([position - REST, velocity / SPEED])
        return found

    def attempt(self, times_s: np.ndarray) -> np.ndarray:
        """(times, 1): 1 while the person tries to speak, else 0."""
        return self.trials.contains(times_s)[:, None].astype(np.float64)


def simulate_speech(config: SpeechConfig, *, subject: int = 0, session: int = 0, seed: int = 0) -> Recording:
    """One day of one subject, in memory: counts, spike-band power, and ``trials`` with their ``phonemes``.

    Session k of a subject is k days of drift after session 0. The splits are whole sentences.
    """
    numbers = (seed, subject, session)
    truth = simulated_speech_channels(config, subject=subject, session=session, seed=seed)
    talking = simulated_talking(config, subject=subject, session=session, seed=seed)
    bin_s = config.bin_ms / 1000
    num_bins = math.ceil((float(talking.trials.end_s[-1]) + PAUSE_S) / bin_s)
    clock = BinClock(num_bins, bin_s, margin_s=max(map(abs, LAG_S)))
    rates = binned_rates(
        truth.channels,
        config.tuning * talking.latents(clock.around_s),
        config.tuning * talking.attempt(clock.times_s),
        clock=clock,
        noise=config.noise,
        slow_noise=config.private_noise,
        rng=stream(_NOISE, *numbers),
    )
    power = truth.power(rates, noise=config.power_noise, rng=stream(_POWER, *numbers))
    recording = Recording(
        session_id=f"{config.name}-s{subject:02d}-d{session:02d}",
        subject_id=f"{config.name}-s{subject:02d}",
        unit_ids=tuple(f"channel_{i:03d}" for i in range(config.num_units)),
        unit_columns={"electrode": np.arange(1, config.num_units + 1), "area": truth.area},
        binned=Binned(poisson_counts(rates, bin_s, stream(_COUNTS, *numbers)), 0.0, 1 / bin_s),
        features={"power": Binned(power.astype(np.float32), 0.0, 1 / bin_s)},
        intervals={"trials": talking.trials},
        domain=Intervals.of([(0.0, num_bins * bin_s)]),
        attributes=session_facts(config, *numbers, task="attempted_speech"),
    )
    return split_trials(recording, fractions=config.fractions, rng=stream(_SPLIT, *numbers))


def simulate_speech_dataset(
    config: SpeechConfig, *, num_subjects: int = 1, num_sessions: int = 1, seed: int = 0
) -> Iterator[Recording]:
    """`num_sessions` days in all, divided over the subjects as evenly as can be, one after the other."""
    return (
        simulate_speech(config, subject=subject, session=day, seed=seed)
        for subject, day in sessions_of(num_subjects, num_sessions)
    )


def simulated_speech_channels(
    config: SpeechConfig, *, subject: int = 0, session: int = 0, seed: int = 0
) -> SpeechChannels:
    """The ground truth of a day: what each channel reads, in row order."""
    check_numbers(seed=seed, subject=subject, session=session)
    return speech_channels(
        config.num_units,
        mean_rate_hz=config.mean_rate_hz,
        drift=config.drift,
        numbers=(seed, subject, session),
    )


def simulated_talking(config: SpeechConfig, *, subject: int = 0, session: int = 0, seed: int = 0) -> Talking:
    """The sentences of a day and when they were said."""
    check_numbers(seed=seed, subject=subject, session=session)
    rng = stream(_TALKING, seed, subject, session)
    bin_s = config.bin_ms / 1000
    rows, spoken, start_s = [], [], math.ceil(PAUSE_S / bin_s) * bin_s
    for number in range(config.num_sentences):
        words, phonemes, duration_s = draw_sentence(config, rng)
        lasts_s = math.ceil((duration_s.sum() + 2 * EDGE_S) / bin_s - 1e-9) * bin_s
        spoken.append((phonemes, duration_s, start_s + EDGE_S))
        row = (start_s, start_s + lasts_s, join_phonemes(phonemes), " ".join(words), start_s)
        rows.append((*row, number // SENTENCES_A_BLOCK))
        start_s = math.ceil((start_s + lasts_s + PAUSE_S) / bin_s) * bin_s
    names = ("start", "end", "phonemes", "text", "go_cue_time", "block")
    columns = dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))
    return Talking(Intervals(columns.pop("start"), columns.pop("end"), columns), tuple(spoken))


def draw_sentence(
    config: SpeechConfig, rng: np.random.Generator
) -> tuple[list[str], tuple[str, ...], np.ndarray]:
    """Words, phonemes, and their durations (s); together as long as the configuration allows."""
    vocabulary = list(COMMON_WORDS)
    least_s, most_s = config.min_sentence_s - 2 * EDGE_S, config.max_sentence_s - 2 * EDGE_S
    wanted_s = math.exp(rng.uniform(math.log(config.min_sentence_s), math.log(config.max_sentence_s)))
    rate = math.exp(config.rate_spread * rng.standard_normal())
    words: list[str] = []
    while not words or (_usual_s(words) * config.phoneme_s / rate).sum() < wanted_s - 2 * EDGE_S:
        words.append(vocabulary[rng.integers(len(vocabulary))])
    usual_s = _usual_s(words) * config.phoneme_s / rate
    duration_s = usual_s * np.exp(config.duration_spread * rng.standard_normal(len(usual_s)))
    total_s = float(duration_s.sum())
    duration_s *= min(max(total_s, least_s), most_s) / total_s
    return words, _said(words), duration_s


def _said(words: list[str]) -> tuple[str, ...]:
    return of_words(COMMON_WORDS[word] for word in words)


def _usual_s(words: list[str]) -> np.ndarray:
    """Relative time of each phoneme of a sentence."""
    kinds = ("silence" if p == SILENCE else "vowel" if p in VOWELS else "consonant" for p in _said(words))
    return np.array([RELATIVE_TIME[kind] for kind in kinds])
