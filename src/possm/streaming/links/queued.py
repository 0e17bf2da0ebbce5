"""A sink with a thread of its own, so that a slow one never holds up the decoder."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping

from possm.batch import Prediction
from possm.config import require
from possm.streaming.links.base import Sink

log = logging.getLogger(__name__)


class QueuedSink:
    """Hands predictions to another sink in a thread. When that one is slow, the oldest are dropped and
    counted.

    Args:
        sink: Where they go.
        queue: Most predictions that wait.
        drain_s: How long closing waits for what is left.

    Raises:
        ConfigError: `queue` is below 1.
    """

    def __init__(self, sink: Sink, *, queue: int = 256, drain_s: float = 2.0) -> None:
        require(queue >= 1, "queue", queue, "1 or more")
        self.sink, self._queue, self._drain_s = sink, queue, drain_s
        self._dropped = 0
        self._waiting: deque[Prediction] = deque()
        self._change = threading.Condition()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._closing = False

    @property
    def dropped(self) -> int:
        """Predictions that never went out: the sink was slow, or dropped them itself."""
        return self._dropped + int(getattr(self.sink, "dropped", 0))

    def start(self, behaviors: Mapping[str, int]) -> None:
        """Start the sink, and the thread."""
        self.sink.start(behaviors)
        self._thread = threading.Thread(target=self._run, name="possm sink", daemon=True)
        self._thread.start()

    def write(self, prediction: Prediction) -> None:
        """Take one prediction; never waits for the sink.

        Raises:
            StreamError: The sink has refused an earlier one.
        """
        with self._change:
            if self._error is not None:
                raise self._error
            if len(self._waiting) == self._queue:
                self._waiting.popleft()
                self._drop(1)
            self._waiting.append(prediction)
            self._change.notify()

    def close(self) -> None:
        """Wait a moment for what is left, and close the sink."""
        with self._change:
            self._closing = True
            self._change.notify()
        if self._thread is not None:
            self._thread.join(self._drain_s)
            self._thread = None
        with self._change:
            self._drop(len(self._waiting))
            self._waiting.clear()
        self.sink.close()

    def _drop(self, number: int) -> None:
        for _ in range(number):
            self._dropped += 1
            if self._dropped & (self._dropped - 1) == 0:  # the 1st, 2nd, 4th, 8th ...
                log.warning("the sink is slow: %d prediction(s) dropped", self._dropped)

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._waiting and not self._closing:
                    self._change.wait()
                if not self._waiting:
                    return
                prediction = self._waiting.popleft()
            try:
                self.sink.write(prediction)
            except BaseException as error:  # it belongs to the thread that writes
                with self._change:
                    self._error = error
                return
