"""The report: one HTML file that explains a score, with its figures inside it.

Everything comes in as plain data (rows of ``scores.json`` and ``metrics.jsonl``, arrays of traces), so that a
report can be written again without a decoder or a recording. The file holds no script and fetches nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from possm.data.files import atomic_path
from possm.errors import ConfigError
from possm.evaluation import figures
from possm.evaluation.answers import TrialAnswers
from possm.evaluation.class_report import class_headlines, class_sections, class_table, is_class_row
from possm.evaluation.figures import finite
from possm.evaluation.page import facts, image, page, table
from possm.evaluation.traces import Raster, Trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CONVENTIONS", "Raster", "ReportData", "Trace", "write_report"]

STRETCH_S = 20.0
MAX_TRACES = 8  # figures of single sessions; the tables and bars show all
MAX_BARS = 40  # sessions in one figure
CONVENTIONS = {
    "strict": (
        "strictly causal",
        "Strictly causal: the value at time t is decoded from spikes before t alone.",
    ),
    "paper": (
        "the paper's convention",
        "The paper's convention: the value at time t is decoded from the spikes up to the end of the chunk "
        "that holds t, so it sees up to one chunk of the future.",
    ),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class ReportData:
    """Everything a report shows. Only the rows are required; what is missing is left out."""

    rows: Sequence[Mapping[str, Any]]
    """Rows of ``scores.json``: session, behavior, split, r2, r2_per_dimension, r2_wiener, seconds, chunks; of
    categories accuracy and trials."""
    convention: str = "strict"
    """A key of `CONVENTIONS`: which spikes a value was decoded from."""
    title: str = "Decoding report"
    traces: Sequence[Trace] = ()
    trials: Sequence[TrialAnswers] = ()
    """Answers of the trials of categories."""
    raster: Raster | None = None
    training: Sequence[Mapping[str, Any]] = ()
    """Rows of ``metrics.jsonl``: step or epoch, train_loss, and valid_r2 or valid_accuracy."""
    latency: Mapping[str, float] = field(default_factory=dict)
    """By name with its unit, such as ``step_p50_ms``."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Whatever it takes to make the numbers again: decoder file and hash, config, seeds, date."""

    def __post_init__(self) -> None:
        if self.convention not in CONVENTIONS:
            raise ConfigError("unknown convention", got=self.convention, wanted=", ".join(CONVENTIONS))


def write_report(path: str | Path, data: ReportData) -> Path:
    """Write the report as one self-contained HTML file, and return its path. An older one is replaced."""
    with figures.style():
        classed = [row for row in data.rows if is_class_row(row)]
        data = replace(data, rows=[row for row in data.rows if not is_class_row(row)])
        moving = bool(data.rows) or not classed
        sections = [
            *class_headlines(classed),
            *(_headlines(data) if moving else ()),
            *([class_table(classed)] if classed else ()),
            *([_score_table(data), *_score_figures(data)] if moving else ()),
            *class_sections(data.trials),
            *_trace_figures(data),
            *_raster_figure(data),
            *_training_figure(data),
            *_latency(data),
            *_provenance(data),
        ]
    with atomic_path(path) as temporary:
        # A lone surrogate, from a file name that is not UTF-8, must not cost the report.
        temporary.write_bytes(page(data.title, sections).encode("utf-8", "replace"))
    return Path(path)


def _headlines(data: ReportData) -> Iterator[str]:
    """The number a lab wants first, for each behavior and split, and what it means."""
    short, long = CONVENTIONS[data.convention]
    for behavior, split in dict.fromkeys((str(r.get("behavior")), str(r.get("split"))) for r in data.rows):
        rows = [r for r in data.rows if (str(r.get("behavior")), str(r.get("split"))) == (behavior, split)]
        scores = [float(r["r2"]) for r in rows if finite(r.get("r2"))]
        number = f"{np.mean(scores):.3f}" if scores else "not defined"
        spread = f" &plusmn; {np.std(scores):.3f}" if len(scores) > 1 else ""
        seconds = sum(float(r["seconds"]) for r in rows if finite(r.get("seconds")))
        yield (
            f'<section class="headline"><p class="number">R<sup>2</sup> {number}<small>{spread}</small></p>'
            f"<p><b>{escape(behavior)}</b>, {escape(split)} split, {short}. {_versus(rows)}</p>"
            f"<p>{_meaning(rows, scores, split, seconds)} {long}</p></section>"
        )


def _versus(rows: Sequence[Mapping[str, Any]]) -> str:
    pairs = [(r["r2"], r["r2_wiener"]) for r in rows if finite(r.get("r2")) and finite(r.get("r2_wiener"))]
    if not pairs:
        return "No Wiener filter was fitted to compare with."
    ours, theirs = np.mean(np.array(pairs, float), axis=0)
    some = "" if len(pairs) == len(rows) else f" (over the {len(pairs)} sessions that have both)"
    return (
        f"A Wiener filter on the same split and under the same rule scores <b>{theirs:.3f}</b>; "
        f"the decoder is {abs(ours - theirs):.3f} {'above' if ours >= theirs else 'below'} it{some}."
    )


def _meaning(rows: Sequence[Mapping[str, Any]], scores: Sequence[float], split: str, seconds: float) -> str:
    over = "One session" if scores else "No session has a defined score"
    if len(scores) > 1:
        over = f"Mean and standard deviation over {len(scores)} sessions"
    undefined = len(rows) - len(scores)
    missing = f" ({undefined} without a defined score left out)" if undefined else ""
    held_out = ", which neither training nor model selection has seen" if split == "test" else ""
    return (
        f"{over}{missing}; {seconds:,.0f} s scored, all of the {escape(split)} split that lies in the "
        f"evaluation intervals{held_out}. R<sup>2</sup> is the share of the movement's variance that is "
        "decoded, averaged over its dimensions: 1 is perfect, 0 is no better than a constant."
    )


