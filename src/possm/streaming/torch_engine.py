"""The step in eager PyTorch, on the device the decoder is on."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from possm.batch import Batch, State
from possm.checkpoint import Decoder, load_decoder
from possm.errors import StreamError
from possm.streaming.engines import StreamSpec


class TorchEngine:
    """A decoder with its unit tables made once, so that a spike costs a gather and a rotation.

    It works on a copy of the model: training that goes on beside the stream does not reach it. Nothing
    global is set; for steady timing on a CPU give torch one thread (``OMP_NUM_THREADS=1``).

    Args:
        decoder: A decoder, or the path of its file.

    Raises:
        StreamError: It looks ahead.
    """

    def __init__(self, decoder: Decoder | str | os.PathLike[str]) -> None:
        if not isinstance(decoder, Decoder):
            decoder = load_decoder(decoder)
        if decoder.config.looks_ahead:
            raise StreamError(
                "this decoder reads a whole sequence before it answers, so it decodes no stream",
                got=f"backbone {getattr(decoder.config, 'backbone', '')}",
                fix="train one with a causal backbone, or decode recordings with `possm evaluate`",
            )
        self.spec = spec_of(decoder)
        self._model = copy.deepcopy(decoder.model).eval()
        self._device = next(self._model.parameters()).device
        with torch.inference_mode():
            self._tables = self._model.tables()

    def initial_state(self) -> State:
        """The state before the first chunk, numpy, for one sequence."""
        with torch.inference_mode():
            return _state(self._model.initial_state(1), _to_numpy)

    def step(self, batch: Batch, state: State) -> tuple[dict[str, np.ndarray], State]:
        """Decode the chunks of one sequence; answers and state have the dtype of the weights."""
        with torch.inference_mode():
            before = _state(state, self._to_torch)
            answers, after = self._model(batch.to(self._to_torch), before, self._tables)
            return {name: _to_numpy(value) for name, value in answers.items()}, _state(after, _to_numpy)

    def _to_torch(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def spec_of(decoder: Decoder) -> StreamSpec:
    """What a host has to know of a decoder."""
    config = decoder.config
    return StreamSpec(
        vocabulary=decoder.vocabulary,
        scaling=dict(decoder.scaling),
        behaviors={name: behavior.num_dimensions for name, behavior in config.behaviors.items()},
        chunk_ms=config.chunk_ms,
        lead_ms=config.effective_lead_ms,
        hash=decoder.hash,
        session_scaling=dict(decoder.session_scaling),
        classes=decoder.classes,
        inputs=decoder.inputs,
        sequences=decoder.sequences,
        frame_chunks=config.frame_chunks,
    )


def _to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()


def _state(state: State, convert: Callable[[Any], Any]) -> State:
    return replace(
        state,
        backbone=tuple(convert(array) for array in state.backbone),
        recent=convert(state.recent),
        seen=convert(state.seen),
    )
