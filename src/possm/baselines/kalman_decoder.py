"""The Kalman filter under the decoders' contract: its state is the filter's."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor, nn

from possm.baselines.base import CountsDecoder
from possm.baselines.counts import Columns
from possm.baselines.fitted import FitInputs, only_continuous
from possm.baselines.grid import Gridded, chunk_series
from possm.baselines.kalman import SCHEDULE, Kalman, KalmanGrid, fit_kalman
from possm.baselines.readin import Readin
from possm.config import require
from possm.data.recording import Recording
from possm.errors import RecordingError
from possm.model.contract import DecoderConfig


@dataclass(frozen=True, kw_only=True)
class KalmanConfig(DecoderConfig):
    """Settings. What is a tuple is a set of candidates, chosen from by validation R2 (see `KalmanGrid`)."""

    widths: tuple[int, ...] = KalmanGrid.widths
    """Chunks summed in an observation."""
    ahead: tuple[int, ...] = KalmanGrid.ahead
    """Chunks of behavior later than asked in the state."""
    orders: tuple[int, ...] = KalmanGrid.orders
    """1 is values only, 2 adds velocity, 3 acceleration."""
    drifts: tuple[float, ...] = KalmanGrid.drifts
    """Factors on the fitted noise of the movement."""
    shrinkages: tuple[float, ...] = KalmanGrid.shrinkages
    """How far to take units as independent."""
    size: int | None = None
    """Of the state of the fitted filter; set by the fit."""
    history: int | None = None
    """Chunks of an observation of the fitted filter; set by the fit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.widths) and min(self.widths) >= 1, "widths", self.widths, "1 or more")
        require(bool(self.ahead) and min(self.ahead) >= 0, "ahead", self.ahead, "0 or more")
        require(bool(self.orders) and min(self.orders) >= 1, "orders", self.orders, "1 or more")
        require(bool(self.drifts) and min(self.drifts) > 0, "drifts", self.drifts, "above 0")
        between = bool(self.shrinkages) and min(self.shrinkages) >= 0 and max(self.shrinkages) <= 1
        require(between, "shrinkages", self.shrinkages, "0 to 1")
        for name in ("size", "history"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "1 or more")

    @property
    def grid(self) -> KalmanGrid:
        """The candidates."""
        return KalmanGrid(**{f.name: getattr(self, f.name) for f in fields(KalmanGrid)})


