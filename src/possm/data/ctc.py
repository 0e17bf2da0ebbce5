"""From the answers of a sequence decoder, one per frame, to a sequence: best path, or a beam of prefixes.

Connectionist temporal classification (Graves et al. 2006): a frame says a symbol or the blank (0), repeats of
a symbol are one symbol, a blank between two keeps them apart. The beam is that of Hannun et al. 2014, and
takes a language model: any callable (prefix, symbol) -> log probability.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from possm.config import require

BLANK = 0
TINY = 1e-30  # probabilities of float32 answers may round to 0
Prefix = tuple[int, ...]
LanguageModel = Callable[[Prefix, int], float]
"""(symbols so far, next symbol) -> natural logarithm of its probability."""


def collapse(path: np.ndarray) -> np.ndarray:
    """A path of symbols and blanks, (T,), as the sequence that it writes."""
    changed = np.append(True, path[1:] != path[:-1])[: len(path)]
    return np.asarray(path[changed & (path != BLANK)])


def best_path(probabilities: np.ndarray) -> np.ndarray:
    """The likeliest symbol of each frame, collapsed: (T, symbols + 1) -> (n,) int64."""
    return collapse(probabilities.argmax(axis=1))


@dataclass(frozen=True, kw_only=True)
class BeamConfig:
    """How a beam search weighs and prunes."""

    width: int = 16
    """Prefixes kept after each frame."""
    least: float = 1e-3
    """Symbols less likely than this in a frame do not extend a prefix there."""
    weight: float = 0.5
    """Of the logarithm of the language model."""
    bonus: float = 0.0
    """Added for every symbol, against a language model's love of short sequences."""

    def __post_init__(self) -> None:
        require(self.width >= 1, "width", self.width, "1 or more")
        require(0 <= self.least < 1, "least", self.least, "0 or more, below 1")
        require(self.weight >= 0, "weight", self.weight, "0 or more")


@dataclass(frozen=True)
class _Score:
    """Log probabilities that a prefix was written by a path that ends in a blank, or in its last symbol."""

    blank: float = -math.inf
    symbol: float = -math.inf
    bonus: float = 0.0
    """What language model and length say of the prefix."""

    @property
    def total(self) -> float:
        """What prefixes are ranked by."""
        return float(np.logaddexp(self.blank, self.symbol)) + self.bonus


@dataclass
class Beam:
    """A beam search that is fed frame by frame, so that it can run while a sentence is being said."""

    config: BeamConfig = field(default_factory=BeamConfig)
    language_model: LanguageModel | None = None
    prefixes: dict[Prefix, _Score] = field(default_factory=lambda: {(): _Score(blank=0.0)})

    @property
    def best(self) -> Prefix:
        """The likeliest sequence so far; a later frame may change its mind."""
        return max(self.prefixes, key=lambda prefix: self.prefixes[prefix].total)

    def push(self, probabilities: np.ndarray) -> Prefix:
        """Read frames, (T, symbols + 1), and say what is likeliest now."""
        for frame in np.log(np.maximum(np.asarray(probabilities, np.float64), TINY)):
            self._step(frame)
        return self.best

    def _step(self, frame: np.ndarray) -> None:
        likely = [
            int(k) for k in np.flatnonzero(frame >= math.log(max(self.config.least, TINY))) if k != BLANK
        ]
        found: dict[Prefix, list[float]] = {}  # blank, symbol, bonus
        for prefix, score in self.prefixes.items():
            both = float(np.logaddexp(score.blank, score.symbol))
            stay = found.setdefault(prefix, [-math.inf, -math.inf, score.bonus])
            stay[0] = np.logaddexp(stay[0], both + frame[BLANK])
            if prefix:
                stay[1] = np.logaddexp(stay[1], score.symbol + frame[prefix[-1]])
            for symbol in likely:
                again = bool(prefix) and symbol == prefix[-1]
                gain = (score.blank if again else both) + frame[symbol]
                if gain > -math.inf:
                    longer = (*prefix, symbol)
                    if longer not in found:
                        found[longer] = [-math.inf, -math.inf, score.bonus + self._bonus(prefix, symbol)]
                    found[longer][1] = np.logaddexp(found[longer][1], gain)
        scores = {prefix: _Score(*values) for prefix, values in found.items()}
        kept = sorted(scores, key=lambda prefix: -scores[prefix].total)[: self.config.width]
        self.prefixes = {prefix: scores[prefix] for prefix in kept}

    def _bonus(self, prefix: Prefix, symbol: int) -> float:
        if self.language_model is None:
            return self.config.bonus
        return self.config.weight * self.language_model(prefix, symbol) + self.config.bonus


def beam_search(
    probabilities: np.ndarray,
    config: BeamConfig | None = None,
    *,
    language_model: LanguageModel | None = None,
) -> np.ndarray:
    """The likeliest sequence of all frames: (T, symbols + 1) -> (n,) int64."""
    return np.array(Beam(config or BeamConfig(), language_model).push(probabilities), np.int64)


class NGram:
    """Probability of a symbol given the n - 1 before it, counted in sequences: a small language model.

    Counts of shorter contexts fill in for longer ones that were not seen (Witten and Bell 1991).

    Args:
        sequences: (length,) numbers of symbols each, 1 to `num_symbols`.
        num_symbols: How many there are.
        order: n.
    """

    def __init__(self, sequences: Sequence[np.ndarray], *, num_symbols: int, order: int = 3) -> None:
        require(order >= 1, "order", order, "1 or more")
        self.num_symbols, self.order = num_symbols, order
        self._counts: dict[Prefix, dict[int, int]] = {}
        for sequence in sequences:
            symbols = [int(symbol) for symbol in sequence]
            for place, symbol in enumerate(symbols):
                for length in range(min(order - 1, place) + 1):
                    seen = self._counts.setdefault(tuple(symbols[place - length : place]), {})
                    seen[symbol] = seen.get(symbol, 0) + 1

    def __call__(self, prefix: Prefix, symbol: int) -> float:
        """Log probability of `symbol` after `prefix`."""
        probability = 1 / self.num_symbols
        longest = min(self.order - 1, len(prefix))
        for length in range(longest + 1):
            seen = self._counts.get(prefix[len(prefix) - length :], {})
            total, different = sum(seen.values()), len(seen)
            if total:
                probability = (seen.get(symbol, 0) + different * probability) / (total + different)
        return math.log(probability)
