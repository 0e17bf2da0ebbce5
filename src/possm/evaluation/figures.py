"""The figures of the report, each a matplotlib figure made from plain arrays.

Colours are those of Okabe and Ito, told apart by colour-blind readers; line styles differ too, for print.
Matplotlib is imported when the first figure is made, and no window or global state of it is touched.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from possm.evaluation.metrics import r2_per_dimension
from possm.evaluation.traces import Raster, Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


TRUE, DECODED, WIENER, LOSS = "#222222", "#0072B2", "#D55E00", "#009E73"
WIDTH = 9.6  # inches, the width of the page
DPI = 150
MAX_DIMENSIONS = 6  # rows of a figure; the rest is told in the caption
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": "#333333",
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "text.parse_math": False,  # a dollar sign in a session name is a dollar sign
}


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib in the style of the report, inside the block only; missing glyphs are no reason to warn."""
    import matplotlib

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        yield


def to_png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def traces_figure(trace: Trace, start_s: float, end_s: float) -> Figure:
    """Decoded against true movement in ``[start_s, end_s)``: over time by dimension, and as a path if 2-D."""
    shown = min(len(trace.dimensions), MAX_DIMENSIONS)
    flat = len(trace.dimensions) == 2
    figure = _figure(1.15 + 1.35 * max(shown, 2 if flat else 1))
    grid = figure.add_gridspec(shown, 2 if flat else 1, width_ratios=(2.6, 1) if flat else (1,))
    here = _broken_at_gaps(trace.between(start_s, end_s))
    first: Axes | None = None
    for row in range(shown):
        axes = figure.add_subplot(grid[row, 0], sharex=first)
        first = first or axes
        for values, line in _lines(here):
            axes.plot(here.times_s, values[:, row], **line)
        axes.set_ylabel(_with_unit(trace.dimensions[row], trace.unit))
        axes.tick_params(labelbottom=row == shown - 1)
        axes.margins(x=0.01)
    axes.set_xlabel("time (s)")
    if flat:
        _path(figure.add_subplot(grid[:, 1]), here)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def _path(axes: Axes, here: Trace) -> None:
    for values, line in _lines(replace(here, wiener=None)):  # a third path would only hide the two
        axes.plot(values[:, 0], values[:, 1], **{**line, "linewidth": 1.1, "alpha": 0.85})
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel(_with_unit(here.dimensions[0], here.unit))
    axes.set_ylabel(_with_unit(here.dimensions[1], here.unit))
    axes.set_title("the same stretch as a path")


def bars_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """R2 of every session and behavior, the Wiener filter's beside it."""
    paired = any(finite(row.get("r2_wiener")) for row in rows)
    step = 0.62 if paired else 0.42
    figure = _figure(1.1 + step * len(rows))
    axes = figure.add_subplot()
    place = np.arange(len(rows))[::-1]
    kinds = [("r2", DECODED, "decoder", 0.19 if paired else 0.0)]
    kinds += [("r2_wiener", WIENER, "Wiener filter", -0.19)] if paired else []
    known = [float(row[key]) for row in rows for key, *_ in kinds if finite(row.get(key))]
    # One broken session would squeeze all the others; its number still stands beside its bar.
    low = max(-1.0, min([0.0, *known]))
    for key, colour, label, shift in kinds:
        values = np.array([float(row[key]) if finite(row.get(key)) else np.nan for row in rows])
        length = np.clip(np.nan_to_num(values), low, None)
        hatch = "////" if key == "r2_wiener" else None
        axes.barh(place + shift, length, 0.34, color=colour, label=label, hatch=hatch, edgecolor="white")
        for y, value, x, row in zip(place + shift, values, length, rows, strict=True):
            text = f"{value:.3f}" if finite(value) else "not defined"
            text = "none" if key == "r2_wiener" and row.get(key) is None else text
            text += " (bar cut off)" if value < low else ""
            axes.text(max(x, 0.0) + 0.01, y, text, va="center", fontsize=9, color="#333333")
    axes.set_yticks(place, [_row_name(row, rows) for row in rows])
    axes.set_xlim(low - (0.05 if low < 0 else 0), 1.09)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.axvline(0, color="#666666", linewidth=0.8)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("R2 (1 is perfect, 0 is a constant)")
    figure.legend(loc="outside upper right", ncols=2)
    return figure


