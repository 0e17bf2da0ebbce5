"""Spikes -> numbered chunks: THE binning, for the loader and for the stream.

Chunk i covers [origin + i * chunk_ms, origin + (i + 1) * chunk_ms): integers are the clock, and an edge is
always computed from its number, so a chunk has the same edges whoever asks. A spike on an edge belongs to
the later chunk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from possm.batch import Batch, Queries, SequenceTargets, Targets, Tokens, Values

EDGE_TOLERANCE_S = 1e-9
"""An output time this much before a chunk ends counts as at its end: rounding of float64 seconds is below
1e-11, and sample clocks that divide the chunk clock must not fall to either side by chance."""


def chunk_edges_s(origin_s: float, *, first: int, count: int, chunk_ms: int) -> np.ndarray:
    """The `count` + 1 edges of chunks `first`, `first` + 1, ...: float64 seconds."""
    return origin_s + (first + np.arange(count + 1)) * chunk_ms / 1000


def chunk_tokens(times_s: np.ndarray, unit: np.ndarray, count: np.ndarray, edges_s: np.ndarray) -> Tokens:
    """Sort tokens into the chunks between `edges_s`; those outside are left out.

    Args:
        times_s: (N,) float64 absolute seconds, in any order.
        unit: (N,) int64 vocabulary rows.
        count: (N,) float32 multiplicities.
        edges_s: (C + 1,) ascending.

    Returns:
        Tokens of one sequence of C chunks, numpy.
    """
    if (times_s[1:] < times_s[:-1]).any():
        order = np.argsort(times_s, kind="stable")
        times_s, unit, count = times_s[order], unit[order], count[order]
    cuts = times_s.searchsorted(edges_s)  # a spike on an edge is after the cut
    inside = slice(cuts[0], cuts[-1])
    starts_s = edges_s[0] if len(edges_s) == 2 else edges_s[:-1].repeat(cuts[1:] - cuts[:-1])
    within = (times_s[inside] - starts_s).astype(np.float32)
    return Tokens(unit[inside].astype(np.int64), within, count[inside].astype(np.float32), cuts - cuts[0])


def no_tokens(num_chunks: int) -> Tokens:
    """What a decoder gets that reads no spikes."""
    nothing = np.zeros(0, np.float32)
    return Tokens(np.zeros(0, np.int64), nothing, nothing, np.zeros(num_chunks + 1, np.int64))


def query_chunks(times_s: np.ndarray, edges_s: np.ndarray, *, lead_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Which chunk answers for each output time, and the time relative to that chunk's end.

    The chunk [a, b) answers for times in [a + lead, b + lead).

    Returns:
        (Q,) int64 chunk numbers, counted from the first edge, outside 0..C-1 where no chunk answers, and
        (Q,) float32 output time minus the end of that chunk.
    """
    chunk = np.searchsorted(edges_s, times_s - lead_s + EDGE_TOLERANCE_S, side="right") - 1
    inside = np.clip(chunk, 0, len(edges_s) - 2)
    return chunk.astype(np.int64), (times_s - edges_s[inside + 1]).astype(np.float32)


def class_times(edges_s: np.ndarray, interval: tuple[float, float], *, lead_s: float) -> np.ndarray:
    """When the class of an interval is asked, once per chunk as in a stream: (n,) the first time that each
    chunk answers for which starts in the interval."""
    starts_s, (begin_s, end_s) = edges_s[:-1] + EDGE_TOLERANCE_S, interval
    return edges_s[:-1][(starts_s >= begin_s) & (starts_s < end_s)] + lead_s


@dataclass(frozen=True)
class Sample:
    """One sequence on its way into a batch."""

    tokens: Tokens
    session: int
    queries: Mapping[str, Queries]
    """Chunk numbers count from this sequence's first chunk."""
    targets: Mapping[str, Targets | SequenceTargets] = field(default_factory=dict)
    values: Values | None = None
    length: int | None = None
    """Chunks before the padding; None where there is none."""

    @property
    def num_chunks(self) -> int:
        """C."""
        return len(self.tokens.offsets) - 1


def collate(samples: Sequence[Sample]) -> Batch:
    """Concatenate sequences of equal length into one ragged batch; the loader's and the stream's."""
    num_chunks = samples[0].num_chunks
    assert all(sample.num_chunks == num_chunks for sample in samples)
    sizes = [len(sample.tokens.unit) for sample in samples]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    offsets = [sample.tokens.offsets[:-1] + start for sample, start in zip(samples, starts, strict=False)]
    return Batch(
        tokens=Tokens(
            np.concatenate([sample.tokens.unit for sample in samples]),
            np.concatenate([sample.tokens.time_s for sample in samples]),
            np.concatenate([sample.tokens.count for sample in samples]),
            np.concatenate([*offsets, starts[-1:]]),
        ),
        session=np.array([sample.session for sample in samples], np.int64),
        num_chunks=num_chunks,
        queries={name: _join_queries(samples, name) for name in samples[0].queries},
        targets={name: _join_targets(samples, name) for name in samples[0].targets},
        values=_join_values([sample.values for sample in samples]),
        lengths=_join_lengths(samples),
    )


def _join_queries(samples: Sequence[Sample], name: str) -> Queries:
    chunk = [sample.queries[name].chunk + i * sample.num_chunks for i, sample in enumerate(samples)]
    return Queries(np.concatenate(chunk), np.concatenate([s.queries[name].time_s for s in samples]))


def _join_targets(samples: Sequence[Sample], name: str) -> Targets | SequenceTargets:
    targets = [sample.targets[name] for sample in samples]
    kind = type(targets[0])
    return kind(*(np.concatenate([getattr(target, f.name) for target in targets]) for f in fields(kind)))


def _join_lengths(samples: Sequence[Sample]) -> np.ndarray | None:
    if all(sample.length is None for sample in samples):
        return None
    return np.array([s.num_chunks if s.length is None else s.length for s in samples], np.int64)


def _join_values(parts: Sequence[Values | None]) -> Values | None:
    """Sequences side by side; those with fewer values in a chunk are filled up with none."""
    given = [part for part in parts if part is not None]
    if not given:
        return None
    most = max(part.unit.shape[1] for part in given)

    def joined(name: str, filling: int = 0) -> np.ndarray:
        arrays = [getattr(part, name) for part in given]
        return np.concatenate(
            [
                np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, most - a.shape[-1])], constant_values=filling)
                if a.shape[-1] < most
                else a
                for a in arrays
            ]
        )

    size = np.concatenate([part.size for part in given])
    return Values(joined("value"), joined("unit"), joined("kind", 1), joined("time_s"), size)
