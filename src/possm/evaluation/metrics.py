"""How good a decoded behavior is. Everything is computed in float64, whatever came in."""

from __future__ import annotations

import logging

import numpy as np

from possm.errors import ConfigError

logger = logging.getLogger(__name__)


def r2_per_dimension(target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """R2 of every dimension, ``1 - SSE / SST``, SST about the mean of the scored samples.

    A sample with a target that is not finite (NaN where nothing was measured) is left out in all its
    dimensions. A prediction that is not finite is not left out, for a decoder may not choose what it is
    scored on: its dimension scores NaN. So does a dimension whose target is constant, and everything
    when fewer than two samples remain; the log says which.

    Args:
        target: (n, d), or (n,) for one dimension.
        prediction: The same shape, the same samples.

    Returns:
        (d,) float64, 1 at best, below 0 when worse than a constant.

    Raises:
        ConfigError: The shapes differ.
    """
    truth, guess = _columns(target), _columns(prediction)
    if truth.shape != guess.shape:
        raise ConfigError("target and prediction differ in shape", got=guess.shape, wanted=truth.shape)
    measured = np.isfinite(truth).all(axis=1)
    truth, guess = truth[measured], guess[measured]
    if len(truth) < 2:
        logger.warning("R2 is not defined: %d of %d samples have a target", len(truth), len(measured))
        return np.full(truth.shape[1], np.nan)
    constant = np.ptp(truth, axis=0) == 0
    broken = ~np.isfinite(guess).all(axis=0)
    for why, which in (("constant target", constant), ("prediction not finite", broken)):
        if which.any():
            logger.warning("R2 is not defined for dimensions %s: %s", np.flatnonzero(which).tolist(), why)
    undefined = constant | broken
    residual = np.where(undefined, 0.0, guess - truth)
    # Scaled by the spread, so that tiny or huge units neither underflow nor overflow when squared.
    spread = np.where(undefined, 1.0, np.ptp(truth, axis=0))
    with np.errstate(over="ignore"):  # an absurd prediction scores -inf
        error = np.square(residual / spread).sum(axis=0)
    variation = np.square((truth - truth.mean(axis=0)) / spread).sum(axis=0)
    return np.where(undefined, np.nan, 1.0 - error / np.where(undefined, 1.0, variation))


def r2(target: np.ndarray, prediction: np.ndarray) -> float:
    """The mean of `r2_per_dimension`, every dimension weighing the same; NaN if one of them is NaN."""
    return float(np.mean(r2_per_dimension(target, prediction)))


def accuracy(target: np.ndarray, prediction: np.ndarray) -> float:
    """Share of the samples whose predicted class is the true one, 0 to 1; NaN without samples.

    Args:
        target: (n,) classes.
        prediction: (n,) classes.

    Raises:
        ConfigError: The shapes differ, or are not (n,).
    """
    truth, guess = np.asarray(target), np.asarray(prediction)
    if truth.shape != guess.shape or truth.ndim != 1:
        raise ConfigError(
            "accuracy compares one class per sample", got=(truth.shape, guess.shape), wanted="(n,) twice"
        )
    return float(np.mean(truth == guess)) if len(truth) else float("nan")


def _columns(values: np.ndarray) -> np.ndarray:
    """(n, d) float64; one dimension may come as (n,)."""
    table = np.asarray(values, np.float64)
    return table[:, None] if table.ndim == 1 else table