def residuals_figure(trace: Trace) -> Figure:
    """Decoded minus true over everything scored: how it is spread, and how it goes with time."""
    shown = min(len(trace.dimensions), MAX_DIMENSIONS)
    figure = _figure(0.7 + 1.75 * shown)
    grid = figure.add_gridspec(shown, 2, width_ratios=(1, 2.2))
    r2 = r2_per_dimension(trace.target, trace.prediction)
    for row in range(shown):
        residual = trace.prediction[:, row] - trace.target[:, row]
        real = np.isfinite(residual)
        times_s, residual = trace.times_s[real], residual[real]
        left, right = figure.add_subplot(grid[row, 0]), figure.add_subplot(grid[row, 1])
        name = _with_unit(trace.dimensions[row], trace.unit)
        left.set_title(f"{trace.dimensions[row]}, R2 {r2[row]:.3f}" if finite(r2[row]) else name)
        left.set_ylabel("samples")
        right.set_ylabel(_with_unit("decoded - true", trace.unit))
        if len(residual):
            _histogram(left, residual)
            _over_time(right, times_s, residual)
        if row == shown - 1:
            left.set_xlabel(_with_unit("decoded - true", trace.unit))
            right.set_xlabel("time (s)")
    return figure


def _histogram(axes: Axes, residual: np.ndarray) -> None:
    # The outermost thousandth goes into the end bins, or one wild sample would flatten the picture.
    low, high = np.percentile(residual, (0.1, 99.9))
    if low == high:
        low, high = low - 0.5, high + 0.5
    axes.hist(np.clip(residual, low, high), bins=40, color=DECODED, edgecolor="white", linewidth=0.3)
    axes.axvline(0, color=TRUE, linewidth=0.8)


def _over_time(axes: Axes, times_s: np.ndarray, residual: np.ndarray) -> None:
    every = max(1, len(residual) // 6000)
    axes.plot(times_s[::every], residual[::every], ".", markersize=1.5, color=DECODED, alpha=0.35)
    edges = np.linspace(times_s[0], times_s[-1], 25)
    row = np.digitize(times_s, edges[1:-1])
    middle = [float(np.median(residual[row == k])) if (row == k).any() else np.nan for k in range(24)]
    axes.plot((edges[1:] + edges[:-1]) / 2, middle, color=WIENER, linewidth=1.8, label="running median")
    axes.axhline(0, color=TRUE, linewidth=0.8)
    axes.margins(x=0.01)
    axes.legend(loc="upper right", fontsize=8)


def learning_figure(training: Sequence[Mapping[str, Any]]) -> Figure:
    """Training loss and validation score over the course of training."""
    figure = _figure(2.9)
    clock = "epoch" if all(finite(row.get("epoch")) for row in training) else "step"
    known = {"valid_r2": "validation R2", "valid_accuracy": "validation accuracy", "valid_score": "score"}
    valid = next((key for key in known if any(key in row for row in training)), "valid_r2")
    panels = (("train_loss", "training loss", LOSS), (valid, known[valid], DECODED))
    for place, (key, label, colour) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, 2, place)
        points = [
            (float(row.get(clock, number)), float(row[key]))
            for number, row in enumerate(training)
            if finite(row.get(key))
        ]
        axes.set_title(label if points else f"{label}: not recorded")
        axes.set_xlabel(clock)
        if not points:
            continue
        x, y = np.array(points).T
        axes.plot(x, y, color=colour, linewidth=1.6, marker="o" if len(x) < 40 else None, markersize=3)
        if key == valid:
            best = int(np.argmax(y))
            axes.plot(x[best], y[best], "o", markersize=8, markerfacecolor="none", color=TRUE)
            axes.set_title(f"{label}, best {y[best]:.3f} at {clock} {x[best]:g}")
            axes.set_ylim(bottom=max(-1.0, float(y.min()) - 0.05))
        elif (y > 0).all() and y.max() > 20 * y.min():
            axes.set_yscale("log")
    return figure


