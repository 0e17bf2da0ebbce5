"""A decoder against the honest yardstick: scores beside those of a Wiener filter, as JSON and as a report."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from possm.baselines.wiener import WienerConfig, fit_wiener
from possm.checkpoint import Decoder
from possm.data.checks import check_recording
from possm.data.files import atomic_path
from possm.data.recording import Recording
from possm.errors import PossmError
from possm.evaluation.answers import TrialAnswers
from possm.evaluation.metrics import r2
from possm.evaluation.report import Raster, ReportData, Trace, write_report
from possm.evaluation.score import (
    TRIAL_WARMUP_S,
    WARMUP_S,
    Decoded,
    Score,
    evaluate,
    evaluation_intervals,
    targets_at,
)

logger = logging.getLogger(__name__)

RASTER_S = 10.0
"""Length of the stretch whose spikes the report draws."""


@dataclass(frozen=True)
class Assessment:
    """Scores, and what was decoded beside what was true."""

    scores: list[Score] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)
    trials: list[TrialAnswers] = field(default_factory=list)
    """Of categories, what was answered in every trial."""
    warnings: list[str] = field(default_factory=list)
    """What is odd about the recordings, and why a Wiener filter is missing."""

    def table(self) -> str:
        """The scores as lines of text, and their mean and SD where there are several sessions."""
        head = f"{'session':<28} {'behavior':<14} {'split':<6} {'R2':>7} {'Wiener':>7}  per dimension"
        moving = [score for score in self.scores if score.measure == "r2"]
        lines = [head, *map(_line, moving)] if moving else []
        for name in dict.fromkeys(score.behavior for score in moving):
            each = [score.r2 for score in self.scores if score.behavior == name]
            theirs = [s.r2_wiener for s in self.scores if s.behavior == name and s.r2_wiener is not None]
            if len(each) > 1:
                wiener = f"{np.mean(theirs):7.3f}" if len(theirs) == len(each) else "      -"
                lines.append(
                    f"{'mean of ' + str(len(each)):<28} {name:<14} {'':<6} {np.mean(each):7.3f} {wiener}"
                    f"  SD over sessions {np.std(each):.3f}"
                )
        return "\n".join([*lines, *_class_lines(self.scores), *_sequence_lines(self.scores)])


def assess(
    decoder: Decoder,
    recordings: Sequence[Recording],
    *,
    split: str = "test",
    within: str | None = None,
    warmup_s: float = WARMUP_S,
    trial_warmup_s: float = TRIAL_WARMUP_S,
    wiener: bool = True,
) -> Assessment:
    """Score a decoder on recordings, with a Wiener filter fitted on the same split beside it.

    The Wiener filter keeps the decoder's causality rule: strictly causal if `lead_ms` >= `chunk_ms`.
    """
    out = Assessment()
    for recording in recordings:
        out.warnings.extend(f"{recording.name}: {warning}" for warning in _oddities(decoder, recording))
        starts: dict[str, Any] = {"warmup_s": warmup_s, "trial_warmup_s": trial_warmup_s}
        scores, decoded = evaluate(decoder, recording, split=split, within=within, **starts)
        for score in scores:
            if score.accuracy is not None:
                answers = decoded[score.behavior].trials
                out.scores.append(score)
                out.trials.extend([] if answers is None else [answers])
                continue
            if score.per is not None:
                out.scores.append(score)
                continue
            yardstick = None
            if wiener:
                try:
                    yardstick = _wiener(decoder, recording, score, decoded[score.behavior], within)
                except PossmError as error:
                    out.warnings.append(f"no Wiener filter for {score.session}, {score.behavior}: {error}")
            trace = _trace(decoder, recording, score, decoded[score.behavior], yardstick)
            if yardstick is not None:
                score = replace(score, r2_wiener=r2(trace.target, yardstick))
            out.scores.append(score)
            out.traces.append(trace)
    return out


def write_assessment(
    assessment: Assessment,
    out: str | Path,
    *,
    decoder: Decoder,
    recording: Recording | None = None,
    training: Sequence[dict[str, Any]] = (),
    latency: dict[str, float] | None = None,
    provenance: dict[str, Any] | None = None,
) -> Path:
    """Write scores.json and report.html into a folder; returns the path of the report.

    Args:
        assessment: What `assess` made.
        out: The folder.
        decoder: What was scored.
        recording: The first one scored, to draw its spikes.
        training: Rows of metrics.jsonl.
        latency: Times by name and unit.
        provenance: More facts for the report.
    """
    out = Path(out)
    rows = [score.to_json() for score in assessment.scores]
    with atomic_path(out / "scores.json") as temporary:
        temporary.write_text(json.dumps([_finite(row) for row in rows], indent=1))
    data = ReportData(
        rows=rows,
        convention="strict" if decoder.config.strictly_causal else "paper",
        title="Decoding report",
        traces=assessment.traces,
        trials=assessment.trials,
        raster=None if recording is None else _raster(recording, assessment),
        training=training,
        latency=latency or {},
        provenance={
            "decoder": decoder.hash,
            **(provenance or {}),
            **{key: decoder.provenance[key] for key in ("files", "training") if key in decoder.provenance},
        },
    )
    return write_report(out / "report.html", data)


def _oddities(decoder: Decoder, recording: Recording) -> list[str]:
    """What `check_recording` warns of, and behaviors in another physical unit than the decoder's."""
    warnings = check_recording(recording)
    for name, scaling in decoder.scaling_of(recording.session_id).items():
        unit = recording.behavior(name).unit
        if unit and scaling.unit and unit != scaling.unit:
            warnings.append(f"{name} is in {unit}, but the decoder answers in {scaling.unit}")
    return warnings