class KalmanDecoder(CountsDecoder):
    """x[c] = M x[c - 1] + P E (summed counts); values and slopes from x.

    Args:
        config: Settings.
        num_units: Rows of the unit vocabulary, the blank unit (row 0) included.
        num_sessions: Rows of the session vocabulary.
    """

    def __init__(self, config: KalmanConfig, *, num_units: int, num_sessions: int) -> None:
        super().__init__(config, num_units=num_units, num_sessions=num_sessions)
        only_continuous(config, "Kalman filter")
        size = config.size or (max(config.ahead) + max(config.orders)) * self.num_outputs
        history = config.history or max(config.widths)
        self.evidence = Readin(num_units, num_sessions, size, history=history)
        self.spread = nn.Parameter(torch.zeros(num_sessions, SCHEDULE, size, size))
        self.transition = nn.Parameter(torch.zeros(num_sessions, SCHEDULE, size, size))
        self.readout = nn.Parameter(torch.zeros(num_sessions, size, 2 * self.num_outputs))
        self.mean = nn.Parameter(torch.zeros(num_sessions, 2 * self.num_outputs))
        self.requires_grad_(False)

    def initial_memory(self, num_sequences: int, columns: Columns) -> tuple[Tensor, ...]:
        """The state of the filter (S, d), where 0 is the mean behavior; its age (S,) in chunks, as far as
        that matters; and the last counts."""
        state = self.transition.new_zeros(num_sequences, self.transition.shape[-1])
        age = torch.zeros(num_sequences, dtype=torch.int64, device=state.device)
        return state, age, self.evidence.initial_state(num_sequences, columns)

    def decode(
        self, counts: Tensor, session: Tensor, columns: Columns, memory: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As in `CountsDecoder.decode`."""
        seen, after = self.evidence.read(counts, memory[2], session, columns)
        state, age, path = memory[0].unsqueeze(1), memory[1], []
        for one in seen.split(1, dim=1):
            moved = state @ self.transition[session, age].mT
            state = torch.baddbmm(moved, one, self.spread[session, age].mT)
            age = (age + 1).clamp(max=SCHEDULE - 1)
            path.append(state)
        decoded = torch.cat(path, dim=1) @ self.readout[session] + self.mean[session].unsqueeze(1)
        return decoded, (state.squeeze(1), age, after)

    @torch.no_grad()
    def set_filter(self, fit: Kalman, gridded: Gridded, *, rows: np.ndarray, session: int) -> None:
        """Take over what was fitted on one session.

        Args:
            fit: The filter, of a state of the decoder's size or smaller.
            gridded: What it was fitted on.
            rows: (units,) of the vocabulary.
            session: Row of the session.
        """
        size, readin = len(fit.evidence), self.evidence
        self.transition[session, :, :size, :size] = torch.from_numpy(fit.transition).to(self.transition)
        self.spread[session, :, :size, :size] = torch.from_numpy(fit.spread).to(self.spread)
        weight = np.zeros((len(rows), readin.history, readin.width))  # oldest chunk first
        weight[:, readin.history - fit.width :, :size] = fit.evidence.T[:, None] / np.sqrt(fit.width)
        readin.weight[torch.from_numpy(rows)] = torch.from_numpy(weight).flatten(1).to(readin.weight)
        first = 0
        for behavior in self.config.behaviors.values():
            part = slice(first, first + behavior.num_dimensions)
            values = slice(2 * first, 2 * first + behavior.num_dimensions)
            slopes = slice(values.stop, values.stop + behavior.num_dimensions)
            middle = fit.value[part] - fit.slope[part] * gridded.phase[part, None]
            self.readout[session, :size, values] = torch.from_numpy(middle.T).to(self.readout)
            self.readout[session, :size, slopes] = torch.from_numpy(fit.slope[part].T).to(self.readout)
            self.mean[session, values] = torch.from_numpy(gridded.mean[part]).to(self.mean)
            first = part.stop


def fit_kalman_decoder(config: KalmanConfig, inputs: FitInputs) -> KalmanDecoder:
    """Fit one filter for every session, over all behaviors together.

    Args:
        config: With its behaviors.
        inputs: What to fit it on.

    Raises:
        RecordingError: A recording lacks a split or behavior, or has too few chunks in a row to train on.
    """
    only_continuous(config, "Kalman filter")
    made = [(recording, *_fit(recording, config, inputs)) for recording in inputs.recordings]
    size = max(len(fit.evidence) for _, fit, _ in made)
    history = max(fit.width for _, fit, _ in made)
    model = KalmanDecoder(replace(config, size=size, history=history), **inputs.sizes)
    model.evidence.weight.zero_()
    model.fit_inputs(inputs.recordings, inputs.vocabulary)
    for recording, fit, gridded in made:
        rows = inputs.vocabulary.unit_rows(recording)
        session = inputs.vocabulary.session_row(recording.session_id)
        model.set_filter(fit, gridded, rows=rows, session=session)
    return model.eval()


def _fit(recording: Recording, config: KalmanConfig, inputs: FitInputs) -> tuple[Kalman, Gridded]:
    gridded = chunk_series(recording, config, inputs)
    fit = fit_kalman(gridded.series, config.grid)
    if fit is None:
        raise RecordingError(
            "too few chunks in a row to fit a Kalman filter",
            about=recording.name,
            got=f"{int(gridded.series.train.sum())} chunks in the train split",
            fix="record longer, or lower --orders and --ahead",
        )
    return fit, gridded
