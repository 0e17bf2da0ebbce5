"""Processes that make the batches of an epoch ahead of their use; they load no torch.

Batch i is made by process i modulo their number. As a batch depends on nothing but its number, it is the same
however many processes there are. A process ends when its input does, so none outlives the run.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any

from possm.batch import Batch
from possm.data.epochs import TrainingSet
from possm.data.sentences import SentenceSet
from possm.errors import PossmError

AHEAD = 2
"""Batches a process is asked for at a time: it makes the next one while the last one is being taken."""
START = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from possm.data.workers import serve; serve()"
)
"""Not multiprocessing, whose processes run the user's script again unless it is guarded against that."""


class Workers:
    """A training set whose batches are made by other processes.

    Args:
        training_set: Is sent to every process; lazy recordings are opened there, others are copied.
        count: Processes; 0 makes batches in this one, when they are asked for.
    """

    def __init__(self, training_set: TrainingSet | SentenceSet, count: int) -> None:
        self.training_set = training_set
        self._processes = [_start(training_set) for _ in range(count)]

    def batches(self, epoch: int) -> Iterator[Batch]:
        """All batches of an epoch, in order.

        Raises:
            PossmError: What a process met, or that one of them is gone.
        """
        if not self._processes:
            yield from self.training_set.batches(epoch)
            return
        number, count = self.training_set.num_batches, len(self._processes)
        for job in range(min(number, AHEAD * count)):
            _ask(self._processes[job % count], (epoch, job))
        for job in range(number):
            process = self._processes[job % count]
            batch = _answer(process, (epoch, job))
            if job + AHEAD * count < number:
                _ask(process, (epoch, job + AHEAD * count))
            yield batch

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()  # it holds nothing that could be lost
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):  # what was meant for it cannot be written any more
                    pipe.close()  # type: ignore[union-attr]
        self._processes = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve() -> None:
    """The other end: read a training set and numbers from the standard input, write batches to the output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which then closes the input
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anybody prints is no batch
    training_set = pickle.load(asked)
    while True:
        try:
            job = pickle.load(asked)
        except EOFError:
            return
        try:
            made: Any = training_set.batch(*job)
        except Exception as error:  # whatever it is, the run is told
            made = error
        try:
            pickle.dump((job, made), answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()
        except BrokenPipeError:
            os._exit(0)


def _start(training_set: TrainingSet | SentenceSet) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", START],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    _ask(process, sys.path)
    _ask(process, training_set)
    return process


def _ask(process: subprocess.Popen[bytes], what: Any) -> None:
    assert process.stdin is not None
    try:
        pickle.dump(what, process.stdin, pickle.HIGHEST_PROTOCOL)
        process.stdin.flush()
    except BrokenPipeError:
        raise _gone(process) from None


def _answer(process: subprocess.Popen[bytes], wanted: tuple[int, int]) -> Batch:
    assert process.stdout is not None
    job = made = None
    while job != wanted:  # an epoch that was broken off has left answers that nobody took
        try:
            job, made = pickle.load(process.stdout)
        except (EOFError, pickle.UnpicklingError):
            raise _gone(process) from None
    if isinstance(made, Exception):
        raise made
    assert isinstance(made, Batch)
    return made


def _gone(process: subprocess.Popen[bytes]) -> PossmError:
    return PossmError(
        "a process that makes batches is gone",
        got=f"exit status {process.wait()}",
        wanted="memory for every process",
        fix="fewer --workers; 0 makes batches in the training process",
    )
