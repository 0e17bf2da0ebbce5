"""Rows of transfer as Markdown and as a figure: R2 against minutes of calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from possm.bench.accuracy_table import distinct, failures, markdown
from possm.bench.jobs import OK, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ADAPTED = "adapted (units or full)"
NONE = "–"


def with_choice(rows: Sequence[Row]) -> list[Row]:
    """The rows, and for every calibration the better of "units" and "full" by validation, as ADAPTED, which
    takes the time of both."""
    out, best = list(rows), dict[tuple[object, ...], Row]()
    spent = dict[tuple[object, ...], float]()
    for row in rows:
        mine = [other for other in rows if other["target"] == row["target"]]
        if row["mode"] in ("units", "full") and row["start"] == _first_start(mine) and row["status"] == OK:
            key = tuple(row[k] for k in ("target", "behavior", "minutes", "seed", "pretrain_sessions"))
            spent[key] = spent.get(key, 0.0) + row["adapt_s"]
            if key not in best or row["valid_r2"] > best[key]["valid_r2"]:
                best[key] = row
    return out + [{**row, "mode": ADAPTED, "adapt_s": spent[key]} for key, row in best.items()]


def transfer_markdown(rows: Sequence[Row]) -> str:
    """A table for every target and behavior, and what has failed."""
    if not rows:
        return "nothing is done yet"
    rows = with_choice(rows)
    seeds = ", ".join(map(str, distinct(row["seed"] for row in rows)))
    parts = [
        f"R2 on the test split, mean ± SD over seeds ({seeds}), against minutes of calibration. Weights and "
        f'"{ADAPTED}" are chosen by the last fifth of these minutes.'
    ]
    for target in distinct(row["target"] for row in rows):
        for behavior in distinct(row["behavior"] for row in rows):
            part = [r for r in rows if (r["target"], r["behavior"]) == (target, behavior)]
            parts += [f"**{target}, {behavior}**", _table(part)]
    return "\n\n".join(parts + failures(rows, ("target", "mode", "start", "pretrain_sessions", "minutes")))


def _table(rows: Sequence[Row]) -> str:
    minutes = sorted(distinct(row["minutes"] for row in rows))
    lines = []
    for name, part in curves(rows).items():
        cells = [_cell([r for r in part if r["minutes"] == length]) for length in minutes]
        took = [row["adapt_s"] for row in part if row["adapt_s"] is not None]
        lines.append([name, *cells, f"{np.median(took):.0f}" if took else NONE])
    gains = [_gain([row for row in rows if row["minutes"] == length]) for length in minutes]
    if any(gain is not None for gain in gains):
        texts = [NONE if gain is None else f"{gain:+.3f}" for gain in gains]
        lines.append(["gain of adapted over scratch", *texts, ""])
    return markdown(["decoder", *(f"{length:g} min" for length in minutes), "median s"], lines)


def _gain(rows: Sequence[Row]) -> float | None:
    """Mean difference of the adapted and the one from scratch of the same seed, of one length of calibration;
    of the decoder that was pretrained on most sessions."""
    most = max((row["pretrain_sessions"] for row in rows), default=0)
    pretrained = [row for row in rows if row["mode"] == ADAPTED and row["pretrain_sessions"] == most]
    adapted = {row["seed"]: row["r2"] for row in pretrained}
    alone = {row["seed"]: row["r2"] for row in rows if row["mode"] == "scratch" and row["r2"] is not None}
    both = adapted.keys() & alone.keys()
    return float(np.mean([adapted[seed] - alone[seed] for seed in both])) if both else None


def curves(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """What is compared: name -> its rows."""
    starts, numbers = distinct(r["start"] for r in rows), distinct(r["pretrain_sessions"] for r in rows)
    several = len([number for number in numbers if number]) > 1
    found: dict[str, list[Row]] = {}
    for row in rows:
        name = row["mode"]
        if row["start"] is not None and len([start for start in starts if start]) > 1 and name != ADAPTED:
            name += f", {row['start']} start"
        if row["pretrain_sessions"] and several:
            name += f", {row['pretrain_sessions']} sessions"
        found.setdefault(name, []).append(row)
    return found


def transfer_figure(rows: Sequence[Row]) -> Figure:
    """A panel for every target and behavior: mean over seeds, and a band of their range."""
    from matplotlib.figure import Figure

    rows = with_choice(rows)
    targets, behaviors = distinct(r["target"] for r in rows), distinct(r["behavior"] for r in rows)
    figure = Figure(figsize=(4.2 * len(targets), 3.4 * len(behaviors)), layout="constrained")
    axes = figure.subplots(len(behaviors), len(targets), squeeze=False)
    for line, behavior in enumerate(behaviors):
        for column, target in enumerate(targets):
            part = [r for r in rows if (r["target"], r["behavior"]) == (target, behavior)]
            _draw(axes[line][column], part, f"{target}, {behavior}")
    axes[0][0].legend(fontsize=7)
    return figure


def sessions_figure(rows: Sequence[Row]) -> Figure:
    """A panel for every target and behavior: R2 of mode "units" against sessions of pretraining, a line for
    every length of calibration, and the range of seeds as a band."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["mode"] == "units" and row["r2"] is not None]
    rows = [
        row for row in rows if row["start"] == _first_start([r for r in rows if r["target"] == row["target"]])
    ]
    targets, behaviors = distinct(r["target"] for r in rows), distinct(r["behavior"] for r in rows)
    size = (4.2 * max(1, len(targets)), 3.4 * max(1, len(behaviors)))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(max(1, len(behaviors)), max(1, len(targets)), squeeze=False)
    for line, behavior in enumerate(behaviors):
        for column, target in enumerate(targets):
            part = [r for r in rows if (r["target"], r["behavior"]) == (target, behavior)]
            for minutes in sorted(distinct(row["minutes"] for row in part)):
                mine = [row for row in part if row["minutes"] == minutes]
                _line(axes[line][column], mine, "pretrain_sessions", f"{minutes:g} min")
            axes[line][column].set(title=f"{target}, {behavior}", ylabel="R2", xscale="log")
            axes[line][column].set_xlabel("sessions of pretraining")
            axes[line][column].legend(fontsize=7)
    return figure


