"""What every link shares: messages in, predictions out, and options in an address.

A new link is one module with a source or a sink, and one line in `links/__init__.py`.
"""

from __future__ import annotations

import dataclasses
import math
import time
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from possm.batch import Prediction
from possm.config import from_json
from possm.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Message:
    """What a source delivers at once; the arguments of `LiveDecoder.push`."""

    spike_times_s: np.ndarray
    """(n,) float64, on the source's clock."""
    units: np.ndarray
    """(n,) unit ids, or rows of the source's `unit_ids`."""
    until_s: float
    """Everything before this time has now been delivered."""
    counts: np.ndarray | None = None
    """(n,) multiplicities; None is 1 each."""
    start_s: float | None = None
    """The stream begins here, or begins anew after a cut: what was before has nothing to do with it."""
    received_s: float = math.nan
    """When this arrived, on the clock of the spike times; NaN where that is not known."""


class Source(Protocol):
    """Where spikes come from."""

    unit_ids: tuple[str, ...] | None
    """Units that rows in the messages mean; None where messages name units, or mean the decoder's rows."""
    session_id: str | None
    """The session, where the source knows."""

    def __iter__(self) -> Iterator[Message]:
        """Messages in order of `until_s`; ends when there is nothing more. A link to a rig gives an empty one
        with the same `until_s` now and then while nothing comes, so that whoever listens can see that."""

    def close(self) -> None:
        """Let go of files and connections; closing twice is fine."""


class Sink(Protocol):
    """Where predictions go."""

    def start(self, behaviors: Mapping[str, int]) -> None:
        """Called once before the first prediction: what will come, behavior -> dimensions."""

    def write(self, prediction: Prediction) -> None:
        """Take one prediction; they come in time order, behavior by behavior within a chunk."""

    def close(self) -> None:
        """Finish; closing twice is fine."""


def options(config_class: type[T], texts: Mapping[str, str]) -> T:
    """The config of a link from the options in its address, such as ``{"speed": "1"}``.

    Raises:
        ConfigError: An option is unknown, not of its type, or out of range.
    """
    hints = typing.get_type_hints(config_class)
    values = {name: _read(name, text, hints.get(name, str)) for name, text in texts.items()}
    return from_json(config_class, values)


def _read(name: str, text: str, hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    try:
        return _YES_NO[text.lower()] if hint is bool else hint(text)
    except (KeyError, ValueError) as error:
        wanted = "yes or no" if hint is bool else f"a value of type {hint.__name__}"
        raise ConfigError(f"option '{name}' cannot be read", got=text, wanted=wanted) from error


_YES_NO = {"1": True, "yes": True, "true": True, "0": False, "no": False, "false": False}


@dataclass
class Pace:
    """Lets time pass as fast as it was recorded, or a multiple of that.

    The wait is until an absolute moment, so that delays do not add up.
    """

    speed: float
    """1 is as recorded; infinity does not wait."""
    _began: float = dataclasses.field(default=0.0, init=False)
    _origin_s: float = dataclasses.field(default=0.0, init=False)

    def begin(self, origin_s: float) -> None:
        """It is now `origin_s`."""
        self._began, self._origin_s = time.monotonic(), origin_s

    def wait(self, until_s: float) -> None:
        """Sleep until it is `until_s`; return at once if that has passed."""
        ahead_s = self._began + (until_s - self._origin_s) / self.speed - time.monotonic()
        if ahead_s > 0:
            time.sleep(ahead_s)
