"""What the count-based decoders share: counts in, and answers at any time within a chunk out.

    tokens -> counts per unit and chunk -> (the decoder's own part) -> value and slope per chunk -> answers

The chunk that ends at e answers for a stretch as long as itself (see `DecoderConfig.lead_ms`). A decoder says
one value, for the middle of that stretch, and one slope; an answer is value + slope * (time - middle).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from possm.baselines.counts import Columns, UnitCounts
from possm.batch import Batch, Queries, State
from possm.errors import ConfigError
from possm.model.contract import DecoderConfig, DecoderModel


class CountsDecoder(DecoderModel):
    """A decoder of binned counts; a subclass says what happens between counts and answers.

    Args:
        config: Architecture.
        num_units: Rows of the unit vocabulary, the blank unit (row 0) included.
        num_sessions: Rows of the session vocabulary.
    """

    def __init__(self, config: DecoderConfig, *, num_units: int, num_sessions: int) -> None:
        super().__init__()
        if not config.behaviors:
            raise ConfigError("the decoder has nothing to decode", fix="name a behavior")
        self.config = config
        self.counts = UnitCounts(num_units, num_sessions)

    @property
    def num_outputs(self) -> int:
        """Dimensions of all behaviors together."""
        return sum(behavior.num_dimensions for behavior in self.config.behaviors.values())

    def fit_inputs(self, recordings: Sequence[Any], vocabulary: Any) -> None:
        """Take mean, deviation and cap of every unit from the train split of these recordings."""
        self.counts.fit(recordings, vocabulary, chunk_ms=self.config.chunk_ms)

    def tables(self) -> Columns:
        """Where every unit is."""
        return self.counts.columns()

    def initial_state(self, num_sequences: int) -> State:
        """The state before the first chunk, for S sequences."""
        like = self.counts.mean
        seen = torch.zeros(num_sequences, dtype=torch.int64, device=like.device)
        return State(
            self.initial_memory(num_sequences, self.tables()), like.new_zeros(num_sequences, 0, 1), seen
        )

    def forward(
        self, batch: Batch, state: State | None = None, tables: Columns | None = None
    ) -> tuple[dict[str, Tensor], State]:
        """Decode S x C chunks; arguments and results as in `DecoderModel.forward`."""
        columns = self.tables() if tables is None else tables
        if state is None:
            state = self.initial_state(len(batch.session))
        counts = self.counts(batch.tokens, batch.session, columns, num_chunks=batch.num_chunks)
        decoded, memory = self.decode(counts, batch.session, columns, state.backbone)
        rows = decoded.flatten(0, 1)
        answers, first = {}, 0
        for name, behavior in self.config.behaviors.items():
            last = first + 2 * behavior.num_dimensions
            if name in batch.queries:
                answers[name] = self._answer(rows[:, first:last], batch.queries[name])
            first = last
        return {name: answers[name] for name in batch.queries}, State(memory, state.recent, state.seen)

    @abstractmethod
    def initial_memory(self, num_sequences: int, columns: Columns) -> tuple[Tensor, ...]:
        """What `decode` remembers before the first chunk: tensors of S sequences."""

    @abstractmethod
    def decode(
        self, counts: Tensor, session: Tensor, columns: Columns, memory: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Counts -> values and slopes.

        Args:
            counts: (S, C, U) z-scored.
            session: (S,) row of each sequence's session.
            columns: Where units are.
            memory: What the previous call returned.

        Returns:
            (S, C, 2 * outputs): behavior by behavior its D values, then its D slopes per chunk, in scaled
            units; and the memory after the last chunk.
        """

    def _answer(self, rows: Tensor, queries: Queries) -> Tensor:
        """(S * C, 2 D), Q output times -> (Q, D)."""
        chunk_s = self.config.chunk_s
        middle_s = self.config.effective_lead_ms / 1000 - chunk_s / 2  # after the end of the chunk
        value, slope = functional.embedding(queries.chunk, rows).chunk(2, dim=1)
        return value + slope * ((queries.time_s.to(rows) - middle_s) / chunk_s).unsqueeze(1)
