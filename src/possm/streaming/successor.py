"""The decoder that a running stream goes on with, once it is there: `possm stream --swap-to runs/today`."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from possm.errors import PossmError
from possm.streaming.engines import Engine, open_engine
from possm.streaming.live import LiveDecoder

logger = logging.getLogger(__name__)

FILES = (".safetensors", ".onnx")


class Successor:
    """Looks for a decoder that is written while a stream runs, and makes it ready in a thread of its own.

    Args:
        path: A decoder file, which is taken whenever it is written anew; or the folder of a run, whose
            decoder is taken when the run has ended. What is there at the start is not taken.
        session: What to decode as afterwards; None as in `LiveDecoder.swap`.
        every_s: How often to look.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, session: str | None = None, every_s: float = 1.0
    ) -> None:
        path = Path(path)
        folder = path.suffix not in FILES
        self._decoder = path / "decoder.safetensors" if folder else path
        self._sign = path / "summary.json" if folder else path  # what is written last
        self._session, self._every_s = session, every_s
        self._seen = self._stamp()
        if self._seen is not None:
            logger.info("%s is there already: the stream waits for it to be written anew", self._sign)
        self._lock = threading.Lock()
        self._ready: Engine | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._look, name="successor", daemon=True)
        self._thread.start()

    def take(self, live: LiveDecoder) -> bool:
        """Hand over, between two pushes, if there is something to hand over to. What cannot take over is
        named in the log, and the stream goes on as before.

        Returns:
            Whether another decoder answers from now on.
        """
        if self._ready is None:
            return False
        with self._lock:
            engine, self._ready = self._ready, None
        try:
            live.swap(engine, session=self._session)
        except PossmError as error:
            logger.warning("the stream keeps its decoder: %s", error)
            return False
        return True

    def close(self) -> None:
        """Look no more."""
        self._closing.set()
        self._thread.join()

    def _look(self) -> None:
        before = self._seen
        while not self._closing.wait(self._every_s):
            stamp = self._stamp()
            settled, before = stamp == before, stamp  # twice the same: nobody is writing it any more
            if stamp is None or stamp == self._seen or not settled:
                continue
            self._seen = stamp
            try:
                engine = open_engine(self._decoder)
            except Exception as error:  # whatever it is: the stream goes on, and so does looking
                logger.warning("the stream keeps its decoder: %s", error)
                continue
            with self._lock:
                self._ready = engine

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._sign.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
