"""Decode held-out stretches causally, chunk by chunk with the state carried, and score what comes out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from possm.batch import Batch, State
from possm.checkpoint import Decoder
from possm.data.chunks import collate, query_chunks
from possm.data.loader import SampleMaker
from possm.data.recording import Intervals, Recording
from possm.data.windows import Window, snap_to_bins
from possm.errors import ConfigError, RecordingError
from possm.evaluation.metrics import r2_per_dimension

logger = logging.getLogger(__name__)

BLOCK_CHUNKS = 600
"""Chunks decoded per call: bounds the memory of a long stretch, changes nothing else."""
WARMUP_S = 5.0
"""A stretch is decoded from this much before its start, as far as the domain reaches without a cut: a live
decoder has been running too. 0 starts every stretch with an empty state."""


@dataclass(frozen=True)
class Decoded:
    """A behavior, decoded."""

    times_s: np.ndarray
    """(n,) float64."""
    values: np.ndarray
    """(n, D) in physical units."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One row of scores.json."""

    session: str
    behavior: str
    split: str
    r2: float
    """Uniform mean over dimensions."""
    r2_per_dimension: list[float]
    seconds: float
    """Length of the scored stretches."""
    chunks: int
    """Chunks in them."""
    r2_wiener: float | None = None
    """Of a Wiener filter on the same samples; None if it was not asked for or could not be fitted."""

    def to_json(self) -> dict[str, object]:
        """The row."""
        return asdict(self)


def decode(
    decoder: Decoder,
    recording: Recording,
    intervals: Intervals,
    *,
    times_s: Mapping[str, np.ndarray] | None = None,
    warmup_s: float = WARMUP_S,
) -> dict[str, Decoded]:
    """Decode a recording inside some intervals.

    Args:
        decoder: Trained on this session.
        recording: Of a session the decoder knows.
        intervals: Where; each is decoded on its own.
        times_s: Output times by behavior; None asks for all behaviors at their own samples.
        warmup_s: See WARMUP_S.

    Returns:
        By behavior. The first instants of an interval are missing where no chunk answers for them yet.

    Raises:
        CheckpointError: The decoder does not know the session.
        ConfigError: It does not decode a behavior that was asked.
    """
    asked = list(decoder.scaling if times_s is None else times_s)
    for name in asked:
        if name not in decoder.scaling:
            raise ConfigError(f"the decoder does not decode '{name}'", got=", ".join(decoder.scaling))
    decoder.vocabulary.session_row(recording.session_id)
    unknown = int((decoder.vocabulary.unit_rows(recording) < 0).sum())
    if unknown:
        about = (recording.name, unknown, recording.num_units)
        logger.warning("%s: the decoder does not know %d of %d units and leaves out their spikes", *about)
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in asked}
    for interval in intervals:
        for name, times, values in _decode_interval(decoder, recording, interval, times_s, warmup_s):
            parts[name].append((times, values))
    return {name: _join(part, len(decoder.scaling[name].mean)) for name, part in parts.items()}


def evaluate(
    decoder: Decoder,
    recording: Recording,
    *,
    split: str = "test",
    within: str | None = None,
    warmup_s: float = WARMUP_S,
) -> tuple[list[Score], dict[str, Decoded]]:
    """Score every behavior of the decoder on one split.

    Args:
        decoder: Trained on this session.
        recording: With the split and the behaviors.
        split: "train", "valid" or "test".
        within: Name of evaluation intervals (such as "movement_phases.reach_period"); only samples in them
            count. The whole split is decoded all the same.
        warmup_s: See WARMUP_S.

    Returns:
        A row per behavior, and what was decoded at the scored samples.
    """
    decoded = decode(decoder, recording, recording.split(split), warmup_s=warmup_s)
    scored = recording.split(split)
    if within is not None:
        scored = scored & evaluation_intervals(recording, within)
    scores, kept = [], {}
    for name, answer in decoded.items():
        inside = scored.contains(answer.times_s)
        kept[name] = Decoded(answer.times_s[inside], answer.values[inside])
        target = targets_at(recording, name, kept[name].times_s)
        each = r2_per_dimension(target, kept[name].values)
        seconds = scored.total_s
        scores.append(
            Score(
                session=recording.session_id,
                behavior=name,
                split=split,
                r2=float(np.mean(each)),
                r2_per_dimension=[float(value) for value in each],
                seconds=seconds,
                chunks=round(seconds / decoder.config.chunk_s),
            )
        )
    return scores, kept


