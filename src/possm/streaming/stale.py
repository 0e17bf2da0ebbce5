"""A watchdog: when no input comes for a while, something stands in for the answers, and says so.

What is stale is decided on the clock on the wall: the clock of the input stands still when the input does.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from possm.batch import Prediction
from possm.config import require

STATUS = {"hold": "held", "decay": "decayed", "zero": "zeroed"}
"""What `StaleConfig.action` may say -> the status of the predictions it makes."""

ROUNDING_S = 1e-6
"""Clocks that tick at the same rate as something stands in must not miss every other tick by rounding."""


@dataclass(frozen=True, kw_only=True)
class StaleConfig:
    """What to do when input is missing."""

    action: Literal["hold", "decay", "zero"] = "hold"
    """What stands in: "hold" repeats the last answer; "decay" lets it fall to 0; "zero" is 0. All in physical
    units: for a velocity 0 is rest, for a position it is a place. In place of 0, all classes of a category
    are equally likely."""
    after_ms: float = 200.0
    """Input is stale when its time has not gone on for this long."""
    tau_ms: float = 300.0
    """Time constant of "decay", from the moment that input is stale."""
    every_ms: float = 50.0
    """How often something stands in for an answer."""

    def __post_init__(self) -> None:
        require(self.action in STATUS, "action", self.action, f"one of {', '.join(STATUS)}")
        for name in ("after_ms", "tau_ms", "every_ms"):
            value = getattr(self, name)
            require(0 < value < math.inf, name, value, "above 0")


class Watchdog:
    """Knows when input was last heard, and what was answered then.

    Args:
        config: When to act, and how.
        now: The clock on the wall, s.
    """

    def __init__(self, config: StaleConfig, *, now: Callable[[], float] = time.monotonic) -> None:
        self.config, self._now = config, now
        self.stalls = 0
        """How often input became stale."""
        self.stood_in = 0
        """Predictions made in place of answers."""
        self._last: dict[str, Prediction] = {}
        self._heard_s = self._due_s = now()
        self._stale = False

    @property
    def stale(self) -> bool:
        """Whether input was missing when this was last asked to act."""
        return self._stale

    def heard(self, predictions: Sequence[Prediction]) -> None:
        """The time of the input has gone on, and this was answered."""
        for prediction in predictions:
            self._last[prediction.behavior] = prediction
        self._heard_s, self._stale = self._now(), False

    def tick(self) -> list[Prediction]:
        """What stands in for an answer now: one prediction a behavior every `every_ms` while input is stale,
        none otherwise, and none before the first answer.

        Their `times_s` are those of the last answer plus the silence; chunk, start and end stay those of the
        last chunk that was decoded.
        """
        now_s, config = self._now(), self.config
        silent_s = now_s - self._heard_s
        if silent_s < config.after_ms / 1000 - ROUNDING_S:
            return []
        if not self._stale:
            self._stale, self._due_s, self.stalls = True, now_s, self.stalls + 1
        if now_s < self._due_s - ROUNDING_S:
            return []
        self._due_s = max(self._due_s + config.every_ms / 1000, now_s)
        self.stood_in += len(self._last)
        return [self._instead(prediction, silent_s) for prediction in self._last.values()]

    def _instead(self, last: Prediction, silent_s: float) -> Prediction:
        values, action = last.values[-1:], self.config.action
        nothing = np.full_like(values, 1 / len(last.classes) if last.classes else 0)
        if action == "zero":
            values = nothing  # also where the last answer was none
        elif action == "decay":
            stale_ms = 1000 * silent_s - self.config.after_ms
            left = values.dtype.type(math.exp(-stale_ms / self.config.tau_ms))
            values = nothing + (values - nothing) * left
        return replace(
            last,
            times_s=last.times_s[-1:] + silent_s,
            values=values,
            spikes=0,
            compute_s=0.0,
            input_delay_s=math.nan,
            status=STATUS[action],
        )


class Ticker:
    """Calls a function now and then in a thread, while the stream waits for its source.

    Args:
        function: What to call; it locks what it shares.
        every_s: How often.
    """

    def __init__(self, function: Callable[[], None], *, every_s: float) -> None:
        self._function, self._every_s = function, every_s
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="possm watchdog", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what the function raised, if it did; it is not called again then."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def stop(self) -> None:
        """Call no more."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self._function()
            except BaseException as error:  # it belongs to the thread of the stream
                self._error = error
                return