def _draw(axes: Axes, rows: Sequence[Row], title: str) -> None:
    for name, part in curves(rows).items():
        _line(axes, [row for row in part if row["r2"] is not None], "minutes", name)
    axes.set(title=title, xlabel="minutes of calibration", ylabel="R2", xscale="log")
    minutes = sorted(distinct(row["minutes"] for row in rows))
    axes.set_xticks(minutes, [f"{length:g}" for length in minutes], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))  # what is worse than a constant only hides the others


def _line(axes: Axes, rows: Sequence[Row], along: str, name: str) -> None:
    """Mean R2 along something, and a band of its range."""
    places = sorted(distinct(row[along] for row in rows))
    each = [[row["r2"] for row in rows if row[along] == place] for place in places]
    style: dict[str, Any] = {"ls": "--", "color": "black", "lw": 1} if name == ADAPTED else {}
    means = [np.mean(values) for values in each]
    (drawn,) = axes.plot(places, means, marker="o", ms=3, label=name, **style)
    low, high = [min(values) for values in each], [max(values) for values in each]
    axes.fill_between(places, low, high, alpha=0.15, color=drawn.get_color())


def _cell(rows: Sequence[Row]) -> str:
    values = [row["r2"] for row in rows if row["r2"] is not None]
    if not values:
        return NONE
    spread = f" ± {np.std(values):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def _first_start(rows: Sequence[Row]) -> str | None:
    starts = [row["start"] for row in rows if row["mode"] == "full"] or [row["start"] for row in rows]
    return next((start for start in starts if start is not None), None)
