"""The Wiener filter under the decoders' contract: its state is the counts of the last chunks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from possm.baselines.base import CountsDecoder
from possm.baselines.counts import Columns
from possm.baselines.fitted import FitInputs, only_continuous
from possm.baselines.readin import Readin
from possm.baselines.wiener import STRENGTHS, Wiener, WienerConfig, fit_wiener
from possm.config import require
from possm.data.recording import Recording
from possm.data.scaling import Scaling
from possm.model.contract import DecoderConfig


@dataclass(frozen=True, kw_only=True)
class WienerDecoderConfig(DecoderConfig):
    """Settings. What is a tuple is a set of candidates, chosen from by validation R2."""

    lags: tuple[int, ...] = (10, 20)
    """Numbers of lags to try."""
    widths: tuple[int, ...] = (1, 2, 4)
    """Chunks summed in a lag, where the recording has spike times; a binned recording takes 1."""
    strengths: tuple[float, ...] = STRENGTHS
    """Ridge strengths to try (see `WienerConfig`)."""
    history: int | None = None
    """Chunks the fitted filter looks back; set by the fit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        WienerConfig(lags=self.lags, widths=self.widths, strengths=self.strengths)  # the same checks
        require(self.history is None or self.history >= 1, "history", self.history, "1 or more")

    @property
    def span(self) -> int:
        """Chunks it looks back."""
        return self.history or max(self.lags) * max(self.widths)


class WienerDecoder(CountsDecoder):
    """Value per chunk = linear in the z-scored counts of the last chunks; the slope within a chunk is 0.

    Args:
        config: Settings.
        num_units: Rows of the unit vocabulary, the blank unit (row 0) included.
        num_sessions: Rows of the session vocabulary.
    """

    def __init__(self, config: WienerDecoderConfig, *, num_units: int, num_sessions: int) -> None:
        super().__init__(config, num_units=num_units, num_sessions=num_sessions)
        only_continuous(config, "Wiener filter")
        self.filter = Readin(num_units, num_sessions, self.num_outputs, history=config.span)
        self.filter.requires_grad_(False)

    def initial_memory(self, num_sequences: int, columns: Columns) -> tuple[Tensor, ...]:
        """(S, history - 1, U) counts."""
        return (self.filter.initial_state(num_sequences, columns),)

    def decode(
        self, counts: Tensor, session: Tensor, columns: Columns, memory: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As in `CountsDecoder.decode`."""
        values, after = self.filter.read(counts, memory[0], session, columns)
        return self.flat(values), (after,)

    def flat(self, values: Tensor) -> Tensor:
        """Values, and slopes of 0: (S, C, outputs) -> (S, C, 2 outputs)."""
        sizes = [behavior.num_dimensions for behavior in self.config.behaviors.values()]
        return torch.cat([x for part in values.split(sizes, -1) for x in (part, torch.zeros_like(part))], -1)

    @torch.no_grad()
    def set_filter(self, recording: Recording, fits: dict[str, Wiener], *, inputs: FitInputs) -> None:
        """Take over what was fitted on one session, in z-scored counts and scaled units.

        Args:
            recording: The session.
            fits: Behavior -> its filter.
            inputs: Says where units and outputs go.
        """
        rows = torch.from_numpy(inputs.vocabulary.unit_rows(recording))
        session = inputs.vocabulary.session_row(recording.session_id)
        mean, std = self.counts.mean[rows].numpy(), self.counts.std[rows].numpy()
        scaling = inputs.scaling_of(recording.session_id)
        made = [_scaled(fits[name], scaling[name], mean, std, self.filter.history) for name in fits]
        weights = np.concatenate([weight for weight, _ in made], axis=-1)  # (units, history, outputs)
        self.filter.weight[rows] = torch.from_numpy(weights).flatten(1).to(self.filter.weight)
        offset = np.concatenate([offset for _, offset in made])
        self.filter.offset[session] = torch.from_numpy(offset).to(self.filter.offset)


def fit_wiener_decoder(config: WienerDecoderConfig, inputs: FitInputs) -> WienerDecoder:
    """Fit one filter for every session and behavior.

    Args:
        config: With its behaviors.
        inputs: What to fit it on.

    Raises:
        RecordingError: A recording lacks a split or behavior, or has too many units for normal equations.
    """
    only_continuous(config, "Wiener filter")
    fits = {
        recording.session_id: {name: _fit(recording, name, config, inputs) for name in config.behaviors}
        for recording in inputs.recordings
    }
    history = max(fit.lags * fit.width for each in fits.values() for fit in each.values())
    model = WienerDecoder(replace(config, history=history), **inputs.sizes)
    model.filter.weight.zero_()
    model.fit_inputs(inputs.recordings, inputs.vocabulary)
    for recording in inputs.recordings:
        model.set_filter(recording, fits[recording.session_id], inputs=inputs)
    return model.eval()


def _fit(recording: Recording, behavior: str, config: WienerDecoderConfig, inputs: FitInputs) -> Wiener:
    ahead_ms = config.effective_lead_ms - config.chunk_ms
    settings = WienerConfig(
        lags=config.lags,
        widths=config.widths,
        strengths=config.strengths,
        bin_ms=config.chunk_ms,
        rebin=True,
        strict=config.effective_lead_ms > 0,
        ahead_ms=ahead_ms if config.effective_lead_ms > 0 else 0,
    )
    return fit_wiener(recording, behavior, settings, selection=inputs.selection(recording))


def _scaled(
    fit: Wiener, scaling: Scaling, mean: np.ndarray, std: np.ndarray, history: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (units, history, d) for z-scored counts, oldest first, and offset (d,), to scaled units."""
    units, outputs = len(mean), len(fit.offset)
    by_lag = fit.weights.reshape(fit.lags, units, outputs)
    shift = fit.width * mean - fit.mean.reshape(fit.lags, units)  # of the inputs, between the two means
    offset = fit.offset + np.einsum("lu,lud->d", shift, by_lag)
    by_chunk = np.repeat(by_lag * std[:, None], fit.width, axis=0)  # newest first
    weights = np.zeros((history, units, outputs))
    weights[: len(by_chunk)] = by_chunk
    spread = np.asarray(scaling.std)
    return weights[::-1].swapaxes(0, 1) / spread, (offset - np.asarray(scaling.mean)) / spread
