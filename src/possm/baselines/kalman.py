"""The Kalman filter of neural decoding (Wu et al. 2006), fitted to one session by least squares.

The state holds the behaviors at consecutive chunks, so it holds their values, velocities and accelerations
as finite differences:

    x[c] = (b[c + ahead], ..., b[c], ..., b[c - order + 1]),   x[c + 1] = A x[c] + w,   y[c] = H x[c] + v

b[c] is what chunk c is asked for, already later than its spikes; `ahead` lets spikes say something about
behavior that is later still. y[c] is the sum of the counts of the last `width` chunks, which scores better
than the newest alone. The covariance P of x does not depend on what is observed, so it is computed once:

    x[c] = M[n] x[c - 1] + P[n] E y[c],   E = H' V^-1,   n = chunks since the start, up to where P is steady

A linear recurrence that streams. filterpy and pykalman would do the textbook part; fitting, the choice of
settings and the recurrence in torch are what is needed here, and what is left of the textbook is `schedule`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

RIDGE = 1e-6
"""Against the mean square of the state: keeps nearly equal neighbours in time from cancelling."""
SCHEDULE = 40
"""Chunks from the start after which the covariance is taken as steady."""
RICCATI_STEPS = 5000
RICCATI_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class KalmanGrid:
    """Candidates, chosen from by validation R2."""

    widths: tuple[int, ...] = (1, 2, 3, 5)
    """Chunks summed in an observation."""
    ahead: tuple[int, ...] = (0, 1, 2)
    """Chunks of later behavior in the state."""
    orders: tuple[int, ...] = (1, 2, 3)
    """Chunks from b[c] back: 1 is values only, 2 adds velocity, 3 acceleration."""
    drifts: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
    """Factors on the covariance of w. Counts are noisier and more alike in time than the model says, and a
    smaller drift makes up for it."""
    shrinkages: tuple[float, ...] = (0.0, 0.1, 0.3)
    """Of the covariance of v towards its diagonal; 1 takes units as independent."""


@dataclass(frozen=True, eq=False)
class Series:
    """One session on the grid of chunks."""

    counts: np.ndarray
    """(T, U) z-scored."""
    behavior: np.ndarray
    """(T, D) what each chunk is asked for, scaled and less its training mean; NaN where not known."""
    stretch: np.ndarray
    """(T,) int64: which uncut stretch of the domain a chunk lies in, -1 outside."""
    train: np.ndarray
    """(T,) bool."""
    valid: np.ndarray
    """(T,) bool: chunks whose behavior settings are chosen by."""


@dataclass(frozen=True, eq=False)
class Kalman:
    """A fitted filter; d = (ahead + order) * D, N = SCHEDULE. Choices are named as in `KalmanGrid`."""

    width: int
    ahead: int
    order: int
    drift: float
    shrinkage: float
    spread: np.ndarray
    """(N, d, d) P after 1, 2, ..., N chunks; the last is the steady state's."""
    transition: np.ndarray
    """(N, d, d) M."""
    evidence: np.ndarray
    """(d, U) E, for the sum of counts as `summed_counts` makes it."""
    value: np.ndarray
    """(D, d): b[c] from x[c]."""
    slope: np.ndarray
    """(D, d): change of b per chunk, around c."""
    valid_r2: np.ndarray
    """(D,) optimistic: the choices were made by it."""


def fit_kalman(series: Series, grid: KalmanGrid) -> Kalman | None:
    """The best filter of a grid; None where no run of consecutive training chunks is long enough for any."""
    best: Kalman | None = None
    for width in grid.widths:
        summed = replace(series, counts=summed_counts(series, width))
        for ahead, order in product(grid.ahead, grid.orders):
            for fit in _fits(summed, width, ahead, order, grid=grid):
                if best is None or fit.valid_r2.mean() > best.valid_r2.mean():
                    best = fit
    return best


def summed_counts(series: Series, width: int) -> np.ndarray:
    """(T, U) sum of the z-scored counts of the last `width` chunks of the stretch, over sqrt(width)."""
    total = series.counts.copy()
    for back in range(1, width):
        same = series.stretch[back:] == series.stretch[:-back]
        total[back:] += series.counts[:-back] * same[:, None]
    return total / np.sqrt(width)


def states(series: Series, ahead: int, order: int) -> np.ndarray:
    """(T, d) x of every chunk, newest first; NaN where a part of it is unknown or across a cut."""
    length, size = series.behavior.shape
    out = np.full((length, ahead + order, size), np.nan)
    for column in range(ahead + order):
        shift = ahead - column
        here = np.arange(max(0, -shift), min(length, length - shift))
        same = (series.stretch[here + shift] == series.stretch[here]) & (series.stretch[here] >= 0)
        out[here[same], column] = series.behavior[here[same] + shift]
    return out.reshape(length, -1)


