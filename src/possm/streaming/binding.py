"""A decoder bound to one stream: which session, which behaviors, and which row each of its units is."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from possm.batch import Batch, Queries, Values
from possm.data.chunks import chunk_tokens, no_tokens
from possm.data.labels import softmax
from possm.data.scaling import Scaling
from possm.errors import StreamError
from possm.streaming.engines import Engine, StreamSpec, open_engine
from possm.streaming.inbox import Arrivals

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Binding:
    """What a stream uses of a decoder."""

    engine: Engine
    session_id: str
    behaviors: tuple[str, ...]
    """What is decoded, in this order."""
    unit_ids: tuple[str, ...]
    """The stream's units."""
    rows: np.ndarray
    """(units,) int64: their vocabulary rows, -1 where the decoder does not know one."""

    @property
    def spec(self) -> StreamSpec:
        """What is known of the decoder."""
        return self.engine.spec

    @property
    def known(self) -> np.ndarray:
        """(units,) bool: which of the stream's units the decoder knows."""
        return self.rows >= 0

    def caps(self, max_count: int | None = None) -> float | np.ndarray | None:
        """What a unit may add up to in one chunk: the cap that the decoder has for it, (units,), and not more
        than `max_count`; None where there is neither."""
        if self._caps is None:
            return max_count
        return self._caps if max_count is None else np.minimum(self._caps, max_count)

    @property
    def footprint(self) -> str:
        """What two decoders must have in common for one to take over from the other."""
        state = self.engine.initial_state()
        arrays = [f"{array.dtype}{list(array.shape)}" for array in (*state.backbone, state.recent)]
        inputs = self.spec.inputs
        reads = ", ".join(inputs.inputs)
        if inputs.values:
            reads += f" in {inputs.rate_hz:g} bins a second, {inputs.normalize}"
        clock = f"chunk {self.spec.chunk_ms} ms, lead {self.spec.lead_ms} ms"
        return f"{clock}, reads {reads}, answers {', '.join(self._answers())}, state {' '.join(arrays)}"

    def _answers(self) -> Iterator[str]:
        """Every behavior that is decoded, as its reader was told of it."""
        for name in self.behaviors:
            named = self.spec.classes.get(name) or self.spec.sequences.get(name)
            yield f"{name}[{' '.join(named) if named else self.spec.behaviors[name]}]"

    def batch(
        self,
        spikes: Arrivals,
        edges_s: np.ndarray,
        queries: dict[str, Queries],
        values: Values | None = None,
    ) -> Batch:
        """The chunks between these edges: what `collate` makes of this one sequence, without its copies."""
        tokens = no_tokens(len(edges_s) - 1)
        if self.spec.inputs.spikes:
            tokens = chunk_tokens(spikes.times_s, self.rows[spikes.unit], spikes.count, edges_s)
        return Batch(tokens, self._session_rows, len(edges_s) - 1, queries, values=values)

    def physical(self, behavior: str, values: np.ndarray) -> np.ndarray:
        """Answers of the engine, (Q, D), in the physical unit of the behavior, or as probabilities."""
        if behavior in self.spec.classes or behavior in self.spec.sequences:
            return softmax(values)
        scaling = self._scaling.get(behavior)
        return values if scaling is None else scaling.invert(values)

    @cached_property
    def _scaling(self) -> dict[str, Scaling]:
        return self.spec.scaling_of(self.session_id)

    @cached_property
    def _caps(self) -> np.ndarray | None:
        return self.spec.vocabulary.caps_of(self.rows)

    @cached_property
    def _session_rows(self) -> np.ndarray:
        return np.array([self.spec.vocabulary.session_row(self.session_id)], np.int64)


def bind(
    decoder: Any,
    *,
    session: str | None = None,
    behaviors: Sequence[str] = (),
    unit_ids: Sequence[str] | None = None,
) -> Binding:
    """Bind a decoder to a stream.

    Args:
        decoder: A decoder, the path of its file, or an engine.
        session: The session the units are of; None is the decoder's only one.
        behaviors: What to decode; none named is all.
        unit_ids: The stream's units; None is those the decoder knows of the session, in its order.

    Raises:
        StreamError: The session is not clear, a behavior is not decoded, or no unit is known.
        CheckpointError: The decoder has never seen the session, or its file cannot be used.
    """
    engine = open_engine(decoder)
    vocabulary = engine.spec.vocabulary
    session_id = _session(engine.spec, session)
    names = vocabulary.units_of(session_id) if unit_ids is None else tuple(unit_ids)
    rows = vocabulary.rows_of(session_id, names)
    unknown = int(np.count_nonzero(rows < 0))
    if unknown == len(names):
        known = vocabulary.units_of(session_id)
        raise StreamError(
            "the decoder knows none of the stream's units",
            about=session_id,
            got=f"{len(names)} unit(s): {_few(names)}",
            wanted=f"some of {len(known)} unit(s): {_few(known)}",
            fix="pass the unit ids the decoder was trained with, or adapt it to this session",
        )
    if unknown:
        log.warning("%s: the decoder does not know %d of %d units", session_id, unknown, len(names))
    return Binding(engine, session_id, _behaviors(engine.spec, behaviors), names, rows)


def _session(spec: StreamSpec, session: str | None) -> str:
    sessions = spec.vocabulary.sessions
    if session is None and len(sessions) != 1:
        raise StreamError(
            "the stream needs a session",
            got=f"a decoder of {len(sessions)}: {_few(sessions)}",
            fix="name one",
        )
    session = sessions[0] if session is None else session
    spec.vocabulary.session_row(session)  # raises for a session it has never seen
    return session


def _behaviors(spec: StreamSpec, behaviors: Sequence[str]) -> tuple[str, ...]:
    for name in behaviors:
        if name not in spec.behaviors:
            raise StreamError(
                f"the decoder does not decode '{name}'",
                wanted=f"one of {', '.join(spec.behaviors)}",
                fix="name what it was trained on",
            )
    return tuple(behaviors) or tuple(spec.behaviors)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
