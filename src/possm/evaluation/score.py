"""Decode held-out stretches causally, chunk by chunk with the state carried, and score what comes out."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from possm.batch import Batch, State
from possm.checkpoint import Decoder
from possm.data.chunks import class_times, collate, query_chunks
from possm.data.labels import as_labels, class_numbers, has_behavior
from possm.data.loader import SampleMaker
from possm.data.recording import Intervals, Recording
from possm.data.windows import Window, warm_start
from possm.errors import ConfigError, RecordingError
from possm.evaluation.answers import TrialAnswers
from possm.evaluation.metrics import accuracy, r2_per_dimension
from possm.evaluation.sequences import SequenceAnswers, decode_sequences
from possm.evaluation.trials import decode_trials, scored_trials

logger = logging.getLogger(__name__)

BLOCK_CHUNKS = 600
"""Chunks decoded per call: bounds the memory of a long stretch, changes nothing else."""
WARMUP_S = 5.0
"""A stretch is decoded from this much before its start, as far as the domain reaches without a cut: a live
decoder has been running too. 0 starts every stretch with an empty state."""
TRIAL_WARMUP_S = 0.0
"""The same for the trials of a category: by default each starts with an empty state, as in the paper."""
MEASURES = {
    "r2": "R2",
    "accuracy": "accuracy",
    "minus_error_rate": "minus symbol error rate",
    "score": "score",
}
"""What `Score.value` may be, and how it is written; a mean over several of them is a "score"."""
OF_CATEGORIES = ("accuracy", "trials", "evolving")
"""Fields of a score that only a category has."""


@dataclass(frozen=True)
class Decoded:
    """A behavior, decoded."""

    times_s: np.ndarray
    """(n,) float64."""
    values: np.ndarray
    """(n, D) in physical units; of a category, probabilities."""
    trials: TrialAnswers | None = None
    """Of a category that is scored by trials: which answer is of which."""
    sequences: SequenceAnswers | None = None
    """Of a sequence, trial by trial."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One row of scores.json."""

    session: str
    behavior: str
    split: str
    r2: float
    """Uniform mean over dimensions; NaN for a category."""
    r2_per_dimension: list[float]
    seconds: float
    """Length of the scored stretches."""
    chunks: int
    """Chunks in them."""
    accuracy: float | None = None
    """Of a category: share of the trials decided rightly at their end, or of the samples; 0 to 1."""
    trials: int | None = None
    """Of a category that is scored by trials, and of a sequence: how many."""
    evolving: dict[str, list[float]] | None = None
    """Of such a category: "accuracy" at "time_s" after a trial's start, and how many "trials" still run."""
    per: float | None = None
    """Of a sequence: symbols inserted, left out or exchanged over those said, of all trials; with phonemes,
    the phoneme error rate."""
    r2_wiener: float | None = None
    """Of a Wiener filter on the same samples; None if it was not asked for or could not be fitted."""

    @property
    def measure(self) -> str:
        """Which of MEASURES it is."""
        if self.per is not None:
            return "minus_error_rate"
        return "r2" if self.accuracy is None else "accuracy"

    @property
    def value(self) -> float:
        """What selects weights, higher is better: R2, accuracy, or minus the error rate of a sequence."""
        if self.per is not None:
            return -self.per
        return self.r2 if self.accuracy is None else self.accuracy

    def to_json(self) -> dict[str, object]:
        """The row; what is said of categories only is left out of other behaviors."""
        left_out: tuple[str, ...] = OF_CATEGORIES if self.accuracy is None and self.per is None else ()
        left_out += ("per",) if self.per is None else ()
        return {name: value for name, value in asdict(self).items() if name not in left_out}


def measure_of(scores: Sequence[Score]) -> str:
    """What the mean of their values is: "score" where they measure different things."""
    measures = {score.measure for score in scores}
    return measures.pop() if len(measures) == 1 else "score"


def decode(
    decoder: Decoder,
    recording: Recording,
    intervals: Intervals,
    *,
    times_s: Mapping[str, np.ndarray | None] | None = None,
    warmup_s: float = WARMUP_S,
) -> dict[str, Decoded]:
    """Decode a recording inside some intervals.

    Args:
        decoder: Trained on this session.
        recording: Of a session the decoder knows.
        intervals: Where; each is decoded on its own.
        times_s: Output times by behavior; None asks for all behaviors at their own samples, and for classes
            of trials once per chunk.
        warmup_s: See WARMUP_S.

    Returns:
        By behavior. The first instants of an interval are missing where no chunk answers for them yet.

    Raises:
        CheckpointError: The decoder does not know the session.
        ConfigError: It does not decode a behavior that was asked.
    """
    behaviors = decoder.config.behaviors
    asked = [n for n in behaviors if n not in decoder.sequences] if times_s is None else list(times_s)
    for name in asked:
        if name not in behaviors:
            raise ConfigError(f"the decoder does not decode '{name}'", got=", ".join(behaviors))
    decoder.vocabulary.session_row(recording.session_id)
    unknown = int((decoder.vocabulary.unit_rows(recording) < 0).sum())
    if unknown:
        about = (recording.name, unknown, recording.num_units)
        logger.warning("%s: the decoder does not know %d of %d units and leaves out their spikes", *about)
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in asked}
    for interval in intervals:
        for name, times, values in _decode_interval(decoder, recording, interval, times_s, warmup_s):
            parts[name].append((times, values))
    return {name: _join(part, behaviors[name].num_dimensions) for name, part in parts.items()}