def schedule(
    step: np.ndarray, drift: np.ndarray, information: np.ndarray, prior: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """P and M after 1, 2, ... chunks, each (SCHEDULE, d, d); the last are those of the steady state.

    Args:
        step: (d, d) A.
        drift: (d, d) covariance of w.
        information: (d, d) H' V^-1 H.
        prior: (d, d) covariance of x before the first chunk.
    """
    identity, spreads = np.eye(len(step)), [prior]
    for number in range(RICCATI_STEPS):
        before = prior if number == 0 else step @ spreads[-1] @ step.T + drift
        after = np.linalg.solve(identity + before @ information, before)
        spreads.append((after + after.T) / 2)
        change = np.abs(spreads[-1] - spreads[-2]).max()
        if number >= SCHEDULE and change <= RICCATI_TOLERANCE * np.abs(spreads[-1]).max():
            break
    spread = np.stack([*spreads[1:SCHEDULE], spreads[-1]])
    return spread, (identity - spread @ information) @ step


def run_filters(
    spread: np.ndarray, transition: np.ndarray, evidence: np.ndarray, stretch: np.ndarray
) -> np.ndarray:
    """x of every chunk, from 0 at the start of every stretch, for n filters at a time.

    Args:
        spread: (n, N, d, d) P.
        transition: (n, N, d, d) M.
        evidence: (T, n, d) E y.
        stretch: (T,) a change of it is a start.

    Returns:
        (T, n, d).
    """
    state, out, age = np.zeros(evidence.shape[1:]), np.empty_like(evidence), 0
    for row, seen in enumerate(evidence):
        if row and stretch[row] != stretch[row - 1]:
            state, age = np.zeros_like(state), 0
        moved = transition[:, age] @ state[..., None] + spread[:, age] @ seen[..., None]
        state, age = moved[..., 0], min(age + 1, spread.shape[1] - 1)
        out[row] = state
    return out


def _fits(series: Series, width: int, ahead: int, order: int, *, grid: KalmanGrid) -> Iterator[Kalman]:
    """A filter for every drift and shrinkage; the regressions are the same for all."""
    state, size = states(series, ahead, order), series.behavior.shape[1]
    known = np.isfinite(state).all(axis=1) & series.train
    pair = known[1:] & known[:-1] & (series.stretch[1:] == series.stretch[:-1])
    if pair.sum() < 2 * state.shape[1]:
        return
    step, drift = _step(state[:-1][pair], state[1:][pair, :size])
    observe, noise = _regress(state[known], series.counts[known])
    prior = np.cov(state[known].T).reshape(2 * (state.shape[1],))
    evidences = {part: np.linalg.solve(_shrunk(noise, part), observe.T).T for part in grid.shrinkages}
    candidates = [
        (factor, part, *schedule(step, factor * drift, evidence @ observe.T, prior), evidence)
        for factor in grid.drifts
        for part, evidence in evidences.items()
    ]
    value, slope = _readout(step, ahead, order, size)
    spreads, transitions, weighed = (np.stack([made[i] for made in candidates]) for i in (2, 3, 4))
    r2 = _valid_r2(series, spreads, transitions, weighed, value)
    for (factor, part, spread, transition, evidence), each in zip(candidates, r2, strict=True):
        yield Kalman(
            width=width,
            ahead=ahead,
            order=order,
            drift=factor,
            shrinkage=part,
            spread=spread,
            transition=transition,
            evidence=evidence,
            value=value,
            slope=slope,
            valid_r2=each,
        )


def _step(before: np.ndarray, newest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A and the covariance of w: the newest D entries by regression, the others move down one place."""
    size, length = newest.shape[1], before.shape[1]
    coefficients, noise = _regress(before, newest)
    step, drift = np.zeros((length, length)), np.zeros((length, length))
    step[:size], drift[:size, :size] = coefficients.T, noise
    step[size:, :-size] = np.eye(length - size)
    return step, drift


def _regress(inputs: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (inputs, outputs) and covariance of what they leave."""
    gram = inputs.T @ inputs
    gram[np.diag_indices_from(gram)] += RIDGE * np.trace(gram) / len(gram) + 1e-12
    coefficients = np.linalg.solve(gram, inputs.T @ outputs)
    rest = outputs - inputs @ coefficients
    return coefficients, rest.T @ rest / len(rest)


def _shrunk(noise: np.ndarray, shrinkage: float) -> np.ndarray:
    """Towards the diagonal, which is kept off 0 for units that never fire."""
    diagonal = np.diag(np.maximum(np.diag(noise), 1e-3))
    return (1 - shrinkage) * noise + shrinkage * diagonal + 1e-6 * np.eye(len(noise))


def _readout(step: np.ndarray, ahead: int, order: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """b[c], and half the change from b[c - 1] to b[c + 1]; what the state does not hold is predicted, or the
    change is taken on one side."""
    rows = np.eye(len(step)).reshape(ahead + order, size, -1)
    value = rows[ahead]
    later = rows[ahead - 1] if ahead else step[:size]
    return value, (later - rows[ahead + 1]) / 2 if order > 1 else later - value


def _valid_r2(
    series: Series, spread: np.ndarray, transition: np.ndarray, evidence: np.ndarray, value: np.ndarray
) -> np.ndarray:
    """(n, D) R2 of n filters on the chunks to choose by, run from the first to the last of those."""
    asked = series.valid & np.isfinite(series.behavior).all(axis=1)
    first, last = np.flatnonzero(asked)[[0, -1]]
    rows = slice(first, last + 1)
    seen = np.einsum("tu,ndu->tnd", series.counts[rows], evidence)
    path = run_filters(spread, transition, seen, series.stretch[rows])[asked[rows]]
    target = series.behavior[asked]
    error = np.square(path @ value.T - target[:, None]).sum(axis=0)
    total = np.square(target - target.mean(axis=0)).sum(axis=0)
    return np.asarray(1 - error / np.where(total > 0, total, 1.0))
