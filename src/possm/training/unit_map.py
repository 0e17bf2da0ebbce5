"""Tuning -> rows: fitted over the units a decoder was pretrained on, used to begin the rows of new ones."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from possm.checkpoint import Decoder
from possm.data.recording import Recording
from possm.data.tuning import UnitMap, pieces, tuning_features
from possm.errors import PossmError
from possm.training.extend import table_names

logger = logging.getLogger(__name__)

MIN_SESSIONS = 3
"""With fewer there is no telling whether the map holds for a session it was not fitted on."""
PIECE_S = 60.0
"""Tuning is seen through as little data as a calibration gives, so that the map trusts it no further."""
MOST_PIECES = 6
STRENGTHS = (10.0, 100.0, 1000.0, 1e4)
"""Of the ridge; the best over left-out sessions is taken."""


def fit_unit_map(decoder: Decoder, recordings: Sequence[Recording]) -> UnitMap | None:
    """The map of a trained decoder, or None where there are too few sessions or nothing is tuned to.

    Args:
        decoder: Trained on the recordings.
        recordings: Six minutes of each are read.
    """
    tables = {name: kind for name, kind in table_names(decoder.config).items() if kind == "units"}
    weights = {
        n: p.detach().cpu().double().numpy() for n, p in decoder.model.named_parameters() if n in tables
    }
    weights = {name: table for name, table in weights.items() if table.ndim == 2}
    behaviors = tuple(name for name in decoder.config.behaviors if name in decoder.scaling)
    if len(recordings) < MIN_SESSIONS or not weights or not behaviors:
        return None
    features, rows, session = [], [], []
    for number, recording in enumerate(recordings):
        for found in _tuned(recording, behaviors, decoder.config.chunk_ms):
            features.append(found)
            rows.append(decoder.vocabulary.unit_rows(recording))
            session.append(np.full(len(found), number))
    if len({int(part[0]) for part in session if len(part)}) < MIN_SESSIONS:
        return None
    inputs, row, owner = np.concatenate(features), np.concatenate(rows), np.concatenate(session)
    mean, std = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6
    scaled = np.concatenate([(inputs - mean) / std, np.ones((len(inputs), 1))], axis=1)
    target = np.concatenate([table[row] for table in weights.values()], axis=1)
    strength, fit = _choose(scaled, target, owner)
    edges = np.cumsum([table.shape[1] for table in weights.values()])[:-1]
    parts = np.split(_ridge(scaled, target, strength), edges, axis=1)
    return UnitMap(
        behaviors=behaviors,
        chunk_ms=decoder.config.chunk_ms,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        weights={name: tuple(map(tuple, p.tolist())) for name, p in zip(weights, parts, strict=True)},
        fit=fit,
    )


def rows_from_tuning(
    unit_map: UnitMap, recording: Recording, *, split: str = "train"
) -> dict[str, np.ndarray]:
    """Table -> (units, width) float32: where the rows of a recording's units may begin.

    What a minute says is averaged over the minutes of the split.

    Raises:
        RecordingError: The recording lacks a behavior that the map is made for, or is too short.
    """
    behaviors, chunk_ms = unit_map.behaviors, unit_map.chunk_ms
    found = [
        unit_map.rows(tuning_features(recording, stretch, behaviors=behaviors, chunk_ms=chunk_ms))
        for stretch in pieces(recording, split, PIECE_S, 1000)
    ]
    return {name: np.mean([rows[name] for rows in found], axis=0) for name in unit_map.weights}


def _tuned(recording: Recording, behaviors: Sequence[str], chunk_ms: int) -> list[np.ndarray]:
    """The features of every piece that has some."""
    found = []
    for stretch in pieces(recording, "train", PIECE_S, MOST_PIECES):
        try:
            found.append(tuning_features(recording, stretch, behaviors=behaviors, chunk_ms=chunk_ms))
        except PossmError as error:  # a piece of it is short, or a behavior is missing there
            logger.info("%s", error)
    return found


def _choose(inputs: np.ndarray, target: np.ndarray, owner: np.ndarray) -> tuple[float, float]:
    """The ridge strength that predicts the rows of left-out sessions best, and the share it explains."""
    folds = np.searchsorted(np.unique(owner), owner) % 5
    total = np.square(target - target.mean(axis=0)).sum()
    best = (STRENGTHS[-1], -np.inf)
    for strength in STRENGTHS:
        error = 0.0
        for fold in np.unique(folds):
            held = folds == fold
            weights = _ridge(inputs[~held], target[~held], strength)
            error += float(np.square(target[held] - inputs[held] @ weights).sum())
        best = max(best, (strength, 1 - error / total), key=lambda pair: pair[1])
    return best


def _ridge(inputs: np.ndarray, target: np.ndarray, strength: float) -> np.ndarray:
    """(F + 1, width); the offset, last, is not shrunk."""
    penalty = np.full(inputs.shape[1], strength)
    penalty[-1] = 1e-9
    return np.linalg.solve(inputs.T @ inputs + np.diag(penalty), inputs.T @ target)
