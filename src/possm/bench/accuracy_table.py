"""Rows of accuracy as Markdown and as a figure: means and SDs over recordings and seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from possm.bench.jobs import OK, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COSTS = {
    "parameters": ("parameters", "{:,.0f}"),
    "train_s": ("training s", "{:,.0f}"),
    "step_ms": ("step ms", "{:.2f}"),
}
"""Key of a row -> its column and how a number there is written."""
NONE = "–"


def accuracy_markdown(rows: Sequence[Row], groups: Mapping[str, str]) -> str:
    """The table, the same by recording where there are several, and what has failed.

    Args:
        rows: As `run_trials` makes them.
        groups: Recording -> the group it is averaged in.
    """
    seeds = ", ".join(map(str, distinct(row["seed"] for row in rows)))
    parts = [
        f"R2 on held-out data, mean ± SD over recordings and seeds ({seeds}). The value at t is decoded from "
        "spikes before t only; weights and settings are chosen on validation data. Parameters, training time "
        "and time of a live step on one thread are medians.",
        _means(rows, groups),
    ]
    if len(distinct(row["recording"] for row in rows)) > len(distinct(groups[r["recording"]] for r in rows)):
        parts += ["Each recording, mean over seeds:", _by_recording(rows)]
    return "\n\n".join(parts + failures(rows))


def _means(rows: Sequence[Row], groups: Mapping[str, str]) -> str:
    columns = {_column_name(part): part for part in _columns(rows, groups)}
    decoders = distinct(row["decoder"] for row in rows)
    best = {name: max(_mean(_of(part, decoder)) for decoder in decoders) for name, part in columns.items()}
    lines = [
        [
            decoder,
            *(_cell(_of(part, decoder), best[name]) for name, part in columns.items()),
            *costs(_of(rows, decoder)),
        ]
        for decoder in decoders
    ]
    return markdown(["decoder", *columns, *cost_names()], lines)


def _by_recording(rows: Sequence[Row]) -> str:
    decoders = distinct(row["decoder"] for row in rows)
    lines = []
    for recording, behavior in distinct((row["recording"], row["behavior"]) for row in rows):
        mine = [row for row in rows if (row["recording"], row["behavior"]) == (recording, behavior)]
        means = [_mean([row for row in mine if row["decoder"] == decoder]) for decoder in decoders]
        lines.append([recording, behavior, *(_emphasised(f"{m:.3f}", m, max(means)) for m in means)])
    return markdown(["recording", "behavior", *decoders], lines)


def failures(rows: Sequence[Row], names: Sequence[str] = ("recording", "decoder")) -> list[str]:
    """A paragraph that lists every trial without a score and its cause; nothing if there is none.

    Args:
        rows: Of any table with a seed and a status.
        names: What else says which trial it is.
    """
    missing = distinct(
        f"- {', '.join(str(row[name]) for name in names)}, seed {row['seed']}: {row['status']}"
        for row in rows
        if row["status"] != OK
    )
    return ["Without a score:", "\n".join(missing)] if missing else []


def costs(rows: Sequence[Row]) -> list[str]:
    """The medians of COSTS."""
    known = {key: [row[key] for row in rows if row[key] is not None] for key in COSTS}
    return [form.format(np.median(known[key])) if known[key] else NONE for key, (_, form) in COSTS.items()]


def cost_names() -> list[str]:
    """Heads of the columns of `costs`."""
    return [name for name, _ in COSTS.values()]


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table; a bar inside a cell would end it."""
    rule = ["---"] * len(head)
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in (head, rule, *lines)
    )


def distinct(values: Iterable[Any]) -> list[Any]:
    """Each value once, in the order of first appearance."""
    return list(dict.fromkeys(values))


def scores(rows: Iterable[Row]) -> np.ndarray:
    """R2 of the rows that have one."""
    return np.array([row["r2"] for row in rows if row["r2"] is not None], float)


def _mean(rows: Sequence[Row]) -> float:
    """Of the scores, if none is missing: what is left of a group cannot be compared with the whole of it."""
    known = scores(rows)
    return float(known.mean()) if len(known) == len(rows) > 0 else -np.inf


def _cell(rows: Sequence[Row], best: float) -> str:
    known = scores(rows)
    if not len(known):
        return NONE
    text = f"{known.mean():.3f}" + (f" ± {known.std():.3f}" if len(known) > 1 else "")
    if len(known) < len(rows):
        return f"{text} ({len(known)} of {len(rows)})"
    return _emphasised(text, _mean(rows), best)


def _emphasised(text: str, value: float, best: float) -> str:
    if not np.isfinite(value):
        return NONE
    return f"**{text}**" if value == best else text


def _columns(rows: Sequence[Row], groups: Mapping[str, str]) -> list[list[Row]]:
    """The rows of every group and behavior; each also names its group."""
    named = [{**row, "group": groups[row["recording"]]} for row in rows]
    keys = distinct((row["group"], row["behavior"]) for row in named)
    return [[row for row in named if (row["group"], row["behavior"]) == key] for key in keys]


def _column_name(rows: Sequence[Row]) -> str:
    number = len(distinct(row["recording"] for row in rows))
    name = f"{rows[0]['group']}, {rows[0]['behavior']}"
    return f"{name} ({number} recordings)" if number > 1 else name


def _of(rows: Sequence[Row], decoder: str) -> list[Row]:
    return [row for row in rows if row["decoder"] == decoder]


def accuracy_figure(rows: Sequence[Row], groups: Mapping[str, str]) -> Figure:
    """A panel per group and behavior: a dot for a recording's mean over seeds, a diamond for mean and SD."""
    from matplotlib.figure import Figure

    from possm.evaluation.figures import WIDTH, style

    columns, decoders = _columns(rows, groups), distinct(row["decoder"] for row in rows)
    across = min(3, len(columns))
    down = math.ceil(len(columns) / across)
    with style():
        figure = Figure(figsize=(WIDTH, down * (1.0 + 0.26 * len(decoders))), layout="constrained")
        for number, part in enumerate(columns):
            axes = figure.add_subplot(down, across, number + 1)
            _panel(axes, part, decoders)
            axes.set_yticks(range(len(decoders)), decoders if number % across == 0 else [""] * len(decoders))
    return figure


def _panel(axes: Axes, rows: Sequence[Row], decoders: Sequence[str]) -> None:
    from possm.evaluation.figures import DECODED, TRUE

    for place, decoder in enumerate(decoders):
        mine = _of(rows, decoder)
        each = [
            scores(row for row in mine if row["recording"] == recording)
            for recording in distinct(row["recording"] for row in mine)
        ]
        dots = [one.mean() for one in each if len(one)]
        axes.plot(dots, [place] * len(dots), "o", color=DECODED, markersize=3, alpha=0.4)
        known = scores(mine)
        if len(known):
            axes.errorbar(known.mean(), place, xerr=known.std(), fmt="D", color=TRUE, markersize=4, capsize=3)
    axes.set_title(_column_name(rows), fontsize=9)
    axes.set_ylim(len(decoders) - 0.5, -0.5)
    axes.set_xlim(left=max(-0.2, axes.get_xlim()[0]))  # one that is far off would squeeze all the others
    axes.set_xlabel("R2")
