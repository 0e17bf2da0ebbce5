"""The step in ONNX Runtime, from a file of `possm export`; it loads no torch.

One thread that never spins: a step is too short to divide, and a thread that waits busily takes the core
from the rig's other programs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from possm.batch import Batch, Queries, State
from possm.config import from_json
from possm.errors import CheckpointError, PossmError, StreamError
from possm.streaming.engines import StreamSpec
from possm.streaming.sealed import check_seal

FORMAT = 2
"""Version of the graph that this engine feeds."""
BLOCK = 2048
"""Tokens whose angles are made at once: they stay in the cache, and so small a product is one thread's."""


class OnnxEngine:
    """An exported decoder, ready to run. Not for several threads at once.

    Args:
        path: A file that `possm export` wrote.

    Raises:
        CheckpointError: It is missing, damaged, foreign, or of another version.
        StreamError: onnxruntime is not installed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        content = _read(path)
        self._session = _open(content, path)
        self._content = _metadata(self._session, path)
        self.spec = self._content["spec"]
        self._basis = TokenBasis(self._content["omega"], self._content["latent_time_s"])
        self._behaviors = list(self.spec.behaviors)
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._several = len(self._behaviors) > 1
        self._state_names = [name for name, _ in self._content["state"]]
        self._shapes = [tuple(shape) for _, shape in self._content["state"]]

    @property
    def architecture(self) -> dict[str, str]:
        """Backbone, size and the precision of the weights ("float32" or "int8")."""
        return dict(self._content["architecture"])

    def initial_state(self) -> State:
        """The state before the first chunk, for one sequence."""
        arrays = [np.zeros(shape, np.float32) for shape in self._shapes[:-1]]
        return State(tuple(arrays[:-1]), arrays[-1].swapaxes(0, 1), np.zeros(1, np.int64))

    def step(self, batch: Batch, state: State) -> tuple[dict[str, np.ndarray], State]:
        """Decode the chunks of one sequence, one after the other."""
        if batch.num_chunks == 1:
            return self._chunk(batch, 0, batch.queries, state)
        parts: dict[str, list[np.ndarray]] = {name: [] for name in batch.queries}
        for chunk in range(batch.num_chunks):
            queries = {name: _of_chunk(asked, chunk) for name, asked in batch.queries.items()}
            answers, state = self._chunk(batch, chunk, queries, state)
            for name, answer in answers.items():
                parts[name].append(answer)
        return {name: np.concatenate(part) for name, part in parts.items()}, state

    def _chunk(
        self, batch: Batch, chunk: int, queries: Any, state: State
    ) -> tuple[dict[str, np.ndarray], State]:
        tokens = batch.tokens
        first, last = tokens.offsets[chunk], tokens.offsets[chunk + 1]
        feeds = {
            "unit": tokens.unit[first:last],
            "basis": self._basis(tokens.time_s[first:last]),
            "log_count": np.log(tokens.count[None, first:last]),
            "recent": state.recent.swapaxes(0, 1),
            "seen": state.seen,
        }
        for index, array in enumerate(state.backbone):
            feeds[f"state.{index}"] = array
        where = self._ask(queries, feeds)
        made = self._session.run(self._outputs, feeds)
        given = len(self._behaviors)
        answers = {name: made[self._behaviors.index(name)][rows] for name, rows in where.items()}
        *backbone, recent, seen = made[given:]
        return answers, State(tuple(backbone), recent.swapaxes(0, 1), seen)

    def _ask(self, queries: Any, feeds: dict[str, np.ndarray]) -> dict[str, slice]:
        """Put the queries of all behaviors on one axis; says which rows are whose."""
        where, begin, times, numbers = {}, 0, [], []
        for name, asked in queries.items():
            where[name] = slice(begin, begin + len(asked.time_s))
            begin = where[name].stop
            times.append(asked.time_s)
            numbers.append(self._behaviors.index(name))
        time_s = times[0] if len(times) == 1 else np.concatenate([np.zeros(0, np.float32), *times])
        feeds["query_time_s"] = time_s[:, None]
        if self._several:
            feeds["query_behavior"] = np.repeat(numbers, [len(t) for t in times]).astype(np.int64)
        return where


class TokenBasis:
    """Cosines and sines of the times of tokens. numpy has them in the processor's widest instructions, the
    runtime has not: of a chunk of 5,000 spikes they were two fifths of the step.

    Args:
        omega: (F,) angular frequencies.
        latent_time_s: Where in the chunk the latent sits, which times are taken from.
    """

    def __init__(self, omega: Sequence[float], latent_time_s: float) -> None:
        frequency = np.tile(np.array(omega, np.float32), 2)
        phase = np.repeat(np.array([0, -np.pi / 2], np.float32), len(omega))  # a sine is a cosine turned back
        self._turns = np.stack([frequency, phase])
        self._latent_time_s = np.float32(latent_time_s)

    def __call__(self, time_s: np.ndarray) -> np.ndarray:
        """Times since the start of the chunk (N,) -> cos, then sin (N, 2F), float32."""
        basis = np.empty((len(time_s), self._turns.shape[1]), np.float32)
        ones = np.ones((min(len(time_s), BLOCK), 2), np.float32)  # time and 1: angles are one product
        for begin in range(0, len(time_s), BLOCK):
            angle = basis[begin : begin + BLOCK]
            times = ones[: len(angle)]
            np.subtract(time_s[begin : begin + BLOCK], self._latent_time_s, out=times[:, 0])
            np.dot(times, self._turns, out=angle)
            np.cos(angle, out=angle)
        return basis


def _of_chunk(asked: Queries, chunk: int) -> Queries:
    rows = slice(*asked.chunk.searchsorted((chunk, chunk + 1)))
    return Queries(asked.chunk[rows], asked.time_s[rows])


def _read(path: str | os.PathLike[str]) -> bytes:
    if not Path(path).is_file():
        raise CheckpointError("there is no such file", about=path, fix="check the path")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError("the file cannot be read", about=path, got=error) from error
    check_seal(content, path)
    return content


def _open(content: bytes, path: str | os.PathLike[str]) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise StreamError(
            "onnxruntime is not installed", about=path, fix='pip install "possm[onnx]"'
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has one class for each of its error codes
        raise CheckpointError(
            "onnxruntime cannot run this decoder",
            about=path,
            got=str(error).splitlines()[0],
            fix="upgrade onnxruntime, or export it again",
        ) from error


def _metadata(session: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    """What the file says of itself, the spec as one; every entry that the engine reads is there."""
    try:
        content: dict[str, Any] = json.loads(session.get_modelmeta().custom_metadata_map["possm"])
        version = content["format"]
        if version == FORMAT:
            names = ("spec", "state", "architecture", "omega", "latent_time_s")
            content = {name: content[name] for name in names}
            content["spec"] = from_json(StreamSpec, content["spec"])
    except (ValueError, LookupError, TypeError, PossmError) as error:
        raise CheckpointError("the file does not say what it decodes", about=path, got=error) from error
    if version != FORMAT:
        raise CheckpointError(
            "the file is of another version",
            about=path,
            got=f"format {version}",
            wanted=f"format {FORMAT}",
            fix="export it again with this version of possm",
        )
    return content