def evaluate(
    decoder: Decoder,
    recording: Recording,
    *,
    split: str = "test",
    within: str | None = None,
    warmup_s: float = WARMUP_S,
    trial_warmup_s: float = TRIAL_WARMUP_S,
    behaviors: Sequence[str] | None = None,
    limit_s: float | None = None,
) -> tuple[list[Score], dict[str, Decoded]]:
    """Score every behavior of the decoder on one split.

    Args:
        decoder: Trained on this session.
        recording: With the split and the behaviors.
        split: "train", "valid" or "test".
        within: Name of evaluation intervals (such as "movement_phases.reach_period"); only samples in them
            count. The whole split is decoded all the same. Of a category, trials are cut to them, and only
            that is decoded.
        warmup_s: See WARMUP_S.
        trial_warmup_s: See TRIAL_WARMUP_S.
        behaviors: What is scored; None is all that the decoder decodes and the recording has: a decoder may
            have learned others from other sessions.
        limit_s: Score no more than so many seconds, spread over the split; None is all of it. It does not
            limit classes of trials.

    Returns:
        A row per behavior, and what was decoded at the scored samples.

    Raises:
        RecordingError: The split or the intervals are not there, or a category has a label of no class.
    """
    part = recording.split(split) if limit_s is None else recording.split(split).thin(limit_s)
    selection = None if within is None else evaluation_intervals(recording, within)
    scored = part if selection is None else part & selection
    names = _there(decoder, recording) if behaviors is None else behaviors
    by_trial = [name for name in decoder.classes if name not in recording.signals]
    sampled = {name: None for name in names if name not in by_trial and name not in decoder.sequences}
    decoded: dict[str, Decoded] = {}
    if sampled:
        decoded = decode(decoder, recording, part, times_s=sampled, warmup_s=warmup_s)
    scores, kept = [], {}
    for name in names:
        if name in decoder.sequences:
            said = decode_sequences(decoder, recording, name, split=split)
            kept[name] = Decoded(np.zeros(0), np.concatenate(said.probabilities), sequences=said)
            measured, seconds = _by_sentence(said), said.seconds
        elif name in by_trial:
            known = scored_trials(recording, name, decoder.classes[name], split=split, within=selection)
            answers = decode_trials(decoder, recording, name, known, warmup_s=trial_warmup_s)
            kept[name] = Decoded(answers.times_s, answers.probabilities, answers)
            measured, seconds = _by_trial(answers), known.trials.total_s
        else:
            inside = scored.contains(decoded[name].times_s)
            kept[name] = Decoded(decoded[name].times_s[inside], decoded[name].values[inside])
            measured, seconds = _by_sample(decoder, recording, name, kept[name]), scored.total_s
        scores.append(
            Score(
                session=recording.session_id,
                behavior=name,
                split=split,
                seconds=seconds,
                chunks=round(seconds / decoder.config.chunk_s),
                **measured,
            )
        )
    return scores, kept


def _there(decoder: Decoder, recording: Recording) -> list[str]:
    """The behaviors a recording can be scored on; all where it has none, for the error that names them."""
    names = list(decoder.config.behaviors)
    there = [name for name in names if name in decoder.sequences or has_behavior(recording, name)]
    for name in set(names) - set(there) if there else ():
        logger.warning("%s: no behavior '%s', which is not scored", recording.name, name)
    return there or names


def _by_sample(decoder: Decoder, recording: Recording, name: str, decoded: Decoded) -> dict[str, Any]:
    target = targets_at(recording, name, decoded.times_s)
    if name not in decoder.classes:
        each = r2_per_dimension(target, decoded.values)
        return {"r2": float(np.mean(each)), "r2_per_dimension": [float(value) for value in each]}
    number = class_numbers(as_labels(target), decoder.classes[name], about=f"{recording.name}, '{name}'")
    known = number >= 0
    right = accuracy(number[known], decoded.values[known].argmax(axis=1))
    return {"r2": math.nan, "r2_per_dimension": [], "accuracy": right}


