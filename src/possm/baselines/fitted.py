"""What the closed-form decoders share: no gradients, one fit a session, continuous behaviors only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from possm.data.recording import Intervals, Recording
from possm.data.scaling import Scaling
from possm.data.vocabulary import Vocabulary
from possm.errors import ConfigError
from possm.model.contract import DecoderConfig


@dataclass(frozen=True, kw_only=True)
class FitInputs:
    """What a closed-form decoder is fitted on."""

    recordings: Sequence[Recording]
    """With a train split, and a valid split to choose settings on."""
    vocabulary: Vocabulary
    """Of these recordings."""
    scaling_of: Callable[[str], Mapping[str, Scaling]]
    """Session id -> behavior -> scaling of its answers."""
    within: str | None = None
    """Intervals whose samples count in validation; None counts all."""

    @property
    def sizes(self) -> dict[str, int]:
        """What every decoder is built with."""
        return {"num_units": len(self.vocabulary.units), "num_sessions": len(self.vocabulary.sessions)}

    def selection(self, recording: Recording) -> Intervals | None:
        """Where in the validation split settings are chosen; None is all of it."""
        return None if self.within is None else recording.intervals[self.within]


def only_continuous(config: DecoderConfig, name: str) -> None:
    """Whether all behaviors can be fitted by least squares.

    Raises:
        ConfigError: One cannot.
    """
    for behavior, settings in config.behaviors.items():
        if settings.readout != "continuous":
            raise ConfigError(
                f"a {name} decodes continuous behaviors only",
                about=behavior,
                got=settings.readout,
                fix="choose another decoder, or another behavior",
            )
