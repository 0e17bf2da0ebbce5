"""Tokens -> counts per unit and chunk, capped and z-scored: what the count-based decoders see.

A unit is seen by sequences of its own session only, so recordings of several sessions never mix: every
session has its own columns, as many as the session with the most units, the rest filled with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from possm.baselines.lags import Bins, bin_recording
from possm.batch import Tokens
from possm.data.caps import usual_most
from possm.data.recording import Recording
from possm.data.vocabulary import Vocabulary
from possm.errors import RecordingError


class Columns(NamedTuple):
    """Which unit is where; made once by a stream, once a call in training."""

    unit: Tensor
    """(sessions, U) int64: vocabulary row in every column of every session; 0, the blank unit, fills up."""
    column: Tensor
    """(units,) int64: column of every unit in its session."""


class UnitCounts(nn.Module):
    """(min(count, cap) - mean) / standard deviation of every unit, per chunk.

    Until `fit` is called all units are of session 0 and their counts are taken as they are.

    Args:
        num_units: Rows of the unit vocabulary, the blank unit (row 0) included.
        num_sessions: Rows of the session vocabulary.
    """

    mean: Tensor
    std: Tensor
    cap: Tensor
    session: Tensor

    def __init__(self, num_units: int, num_sessions: int) -> None:
        super().__init__()
        self.num_sessions = num_sessions
        self.register_buffer("mean", torch.zeros(num_units))
        self.register_buffer("std", torch.ones(num_units))
        self.register_buffer("cap", torch.full((num_units,), torch.inf))
        session = torch.zeros(num_units, dtype=torch.int64)
        session[0] = -1
        self.register_buffer("session", session)

    @torch.no_grad()
    def fit(self, recordings: Sequence[Recording], vocabulary: Vocabulary, *, chunk_ms: int) -> None:
        """Take mean, deviation and cap of the units of some recordings from their train split.

        Raises:
            RecordingError: A train split holds no whole chunk, or a binned value is NaN.
        """
        for recording in recordings:
            bins = bin_recording(recording, chunk_ms, rebin=True)
            fitted = normalisation(recording, bins)
            rows = torch.from_numpy(vocabulary.unit_rows(recording)).to(self.mean.device)
            for buffer, numbers in zip((self.mean, self.std, self.cap), fitted, strict=True):
                buffer[rows] = torch.from_numpy(numbers).to(buffer)
            self.session[rows] = vocabulary.session_row(recording.session_id)

    def columns(self) -> Columns:
        """Where every unit is; a unit keeps the order of the vocabulary."""
        session = self.session
        order = session.argsort(stable=True)
        order = order[session[order] >= 0]
        sizes = torch.bincount(session[order], minlength=self.num_sessions)
        rank = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[session[order]]
        unit = session.new_zeros(self.num_sessions, int(sizes.max()))
        unit[session[order], rank] = order
        column = torch.zeros_like(session)
        column[order] = rank
        return Columns(unit, column)

    def forward(self, tokens: Tokens, session: Tensor, columns: Columns, *, num_chunks: int) -> Tensor:
        """z-scored counts.

        Args:
            tokens: Of S x C chunks.
            session: (S,) row of each sequence's session.
            columns: Of `columns`.
            num_chunks: C.

        Returns:
            (S, C, U); 0 in columns that a session does not fill.
        """
        unit = columns.unit[session]  # (S, U)
        width = unit.shape[1]
        chunk = torch.repeat_interleave(tokens.offsets.diff(), output_size=len(tokens.unit))
        own = self.session[tokens.unit] == session[chunk // num_chunks]
        total = self.mean.new_zeros(len(session) * num_chunks * width)
        place = chunk * width + columns.column[tokens.unit]
        total.index_add_(0, place, tokens.count.to(total.dtype) * own)
        counts = total.view(len(session), num_chunks, width)
        capped = torch.minimum(counts, self.cap[unit].unsqueeze(1))
        return (capped - self.mean[unit].unsqueeze(1)) / self.std[unit].unsqueeze(1)


class Normalisation(NamedTuple):
    """Of every unit of a recording, over the whole chunks of its train split; (units,) float64 each."""

    mean: np.ndarray
    std: np.ndarray
    cap: np.ndarray

    def apply(self, values: np.ndarray) -> np.ndarray:
        """(n, units) counts -> capped and z-scored."""
        return (np.minimum(values, self.cap) - self.mean) / self.std


def normalisation(recording: Recording, bins: Bins) -> Normalisation:
    """Mean and standard deviation of capped counts, and the cap.

    Raises:
        RecordingError: The train split holds no whole bin.
    """
    values = bins.values[bins.inside(recording.split("train"))]
    if not len(values):
        raise RecordingError(
            f"the train split holds no chunk of {bins.bin_s:g} s",
            about=recording.name,
            fix="shorten the chunk, or give the train split more time",
        )
    cap = usual_most(values)
    values = np.minimum(values, cap)
    std = values.std(axis=0)
    return Normalisation(values.mean(axis=0), np.where(std > 0, std, 1.0), cap)


def scaled_counts(recording: Recording, chunk_ms: int) -> tuple[Bins, np.ndarray]:
    """The chunks of a whole recording, and their counts as `UnitCounts` makes them: (chunks, units)."""
    bins = bin_recording(recording, chunk_ms, rebin=True)
    return bins, normalisation(recording, bins).apply(bins.values)