def _by_trial(answers: TrialAnswers) -> dict[str, Any]:
    time_s, right, running = answers.evolving()
    evolving = {"time_s": time_s.tolist(), "accuracy": right.tolist(), "trials": running.tolist()}
    measured = {"accuracy": answers.accuracy, "trials": len(answers.trials), "evolving": evolving}
    return {"r2": math.nan, "r2_per_dimension": [], **measured}


def _by_sentence(answers: SequenceAnswers) -> dict[str, Any]:
    rate, number = answers.error_rate(), len(answers.sentences)
    return {"r2": math.nan, "r2_per_dimension": [], "per": rate, "trials": number}


def evaluation_intervals(recording: Recording, name: str) -> Intervals:
    """Named intervals; of several names with ``|`` between them, those of the first that the recording has,
    and ``*`` is its whole domain. A RecordingError lists what there is."""
    for choice in name.split("|"):
        if choice in recording.intervals:
            return recording.intervals[choice]
        if choice == "*":
            return recording.domain
    have = ", ".join(recording.intervals) or "none"
    raise RecordingError(f"no intervals '{name}'", about=recording.name, got=have)


def targets_at(recording: Recording, behavior: str, times_s: np.ndarray) -> np.ndarray:
    """The behavior's own samples at these times, which must be sample times: (n, D) float64."""
    signal = recording.behavior(behavior)
    if not len(times_s):
        return np.zeros((0, signal.num_dimensions))
    part = signal.slice(float(np.min(times_s)), float(np.nextafter(np.max(times_s), np.inf)))
    return np.asarray(part.values, np.float64)[np.searchsorted(part.times_s, times_s)]


@torch.inference_mode()
def _decode_interval(
    decoder: Decoder,
    recording: Recording,
    interval: tuple[float, float],
    times_s: Mapping[str, np.ndarray | None] | None,
    warmup_s: float,
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(behavior, times, physical values) block by block."""
    config, (begin_s, end_s) = decoder.config, interval
    maker = SampleMaker(
        recordings=[recording],
        vocabulary=decoder.vocabulary,
        scaling=decoder.scaling,
        session_scaling=decoder.session_scaling,
        inputs=decoder.inputs,
        chunk_ms=config.chunk_ms,
        lead_ms=config.effective_lead_ms,
    )
    origin_s = warm_start(recording, begin_s, warmup_s)
    num_chunks = int(np.ceil((end_s - origin_s) / config.chunk_s - 1e-9))
    edges_s = maker.edges_s(Window(0, origin_s, end_s), num_chunks)
    lead_s = config.effective_lead_ms / 1000
    by_chunk = [n for n in decoder.classes if times_s is None and n not in recording.signals]
    left_out = {*by_chunk, *decoder.sequences}
    names = [n for n in (config.behaviors if times_s is None else times_s) if n not in left_out]
    wanted = {name: _wanted(recording, name, interval, times_s) for name in names}
    wanted |= dict.fromkeys(by_chunk, class_times(edges_s, interval, lead_s=lead_s))
    answering = {name: query_chunks(t, edges_s, lead_s=lead_s)[0] for name, t in wanted.items()}
    session = recording.session_id
    state: State | None = None
    tables = decoder.model.eval().tables()
    for first in range(0, num_chunks, BLOCK_CHUNKS):
        last = min(first + BLOCK_CHUNKS, num_chunks)
        asked = {name: t[(answering[name] >= first) & (answering[name] < last)] for name, t in wanted.items()}
        window = Window(0, origin_s, end_s, first)
        batch = collate([maker.sample_at(window, num_chunks=last - first, times_s=asked)])
        answers, state = _step(decoder, batch, state, tables)
        for name, answer in answers.items():
            yield name, asked[name], decoder.physical(session, name, answer)


def _step(
    decoder: Decoder, batch: Batch, state: State | None, tables: Any
) -> tuple[dict[str, np.ndarray], State]:
    device = decoder.device
    answers, state = decoder.model(batch.to(lambda x: torch.from_numpy(x).to(device)), state, tables)
    return {name: answer.cpu().numpy() for name, answer in answers.items()}, state


def _wanted(
    recording: Recording,
    behavior: str,
    interval: tuple[float, float],
    times_s: Mapping[str, np.ndarray | None] | None,
) -> np.ndarray:
    given = None if times_s is None else times_s[behavior]
    if given is None:
        return recording.behavior(behavior).slice(*interval).times_s
    times = np.asarray(given, np.float64)
    return times[(times >= interval[0]) & (times < interval[1])]


def _join(parts: Sequence[tuple[np.ndarray, np.ndarray]], num_dimensions: int) -> Decoded:
    if not parts:
        return Decoded(np.zeros(0), np.zeros((0, num_dimensions), np.float32))
    return Decoded(np.concatenate([t for t, _ in parts]), np.concatenate([v for _, v in parts]))
