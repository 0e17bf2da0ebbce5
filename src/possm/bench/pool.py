"""Processes for the jobs of a bench: one each, so that none can harm another."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from possm.bench.results import (
    OK,
    Job,
    failed_rows,
    job_folder,
    plain,
    result_path,
    result_text,
    write_result,
)
from possm.data.files import atomic_path
from possm.errors import PossmError

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Read by numerical libraries when they are loaded."""
JobFunction = Callable[[Job, Path], Sequence[Mapping[str, Any]]]
"""Does a job: (job, a folder of its own, kept from an earlier try) -> rows. A function of a module, so that
another process finds it. Numbers that are not finite become null."""


class Pool:
    """Processes that are running, a job in each."""

    def __init__(self, function: JobFunction, out: Path, *, workers: int, threads: int) -> None:
        self._function, self._out, self._workers, self._threads = function, out, workers, threads
        # Not forked: numerical libraries that have started threads do not survive that.
        self._context = multiprocessing.get_context("spawn")
        self._running: dict[Any, tuple[Any, Job, float]] = {}

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, float]]:
        """Each job as it has ended, and the seconds it took; stops what is running when it is left."""
        waiting = list(jobs)
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self._workers:
                    self._start(waiting.pop(0))
                for sentinel in wait(list(self._running)):
                    process, job, began_s = self._running.pop(sentinel)
                    process.join()
                    if process.exitcode or not result_path(self._out, job).exists():
                        cause = _died(process.exitcode, job_folder(self._out, job) / "log.txt")
                        write_result(self._out, job, result_text(job, failed_rows(job, cause)))
                    yield job, time.perf_counter() - began_s
        finally:
            for process, _, _ in self._running.values():
                process.kill()
                process.join()

    def _start(self, job: Job) -> None:
        arguments = (self._function, job, self._out)
        process = self._context.Process(target=_do, args=arguments, name=job.name, daemon=False)
        with _environment(dict.fromkeys(THREADS, str(self._threads))):
            process.start()
        self._running[process.sentinel] = (process, job, time.perf_counter())


def _do(function: JobFunction, job: Job, out: Path) -> None:
    """The life of a job's process: whatever becomes of the job, its file is written."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one sees to it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder = _fresh_folder(out, job)
    _log_to(folder / "log.txt")
    try:
        rows = [{**row, "status": row.get("status", OK)} for row in function(job, folder)]
        text = result_text(job, rows)
    except Exception as error:  # whatever it is: the table is to say so, and the other jobs are to go on
        traceback.print_exc()
        kind = "" if isinstance(error, PossmError) else f"{type(error).__name__}: "
        text = result_text(job, failed_rows(job, kind + str(error).replace(str(folder), job.name)))
    write_result(out, job, text)


def _fresh_folder(out: Path, job: Job) -> Path:
    """The job's folder, without what an unfinished try of other parameters may have left there."""
    folder, text = job_folder(out, job), json.dumps(plain(job.parameters), indent=1)
    told = folder / "parameters.json"
    if told.exists() and told.read_text(encoding="utf-8") != text:
        shutil.rmtree(folder)
    with atomic_path(told) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return folder


def _end_with_parent() -> None:
    """A bench that is killed leaves no job running, which the next one would meet in the same folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _log_to(path: Path) -> None:
    """What this process prints goes to a file, and what its libraries print too."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())


def _died(exitcode: int, log: Path) -> str:
    if exitcode < 0:
        memory = ", perhaps for want of memory" if exitcode == -signal.SIGKILL else ""
        return f"its process was killed by signal {-exitcode}{memory} (see {log})"
    return f"its process ended with status {exitcode} (see {log})"


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Other variables for the processes that are started inside the block."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
