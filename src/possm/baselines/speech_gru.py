"""The decoder POSSM is compared with in speech: a GRU over strided windows of bins (Willett et al. 2023).

    values of a chunk -> linear map of the session, softsign -> windows of `kernel` chunks every `stride`
    -> GRU of several layers -> logits of the blank and each symbol

It reads all values of a chunk side by side, so every session must have the same number of channels. The
paper's sizes are the defaults: five layers of 1024, windows of 32 bins every 4 (55 million parameters with
256 channels and 24 sessions; 133 million in both directions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from possm.batch import Batch, State, Values
from possm.config import require
from possm.errors import ConfigError
from possm.model.contract import DecoderConfig, DecoderModel
from possm.model.decoder import check_inputs, value_kinds


@dataclass(frozen=True, kw_only=True)
class SpeechGruConfig(DecoderConfig):
    """Architecture."""

    inputs: tuple[str, ...] = ("counts",)
    """What it reads, names in KINDS; with a value in every bin."""
    bins: int = 1
    """Bins in a chunk."""
    hidden: int = 1024
    """Size of a layer, in each direction."""
    num_layers: int = 5
    """Layers of the GRU."""
    kernel: int = 32
    """Chunks that a step of the GRU sees."""
    stride: int = 4
    """Chunks from one step, and answer, to the next."""
    both_ways: bool = False
    """Whether it runs in both directions; it then decodes no stream."""
    input_dropout: float = 0.2
    """Of the values, after the map of the session."""
    dropout: float = 0.4
    """Between layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_inputs(self.inputs)
        require("spikes" not in self.inputs, "inputs", self.inputs, "counts, power, or both")
        for name in ("bins", "hidden", "num_layers", "kernel", "stride"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("input_dropout", "dropout"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "0 or more, below 1")
        other = [name for name, behavior in self.behaviors.items() if behavior.readout != "sequence"]
        require(not other, "behaviors", other, "sequences: this decoder answers every `stride` chunks only")

    @property
    def frame_chunks(self) -> int:
        """Chunks from one answer to the next."""
        return self.stride

    @property
    def looks_ahead(self) -> bool:
        """Whether it reads a whole sequence before it answers."""
        return self.both_ways


class SpeechGru(DecoderModel):
    """The baseline, under the contract of all decoders.

    Args:
        config: Architecture.
        num_units: Rows of the unit vocabulary, the blank unit included.
        num_sessions: Rows of the session vocabulary, which share the units out evenly.
    """

    def __init__(self, config: SpeechGruConfig, *, num_units: int, num_sessions: int) -> None:
        super().__init__()
        self.config = config
        channels = -(-(num_units - 1) // num_sessions)
        self.width = channels * len(value_kinds(config.inputs)) * config.bins
        self.day_weight = nn.Parameter(torch.eye(self.width).repeat(num_sessions, 1, 1))
        self.day_bias = nn.Parameter(torch.zeros(num_sessions, self.width))
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.gru = nn.GRU(
            self.width * config.kernel,
            config.hidden,
            config.num_layers,
            batch_first=True,
            dropout=config.dropout if config.num_layers > 1 else 0.0,
            bidirectional=config.both_ways,
        )
        for name, weight in self.gru.named_parameters():
            if "weight_hh" in name:
                nn.init.orthogonal_(weight)
            elif "weight_ih" in name:
                nn.init.xavier_uniform_(weight)
        self.answering = (2 if config.both_ways else 1) * config.hidden
        self.readouts = nn.ModuleList(
            nn.Linear(self.answering, behavior.num_dimensions) for behavior in config.behaviors.values()
        )

    def fit_inputs(self, recordings: Sequence[Any], vocabulary: Any) -> None:
        """Nothing is fitted, but looked at.

        Raises:
            ConfigError: Recordings differ in the number of channels.
        """
        channels = sorted({recording.num_units for recording in recordings})
        if len(channels) > 1:
            raise ConfigError(
                "the layers of days need the same channels in every session",
                got=", ".join(map(str, channels)),
                fix="leave out sessions with other channels, or train a decoder of tokens",
            )

    def initial_state(self, num_sequences: int) -> State:
        """The state before the first chunk; `seen` counts the chunks since the last answer."""
        config, like = self.config, self.day_bias
        hidden = like.new_zeros(config.num_layers, num_sequences, config.hidden)
        recent = like.new_zeros(num_sequences, config.kernel - 1, self.width)
        seen = torch.zeros(num_sequences, dtype=torch.int64, device=like.device)
        return State(() if config.both_ways else (hidden,), recent, seen)

    def forward(
        self, batch: Batch, state: State | None = None, tables: object = None
    ) -> tuple[dict[str, Tensor], State]:
        """Decode S x C chunks; every query must be at the end of a window.

        Raises:
            ConfigError: The values are not as many as in training.
        """
        state = self.initial_state(len(batch.session)) if state is None else state
        phase, stride = int(state.seen[0]), self.config.stride
        history = torch.cat([state.recent, self._days(batch)], dim=1)
        number = torch.arange(batch.num_chunks, device=history.device)
        ends = number[(phase + number + 1) % stride == 0]
        windows = history.unfold(1, self.config.kernel, 1)[:, ends].flatten(2)  # (S, frames, width * kernel)
        hidden, after = self._recur(windows, state, batch)
        frames = torch.cat([hidden.flatten(0, 1), hidden.new_zeros(1, hidden.shape[2])])
        answers = {}
        for readout, name in zip(self.readouts, self.config.behaviors, strict=True):
            if name in batch.queries:
                chunk = batch.queries[name].chunk
                frame = (phase + chunk % batch.num_chunks + 1) // stride - 1
                row = chunk // batch.num_chunks * len(ends) + frame
                answers[name] = readout(frames[row])
        kept = history[:, history.shape[1] - (self.config.kernel - 1) :]
        return answers, State(after, kept, (state.seen + batch.num_chunks) % stride)

    def _days(self, batch: Batch) -> Tensor:
        """All values of a chunk through the map of their session: (S, C, width)."""
        x = _dense(batch.values, self.width).to(self.day_bias.dtype)
        mapped = torch.baddbmm(self.day_bias[batch.session].unsqueeze(1), x, self.day_weight[batch.session])
        return self.input_dropout(nn.functional.softsign(mapped))

    def _recur(self, windows: Tensor, state: State, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(S, frames, hidden), and the state of the GRU."""
        if not windows.shape[1]:
            return windows.new_zeros(len(windows), 0, self.answering), state.backbone
        if not self.config.both_ways:
            hidden, last = self.gru(windows, state.backbone[0])
            return hidden, (last,)
        if batch.lengths is None:
            return self.gru(windows)[0], ()
        lengths = (batch.lengths // self.config.stride).clamp(min=1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(windows, lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = nn.utils.rnn.pad_packed_sequence(
            self.gru(packed)[0], batch_first=True, total_length=windows.shape[1]
        )
        return hidden, ()


def _dense(values: Values | None, width: int) -> Tensor:
    """(S, C, width): 0 where a chunk has no value."""
    got = 0 if values is None else values.value.shape[2]
    if values is None or got != width:
        raise ConfigError(
            "this decoder reads the same values in every chunk of every session", got=got, wanted=width
        )
    rank = torch.arange(width, device=values.unit.device)
    there = (values.unit.unsqueeze(1) > 0) & (rank < values.size.unsqueeze(2))
    return values.value * there
