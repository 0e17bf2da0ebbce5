"""What runs the step of a live decoder, chosen by name; importing this loads no engine and no torch.

An engine is one decoder made ready to run: it takes the chunks of ONE stream and the state as numpy, and
gives answers and state as numpy, so that a stream can be saved, checked and handed from engine to engine
without knowing what computes it. A new engine is one file and one line in ENGINES.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from possm.batch import Batch, State
from possm.data.features import InputConfig
from possm.data.scaling import Scaling, scaling_of
from possm.data.vocabulary import Vocabulary
from possm.errors import StreamError


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """What a host has to know of a decoder to feed it and to read its answers. Plain data: it goes to JSON
    and back with `possm.config`, so an exported decoder carries it in its metadata."""

    vocabulary: Vocabulary
    scaling: dict[str, Scaling]
    """By behavior, for sessions without one of their own; a behavior without one is answered as the readout
    gives it."""
    behaviors: dict[str, int]
    """Everything it can decode: behavior -> dimensions of one sample."""
    chunk_ms: int
    """Step of the decoder."""
    lead_ms: int
    """A chunk that ends at e answers for times in [e + lead - chunk, e + lead)."""
    hash: str
    """Of weights and description; the same for every engine that runs this decoder."""
    session_scaling: dict[str, dict[str, Scaling]] = field(default_factory=dict)
    """Session -> behavior -> scaling, where a session has its own."""

    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By category behavior: names of the classes, in the order of its answers, which are logits."""
    inputs: InputConfig = InputConfig()
    """What it reads, and how values in bins are normalized."""
    sequences: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By behavior that is a sequence: its symbols, from answer 1 on; answer 0 is the blank. Answers are
    logits."""
    frame_chunks: int = 1
    """Chunks from one answer of a sequence to the next."""

    def scaling_of(self, session_id: str) -> dict[str, Scaling]:
        """By behavior, for one session."""
        return scaling_of(session_id, self.scaling, self.session_scaling)


@runtime_checkable
class Engine(Protocol):
    """One decoder, ready to run; it keeps nothing between two calls."""

    spec: StreamSpec

    def initial_state(self) -> State:
        """The state before the first chunk of a stream, numpy, for one sequence."""

    def step(self, batch: Batch, state: State) -> tuple[dict[str, np.ndarray], State]:
        """Decode the chunks of one sequence.

        Args:
            batch: Numpy, one sequence of one or more chunks; behaviors nobody asks about are not in
                ``batch.queries``.
            state: What the previous call returned; it is not changed.

        Returns:
            Behavior -> (Q, D) answers in scaled units, and the state after the last chunk.
        """


def _torch_engine(decoder: Any) -> Engine:
    from possm.streaming.torch_engine import TorchEngine

    return TorchEngine(decoder)


def _onnx_engine(decoder: Any) -> Engine:
    from possm.streaming.onnx_engine import OnnxEngine

    return OnnxEngine(decoder)


ENGINES: dict[str, Callable[[Any], Engine]] = {"torch": _torch_engine, "onnx": _onnx_engine}
"""By name; each takes the path of a file it can run, "torch" also a decoder in memory."""


def open_engine(decoder: Any, *, name: str | None = None) -> Engine:
    """Make a decoder ready to run.

    Args:
        decoder: A `possm.checkpoint.Decoder`, the path of a decoder file, or an engine, which is returned
            as it is.
        name: What computes the step, a name in ENGINES; None is "onnx" for a file that ends in .onnx, else
            "torch".

    Raises:
        StreamError: No engine has this name.
        CheckpointError: The file cannot be used.
    """
    if isinstance(decoder, Engine):
        return decoder
    if name is None:
        name = (
            "onnx" if isinstance(decoder, str | os.PathLike) and Path(decoder).suffix == ".onnx" else "torch"
        )
    if name not in ENGINES:
        raise StreamError("there is no such engine", got=name, wanted=f"one of {', '.join(ENGINES)}")
    return ENGINES[name](decoder)
