"""What every decoder keeps to, POSSM and the ones it is compared with.

    decoder = build(config, num_units=..., num_sessions=...)
    decoder(batch, state, tables) -> (behavior -> answers, state)

Training passes many chunks, a stream one; the state that comes out of a call goes into the next. What keeps
this contract can be trained, scored, saved and streamed by the same code (possm.decoders lists who does).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from possm.batch import Batch, State
from possm.config import require
from possm.model.readout import READOUTS


@dataclass(frozen=True, kw_only=True)
class BehaviorConfig:
    """One thing to decode."""

    num_dimensions: int
    """Size of one sample of the behavior; of a category, the number of classes; of a sequence, one more than
    its symbols: answer 0 is the blank."""
    readout: str = "continuous"
    """Kind of readout, a name in READOUTS."""
    classes: tuple[str, ...] = ()
    """Names of the classes of a category, in the order of its answers, or symbols of a sequence, from answer
    1 on; of anything else, none."""

    def __post_init__(self) -> None:
        require(self.num_dimensions >= 1, "num_dimensions", self.num_dimensions, "1 or more")
        require(self.readout in READOUTS, "readout", self.readout, f"one of {', '.join(READOUTS)}")
        if self.readout == "sequence":
            fits = len(set(self.classes)) == len(self.classes) == self.num_dimensions - 1 >= 1
            require(fits, "classes", self.classes, "different symbols, one less than dimensions (the blank)")
        if self.readout == "category":
            fits = len(set(self.classes)) == len(self.classes) == self.num_dimensions >= 2
            require(fits, "classes", self.classes, "two or more different names, one per dimension")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """What the configs of all decoders begin with: the clock, and what is decoded."""

    chunk_ms: int = 50
    """Step of the model (paper: 50; 20 also works)."""
    lead_ms: int | None = None
    """A chunk that ends at e answers for times in [e + lead - chunk, e + lead). 0 is the paper's convention:
    an output may use spikes up to the end of its own chunk. None means chunk_ms, where the decoder is
    strictly causal: an output at t uses spikes before t only. More than that forecasts."""
    behaviors: dict[str, BehaviorConfig] = field(default_factory=dict)
    """What is decoded, by name."""

    def __post_init__(self) -> None:
        require(self.chunk_ms >= 1, "chunk_ms", self.chunk_ms, "1 or more")
        require(self.effective_lead_ms >= 0, "lead_ms", self.lead_ms, "0 or more, or None for chunk_ms")

    @property
    def chunk_s(self) -> float:
        """Step of the model in seconds."""
        return self.chunk_ms / 1000

    @property
    def effective_lead_ms(self) -> int:
        """`lead_ms`, or what it stands for; it follows a changed `chunk_ms`."""
        return self.chunk_ms if self.lead_ms is None else self.lead_ms

    @property
    def inputs(self) -> tuple[str, ...]:
        """What it reads, names in KINDS; a decoder that reads more than spikes has a setting of this name."""
        return ("spikes",)

    @property
    def frame_chunks(self) -> int:
        """Chunks from one answer of a sequence to the next."""
        return 1

    @property
    def looks_ahead(self) -> bool:
        """Whether it reads a whole sequence before it answers: it cannot decode a stream."""
        return False

    @property
    def strictly_causal(self) -> bool:
        """Whether an output at t uses spikes before t only."""
        return self.effective_lead_ms >= self.chunk_ms


class DecoderModel(nn.Module):
    """The contract. A subclass is made as ``Model(config, num_units=..., num_sessions=...)``."""

    config: Any
    """Its `DecoderConfig`."""

    @abstractmethod
    def initial_state(self, num_sequences: int) -> State:
        """The state before the first chunk, for S sequences."""

    def fit_inputs(self, recordings: Sequence[Any], vocabulary: Any) -> None:
        """Take from the train split of recordings what inputs are normalised with, before the first step.

        Nothing by default. Only what belongs to the units and sessions of these recordings may change, so
        that a decoder can be extended.
        """
        del recordings, vocabulary

    def see(self, batch: Batch) -> None:
        """Bring random weights to the scale of a first batch, before the first step; nothing by default."""
        del batch

    def tables(self) -> Any:
        """What a stream makes once and passes to every call; None where there is nothing."""
        return None

    @abstractmethod
    def forward(
        self, batch: Batch, state: State | None = None, tables: Any = None
    ) -> tuple[dict[str, Tensor], State]:
        """Decode S x C chunks: behavior -> (Q, D) answers in scaled units, and the state after them."""