def evaluation_intervals(recording: Recording, name: str) -> Intervals:
    """Named intervals; a RecordingError lists what there is."""
    if name not in recording.intervals:
        raise RecordingError(
            f"no intervals '{name}'", about=recording.name, got=", ".join(recording.intervals) or "none"
        )
    return recording.intervals[name]


def targets_at(recording: Recording, behavior: str, times_s: np.ndarray) -> np.ndarray:
    """The behavior's own samples at these times, which must be sample times: (n, D) float64."""
    signal = recording.behavior(behavior)
    rows = np.searchsorted(signal.times_s, times_s)
    return np.asarray(signal.values[:], np.float64)[rows]


@torch.inference_mode()
def _decode_interval(
    decoder: Decoder,
    recording: Recording,
    interval: tuple[float, float],
    times_s: Mapping[str, np.ndarray] | None,
    warmup_s: float,
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(behavior, times, physical values) block by block."""
    config, (begin_s, end_s) = decoder.config, interval
    maker = SampleMaker(
        recordings=[recording],
        vocabulary=decoder.vocabulary,
        scaling=decoder.scaling,
        session_scaling=decoder.session_scaling,
        chunk_ms=config.chunk_ms,
        lead_ms=config.effective_lead_ms,
    )
    origin_s = snap_to_bins(recording, _warm_start(recording, begin_s, warmup_s))
    num_chunks = int(np.ceil((end_s - origin_s) / config.chunk_s - 1e-9))
    edges_s = maker.edges_s(Window(0, origin_s, end_s), num_chunks)
    lead_s = config.effective_lead_ms / 1000
    names = decoder.scaling if times_s is None else times_s
    wanted = {name: _wanted(recording, name, interval, times_s) for name in names}
    answering = {name: query_chunks(t, edges_s, lead_s=lead_s)[0] for name, t in wanted.items()}
    scaling = decoder.scaling_of(recording.session_id)
    state: State | None = None
    tables = decoder.model.eval().tables()
    for first in range(0, num_chunks, BLOCK_CHUNKS):
        last = min(first + BLOCK_CHUNKS, num_chunks)
        asked = {name: t[(answering[name] >= first) & (answering[name] < last)] for name, t in wanted.items()}
        window = Window(0, origin_s, end_s, first)
        batch = collate([maker.sample_at(window, num_chunks=last - first, times_s=asked)])
        answers, state = _step(decoder, batch, state, tables)
        for name, answer in answers.items():
            yield name, asked[name], scaling[name].invert(answer)


def _step(
    decoder: Decoder, batch: Batch, state: State | None, tables: Any
) -> tuple[dict[str, np.ndarray], State]:
    device = decoder.device
    answers, state = decoder.model(batch.to(lambda x: torch.from_numpy(x).to(device)), state, tables)
    return {name: answer.cpu().numpy() for name, answer in answers.items()}, state


def _warm_start(recording: Recording, begin_s: float, warmup_s: float) -> float:
    """`warmup_s` before a time, but not before the domain interval that holds it."""
    for start_s, end_s in recording.domain:
        if start_s <= begin_s < end_s:
            return max(start_s, begin_s - warmup_s)
    return begin_s


def _wanted(
    recording: Recording,
    behavior: str,
    interval: tuple[float, float],
    times_s: Mapping[str, np.ndarray] | None,
) -> np.ndarray:
    if times_s is None:
        return recording.behavior(behavior).slice(*interval).times_s
    times = np.asarray(times_s[behavior], np.float64)
    return times[(times >= interval[0]) & (times < interval[1])]


def _join(parts: Sequence[tuple[np.ndarray, np.ndarray]], num_dimensions: int) -> Decoded:
    if not parts:
        return Decoded(np.zeros(0), np.zeros((0, num_dimensions), np.float32))
    return Decoded(np.concatenate([t for t, _ in parts]), np.concatenate([v for _, v in parts]))
