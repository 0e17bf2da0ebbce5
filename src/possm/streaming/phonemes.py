"""The symbols of a sequence, as they are said: predictions of a live decoder -> phonemes.

    said = Spoken("trials.phonemes")
    for prediction in live.push(...):
        for phoneme in said.push(prediction):
            print(phoneme.symbol, phoneme.time_s)

What the best path says is final at once. A beam with a language model may still change its mind about the
last symbols; `Spoken.text` then is its best guess so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from possm.batch import Prediction
from possm.data.ctc import BLANK, Beam
from possm.errors import StreamError


@dataclass(frozen=True)
class Phoneme:
    """One symbol that was said."""

    symbol: str
    time_s: float
    """When it was clear: the end of the chunk that decided, on the stream's clock."""
    probability: float


class Spoken:
    """What has been said since the start of the trial.

    Args:
        behavior: The sequence; predictions of other behaviors are passed over.
        beam: Searches as well; None is the best path alone.
    """

    def __init__(self, behavior: str, beam: Beam | None = None) -> None:
        self.behavior, self.beam = behavior, beam
        self.phonemes: list[Phoneme] = []
        self._last, self._symbols = BLANK, ()  # type: tuple[int, tuple[str, ...]]

    @property
    def text(self) -> str:
        """All symbols with blanks between them; of the beam, if there is one."""
        if self.beam is None:
            return " ".join(phoneme.symbol for phoneme in self.phonemes)
        return " ".join(self._symbols[number] for number in self.beam.best)

    def push(self, prediction: Prediction) -> list[Phoneme]:
        """Take what the live decoder said next; returns the symbols that are new on the best path.

        Raises:
            StreamError: The behavior is no sequence.
        """
        if prediction.behavior != self.behavior:
            return []
        if not prediction.classes or prediction.classes[BLANK] != "":
            raise StreamError("this behavior is no sequence", about=self.behavior)
        self._symbols = prediction.classes
        if self.beam is not None:
            self.beam.push(prediction.values)
        new = list(self._new(prediction))
        self.phonemes += new
        return new

    def _new(self, prediction: Prediction) -> Iterator[Phoneme]:
        for time_s, probabilities in zip(prediction.times_s, prediction.values, strict=True):
            number = int(probabilities.argmax())
            if number not in (BLANK, self._last):
                yield Phoneme(self._symbols[number], float(time_s), float(probabilities[number]))
            self._last = number
