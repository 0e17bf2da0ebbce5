"""``callback:module:function``: your own function as a source or a sink."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from possm.batch import Prediction
from possm.errors import StreamError
from possm.streaming.links.base import Message


class CallbackSource:
    """Asks a function for the next message, such as the read function of a driver.

    Args:
        read: Gives the next message; waits for it if need be; None ends the stream.
        unit_ids: Units that rows in the messages mean; None where they name units.
        session_id: The session, if known.
    """

    def __init__(
        self,
        read: Callable[[], Message | None],
        *,
        unit_ids: Sequence[str] | None = None,
        session_id: str | None = None,
    ) -> None:
        self._read = read
        self.unit_ids: tuple[str, ...] | None = None if unit_ids is None else tuple(unit_ids)
        self.session_id = session_id

    @classmethod
    def open(cls, address: str, texts: Mapping[str, str]) -> CallbackSource:
        """A function by its name, ``module:function``."""
        return cls(_function(address, texts))

    def __iter__(self) -> Iterator[Message]:
        return iter(self._read, None)

    def close(self) -> None:
        """Nothing to let go of."""


class CallbackSink:
    """Calls a function with every prediction. What it raises ends the stream.

    Args:
        function: Takes a prediction; the stream waits for it.
    """

    def __init__(self, function: Callable[[Prediction], object]) -> None:
        self._function = function

    @classmethod
    def open(cls, address: str, texts: Mapping[str, str]) -> CallbackSink:
        """A function by its name, ``module:function``."""
        return cls(_function(address, texts))

    def start(self, behaviors: Mapping[str, int]) -> None:
        """Nothing to prepare."""

    def write(self, prediction: Prediction) -> None:
        """Hand over one prediction."""
        self._function(prediction)

    def close(self) -> None:
        """Nothing to finish."""


def _function(address: str, texts: Mapping[str, str]) -> Callable[..., Any]:
    module, _, name = address.partition(":")
    if texts:
        raise StreamError("a callback takes no options", about=address, got=", ".join(texts))
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise StreamError(
            "there is no such function", about=address, got=error, wanted="callback:module:function"
        ) from error
    if not callable(function):
        raise StreamError("this is not a function", about=address, got=type(function).__name__)
    return function