def _wiener(
    decoder: Decoder, recording: Recording, score: Score, decoded: Decoded, within: str | None
) -> np.ndarray:
    config = WienerConfig(strict=decoder.config.strictly_causal)
    selection = None if within is None else evaluation_intervals(recording, within)
    fitted = fit_wiener(recording, score.behavior, config, selection=selection)
    times_s, values = fitted.decode(recording, recording.split(score.split))
    rows = np.minimum(np.searchsorted(times_s, decoded.times_s), max(0, len(times_s) - 1))
    missing = len(times_s) == 0 or not np.array_equal(times_s[rows], decoded.times_s)
    return np.full_like(decoded.values, np.nan) if missing else values[rows]


def _trace(
    decoder: Decoder, recording: Recording, score: Score, decoded: Decoded, yardstick: np.ndarray | None
) -> Trace:
    return Trace(
        session=score.session,
        behavior=score.behavior,
        times_s=decoded.times_s,
        target=targets_at(recording, score.behavior, decoded.times_s),
        prediction=decoded.values,
        wiener=yardstick,
        unit=decoder.scaling_of(score.session)[score.behavior].unit,
    )


def _raster(recording: Recording, assessment: Assessment) -> Raster | None:
    """The spikes in the middle of what was scored of this recording."""
    shown: list[Trace | TrialAnswers] = [*assessment.traces, *assessment.trials]
    mine = [t for t in shown if t.session == recording.session_id and len(t.times_s)]
    if not mine:
        return None
    start_s = float(mine[0].times_s[len(mine[0].times_s) // 2])
    times_s, unit, _ = recording.tokens(start_s, start_s + RASTER_S)
    return Raster(
        session=recording.session_id,
        times_s=times_s,
        unit=unit,
        num_units=recording.num_units,
        start_s=start_s,
        end_s=start_s + RASTER_S,
    )


def _line(score: Score) -> str:
    wiener = "      -" if score.r2_wiener is None else f"{score.r2_wiener:7.3f}"
    each = "  ".join(f"{value:.3f}" for value in score.r2_per_dimension)
    return f"{score.session:<28} {score.behavior:<14} {score.split:<6} {score.r2:7.3f} {wiener}  {each}"


def _class_lines(scores: Sequence[Score]) -> list[str]:
    mine = [score for score in scores if score.accuracy is not None]
    lines = [f"{'session':<28} {'behavior':<20} {'split':<6} accuracy  trials"] if mine else []
    for s in mine:
        counted = "-" if s.trials is None else str(s.trials)
        lines.append(f"{s.session:<28} {s.behavior:<20} {s.split:<6} {100 * s.value:6.1f} %  {counted:>6}")
    for name in dict.fromkeys(score.behavior for score in mine):
        each = [100 * score.value for score in mine if score.behavior == name]
        if len(each) > 1:
            of = f"mean of {len(each)}"
            spread = f"SD over sessions {np.std(each):.1f}"
            lines.append(f"{of:<28} {name:<20} {'':<6} {np.mean(each):6.1f} %  {spread}")
    return lines


def _sequence_lines(scores: Sequence[Score]) -> list[str]:
    mine = [score for score in scores if score.per is not None]
    lines = [f"{'session':<28} {'behavior':<20} {'split':<6} error rate  trials"] if mine else []
    return lines + [
        f"{s.session:<28} {s.behavior:<20} {s.split:<6} {-100 * s.value:8.1f} %  {s.trials:>6}" for s in mine
    ]


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: an undefined score is null."""

    def clean(value: Any) -> Any:
        if isinstance(value, list):
            return [clean(item) for item in value]
        return None if isinstance(value, float) and not np.isfinite(value) else value

    return {key: clean(value) for key, value in row.items()}