def _score_table(data: ReportData) -> str:
    names = {(trace.session, trace.behavior): trace.dimensions for trace in data.traces}
    keys = [(str(row.get("session")), str(row.get("behavior"))) for row in data.rows]
    body = [_score_row(row, names.get(key, ())) for row, key in zip(data.rows, keys, strict=True)]
    measures = ("R2", "R2 per dimension", "R2 Wiener", "difference", "seconds", "chunks")
    scores = table(
        ("session", "behavior", "split", *measures),
        body,
        classes={4: "w", **dict.fromkeys((3, 5, 6, 7, 8), "n")},
    )
    return f"<h2>Scores</h2>{scores}<p class=note>All figures: {CONVENTIONS[data.convention][0]}.</p>"


def _score_row(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    r2, wiener = row.get("r2"), row.get("r2_wiener")
    parts = row.get("r2_per_dimension")
    parts = list(parts) if parts is not None else []
    labels = [f"{name} " for name in names] if 1 < len(names) == len(parts) <= 3 else [""] * len(parts)
    return [
        *(str(row.get(key, "")) for key in ("session", "behavior", "split")),
        _number(r2),
        " · ".join(label + _number(part) for label, part in zip(labels, parts, strict=True)),
        _number(wiener, missing="-"),
        f"{r2 - wiener:+.3f}" if finite(r2) and finite(wiener) else "-",
        f"{row['seconds']:,.0f}" if finite(row.get("seconds")) else "-",
        f"{row['chunks']:,}" if finite(row.get("chunks")) else "-",
    ]


def _score_figures(data: ReportData) -> Iterator[str]:
    for first in range(0, len(data.rows), MAX_BARS):
        figure = figures.bars_figure(data.rows[first : first + MAX_BARS])
        yield _figure(figure, "R2 by session", "Longer is better. " + CONVENTIONS[data.convention][1])


def _trace_figures(data: ReportData) -> Iterator[str]:
    shown = [trace for trace in data.traces if len(trace.times_s)][:MAX_TRACES]
    if shown:
        yield "<h2>Decoded against true</h2>"
    if len(data.traces) > len(shown):
        yield f"<p class=note>The first {len(shown)} of {len(data.traces)} are drawn.</p>"
    for trace in shown:
        start_s, end_s, why = _stretch(trace, data.raster)
        name = f"{trace.session}, {trace.behavior}"
        note = f"{name}: {start_s:,.1f} to {end_s:,.1f} s, {why}.{_more(trace)}"
        yield _figure(figures.traces_figure(trace, start_s, end_s), "Decoded against true", note)
        note = (
            f"{name}: error over everything scored. A drift of the running median away from 0 means that the "
            "decoder's bias changes with time. The end bins of the histogram hold the outermost 0.1 %."
        )
        yield _figure(figures.residuals_figure(trace), "Residuals", note)


def _more(trace: Trace) -> str:
    number = len(trace.dimensions) - figures.MAX_DIMENSIONS
    return f" {number} further dimensions are not drawn." if number > 0 else ""


def _stretch(trace: Trace, raster: Raster | None) -> tuple[float, float, str]:
    """Start and end of what is drawn of a trace, and why: the stretch of the raster, else the middle."""
    if raster is not None and raster.session == trace.session:
        inside = trace.between(raster.start_s, raster.end_s)
        if len(inside.times_s) > 1:
            return raster.start_s, raster.end_s, "the stretch whose spikes are shown below"
    middle = float(trace.times_s[len(trace.times_s) // 2])
    first, last = float(trace.times_s[0]), float(trace.times_s[-1])
    start_s = max(first, min(middle - STRETCH_S / 2, last - STRETCH_S))
    end_s = min(start_s + STRETCH_S, last + 1e-6)
    return start_s, end_s, "the middle of what was scored, not chosen for its looks"


def _raster_figure(data: ReportData) -> Iterator[str]:
    if data.raster is None:
        return
    trace = next((trace for trace in data.traces if trace.session == data.raster.session), None)
    note = (
        f"{data.raster.session}: {len(data.raster.times_s):,} spikes or filled bins of "
        f"{data.raster.num_units} units between {data.raster.start_s:,.1f} and {data.raster.end_s:,.1f} s"
        + (", and the movement decoded from them." if trace is not None else ".")
    )
    yield "<h2>Spikes</h2>"
    yield _figure(figures.raster_figure(data.raster, trace), "Spikes and decoded movement", note)


def _training_figure(data: ReportData) -> Iterator[str]:
    if data.training:
        note = "Loss on the training windows and score on the validation split; the ring marks the best."
        yield "<h2>Training</h2>"
        yield _figure(figures.learning_figure(data.training), "Learning curves", note)


def _latency(data: ReportData) -> Iterator[str]:
    if data.latency:
        yield "<h2>Latency</h2>" + table(
            ("", "value"), [[name, f"{value:,.3f}"] for name, value in data.latency.items()], classes={1: "n"}
        )


def _provenance(data: ReportData) -> Iterator[str]:
    yield "<h2>Where these numbers come from</h2>"
    yield facts({"causality": CONVENTIONS[data.convention][1], **data.provenance})


def _figure(figure: Figure, name: str, note: str) -> str:
    return image(figures.to_png(figure), name, note)


def _number(value: Any, missing: str = "not defined") -> str:
    return f"{value:.3f}" if finite(value) else missing
