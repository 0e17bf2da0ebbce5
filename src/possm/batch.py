"""The doorway types: what the data rooms hand to a decoder, and what a decoder hands back.

Arrays are numpy where a batch is made and torch where it is used (`Batch.to`), with the same
names and shapes. This module imports neither, so that a live decoder can run without torch.
Sizes: S sequences (windows, or one stream), C chunks in each, N tokens, Q queries, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Array = Any
"""numpy.ndarray or torch.Tensor."""


KINDS = {"spikes": 0, "counts": 1, "power": 2}
"""What a decoder can read, by the number of its token kind: spikes (or bins of k spikes) have a time and a
multiplicity; counts per bin and spike-band power, causally normalized, have a value in every bin."""


@dataclass(frozen=True)
class Tokens:
    """The inputs of S x C chunks, concatenated; no padding.

    The tokens of chunk c of sequence s are rows ``offsets[s*C + c] : offsets[s*C + c + 1]``.
    A chunk may be empty; the encoder then attends to its blank unit.
    """

    unit: Array
    """(N,) int64: vocabulary row of the unit, 1 or more (row 0 is the blank unit)."""
    time_s: Array
    """(N,) float32: seconds since the start of the token's chunk."""
    count: Array
    """(N,) float32: multiplicity, above 0. A spike is 1; a bin of k spikes is one token of count k."""
    offsets: Array
    """(S*C + 1,) int64: first token of every chunk, and N at the end."""


@dataclass(frozen=True)
class Values:
    """Inputs with a value, of S x C chunks. Every unit has one of each kind in every bin, zeros included, so
    the M of a chunk are laid out alike in a whole sequence: bin by bin, in a bin kind by kind, unit by unit.
    """

    value: Array
    """(S, C, M) float32."""
    unit: Array
    """(S, M) int64: vocabulary row of the unit; 0 (blank) is no token: other sequences have more."""
    kind: Array
    """(S, M) int64: a number of KINDS, not 0."""
    time_s: Array
    """(S, M) float32: centre of the bin, in seconds since the start of the chunk."""
    size: Array
    """(S, C) int64: how many of the M a chunk has; less than M past the end of its data."""


@dataclass(frozen=True)
class Queries:
    """The output times asked of one behavior, concatenated over the sequences."""

    chunk: Array
    """(Q,) int64: s*C + c, the newest chunk the answer may use."""
    time_s: Array
    """(Q,) float32: output time minus the END of that chunk."""


@dataclass(frozen=True)
class Targets:
    """What the answers should be, in scaled units (mean 0, standard deviation 1)."""

    values: Array
    """(Q, D) float32; of a category, (Q,) int64 numbers of classes."""
    weights: Array
    """(Q,) float32, 0 or more: the loss weight of each query."""


@dataclass(frozen=True)
class SequenceTargets:
    """What the answers of a sequence should write, trial by trial."""

    symbols: Array
    """(sum of lengths,) int64: numbers of symbols, 1 or more; 0 is the blank."""
    lengths: Array
    """(S,) int64: symbols of each sequence."""
    frames: Array
    """(S,) int64: queries of each sequence, in order; 0 leaves it out of the loss."""


@dataclass(frozen=True)
class Batch:
    """One call of a decoder."""

    tokens: Tokens
    session: Array
    """(S,) int64: vocabulary row of each sequence's session."""
    num_chunks: int
    """C, the same for all sequences."""
    queries: Mapping[str, Queries]
    """By behavior name."""
    targets: Mapping[str, Targets | SequenceTargets] = field(default_factory=dict)
    """By behavior name; empty when nothing is known (a live stream)."""
    values: Values | None = None
    """Tokens with a value; None where the decoder reads none."""
    lengths: Array | None = None
    """(S,) int64: chunks of each sequence before its padding; None where all are whole. Only a decoder that
    looks ahead has to know."""

    def to(self, convert: Callable[[Array], Array]) -> Batch:
        """The same batch with every array passed through `convert` (to torch, to a device)."""
        return replace(
            self,
            tokens=_map(self.tokens, convert),
            session=convert(self.session),
            queries={name: _map(value, convert) for name, value in self.queries.items()},
            targets={name: _map(value, convert) for name, value in self.targets.items()},
            values=None if self.values is None else _map(self.values, convert),
            lengths=None if self.lengths is None else convert(self.lengths),
        )


def _map(record: Any, convert: Callable[[Array], Array]) -> Any:
    return replace(record, **{f.name: convert(getattr(record, f.name)) for f in fields(record)})


@dataclass(frozen=True)
class State:
    """Everything a decoder remembers between two calls, for S sequences at once.

    A state is a value: a call takes one and returns a new one, so it can be saved, copied and resumed.
    """

    backbone: tuple[Array, ...]
    """The backbone's own tensors; their meaning and shape are the backbone's."""
    recent: Array
    """(S, k - 1, hidden) float: the newest hidden states but for the next one, oldest first."""
    seen: Array
    """(S,) int64: chunks decoded so far, counted up to k - 1: how many rows of `recent` are real."""


@dataclass(frozen=True)
class Prediction:
    """What a live decoder says about one behavior after one chunk, in physical units."""

    behavior: str
    times_s: np.ndarray
    """(Q,) float64: the times the values are about, on the stream's clock."""
    values: np.ndarray
    """(Q, D) float32, in the physical unit of the behavior; of a category, the probability of each class, and
    of a sequence, of the blank and each symbol."""
    chunk: int
    """Number of the newest chunk used; the first of the stream is 0."""
    start_s: float
    """Start of that chunk on the stream's clock."""
    end_s: float
    """End of that chunk: no spike at or after this time was used."""
    spikes: int
    """Spikes of that chunk that were used."""
    late: int
    """Spikes dropped because their chunk had already been decoded, since the stream began."""
    unknown: int
    """Spikes dropped because the decoder does not know their unit, since the stream began."""
    compute_s: float
    """Time the step took."""
    input_delay_s: float = math.nan
    """Arrival of the push that ended the chunk minus the chunk's end, on the stream's clock; NaN where the
    source cannot say when a push arrived."""
    decoder_hash: str = ""
    """Of the decoder that answered: weights and description."""
    dropped: int = 0
    """Spikes dropped for any reason, since the stream began; `LiveDecoder.counts` says which."""
    jumps: int = 0
    """How often the input's clock has jumped, since the stream began."""
    status: str = "ok"
    """Is "ok", or says what stands in for an answer while input is missing: "held", "decayed", "zeroed"."""
    classes: tuple[str, ...] = ()
    """Names of the classes of a category, or "" and the symbols of a sequence, one per column of `values`; of
    anything else, none."""