def raster_figure(raster: Raster, trace: Trace | None) -> Figure:
    """Spikes of every unit, and under them the movement decoded from them, on one time axis."""
    shown = min(len(trace.dimensions), 3) if trace is not None else 0
    figure = _figure(3.4 + 1.15 * shown)
    grid = figure.add_gridspec(1 + shown, 1, height_ratios=(2.6,) + (1,) * shown)
    top = figure.add_subplot(grid[0])
    # Thin marks for a hundred units, visible ones for ten.
    size = float(np.clip(160 / max(raster.num_units, 1), 1.0, 8))
    top.plot(raster.times_s, raster.unit, "|", color=TRUE, markersize=size, markeredgewidth=0.7)
    top.set_ylim(-1, max(raster.num_units, 1))
    top.set_ylabel("unit")
    top.grid(visible=False)
    top.set_xlim(raster.start_s, raster.end_s)
    top.tick_params(labelbottom=not shown)
    axes = top
    if trace is not None:
        here = _broken_at_gaps(trace.between(raster.start_s, raster.end_s))
        for row in range(shown):
            axes = figure.add_subplot(grid[1 + row], sharex=top)
            for values, line in _lines(here):
                axes.plot(here.times_s, values[:, row], **line)
            axes.set_ylabel(_with_unit(trace.dimensions[row], trace.unit))
            axes.tick_params(labelbottom=row == shown - 1)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=3)
    axes.set_xlabel("time (s)")
    return figure


def finite(value: Any) -> TypeGuard[float]:
    """Whether the value is a number that can be drawn or printed: not None, NaN or infinite."""
    return isinstance(value, (int, float, np.number)) and bool(np.isfinite(value))


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def _lines(trace: Trace) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """What is drawn of a trace, back to front, with its line."""
    lines: list[tuple[np.ndarray, dict[str, Any]]] = [
        (trace.target, {"color": TRUE, "linewidth": 1.3, "label": "true"})
    ]
    if trace.wiener is not None:
        line = {"color": WIENER, "linewidth": 1.0, "linestyle": (0, (4, 1.5)), "label": "Wiener filter"}
        lines.append((trace.wiener, line))
    return [*lines, (trace.prediction, {"color": DECODED, "linewidth": 1.5, "label": "decoded"})]


def _broken_at_gaps(trace: Trace) -> Trace:
    """The same trace with a NaN row wherever time jumps, so that no line is drawn across a gap."""
    if len(trace.times_s) < 3:
        return trace
    step = np.diff(trace.times_s)
    jump = np.flatnonzero(step > max(5 * float(np.median(step)), 0.2)) + 1

    def cut(values: np.ndarray) -> np.ndarray:
        return np.insert(np.asarray(values, np.float64), jump, np.nan, axis=0)

    return replace(
        trace,
        times_s=np.insert(trace.times_s, jump, trace.times_s[jump]),
        target=cut(trace.target),
        prediction=cut(trace.prediction),
        wiener=None if trace.wiener is None else cut(trace.wiener),
    )


def _row_name(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """What tells a row from the others, no longer than needed."""
    session = str(row.get("session", "?"))
    parts = [session if len(session) <= 40 else session[:18] + "..." + session[-18:]]
    for key in ("behavior", "split"):
        if len({str(other.get(key)) for other in rows}) > 1:
            parts.append(str(row.get(key)))
    return "\n".join(parts)


def _with_unit(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit else name
