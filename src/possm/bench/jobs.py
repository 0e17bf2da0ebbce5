"""Many independent jobs, a few at a time, each in a process of its own; what is done stays done.

    jobs = [Job(name="day1-gru-seed0", parameters={"recording": "day1.h5", "seed": 0}), ...]
    rows = run_jobs(jobs, function, out, workers=2)

`function(job, folder)` returns the rows of one job. Every job ends in one file, `out/jobs/NAME.json`, written
atomically by the job itself, and keeps its own files and its log in `out/runs/NAME`. A bench that was killed
and is started again does what is missing. A job that fails makes rows that say why, and the others go on;
started again, it is tried again.
"""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from possm.data.files import atomic_path
from possm.errors import ConfigError, PossmError

Row = dict[str, Any]
"""One row of a table, as JSON has it."""
OK, FAILED = "ok", "failed: "
"""What the status of a row is, or begins with."""
NAME = re.compile(r"[\w.+=-]{1,180}")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Read by numerical libraries when they are loaded."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job. It is sent to another process, so everything in it must be picklable."""

    name: str
    """Of its files, so of letters, digits and ``. _ + = -``; no two jobs of a bench share one."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """All that its result depends on, configs too; a result of other parameters is refused."""
    expected: tuple[Row, ...] = ({},)
    """The rows it is to make, as far as they are known before; if it fails they stand in the table."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ConfigError("not a name for a job", got=self.name, wanted="letters, digits and . _ + = -")


JobFunction = Callable[[Job, Path], Sequence[Mapping[str, Any]]]
"""Does a job: (job, a folder of its own, kept from an earlier try) -> rows. A function of a module, so that
another process finds it. Numbers that are not finite become null."""


def run_jobs(
    jobs: Sequence[Job],
    function: JobFunction,
    out: str | Path,
    *,
    workers: int = 1,
    threads: int = 1,
    progress: Callable[[str], object] = id,
) -> list[Row]:
    """Do all jobs that are not done yet.

    Args:
        jobs: Started in this order.
        function: Does one.
        out: Folder of results.
        workers: Jobs at a time.
        threads: Of the numerical libraries in each.
        progress: Told a line about every job that ends.

    Returns:
        The rows of all jobs, in the order of the jobs. Each has a `status`: "ok" unless the job gave another,
        or "failed: " and the cause.

    Raises:
        ConfigError: Two jobs share a name, or the folder holds a result of other parameters.
        KeyboardInterrupt: Ctrl-C. The jobs that were running have been stopped; the same call goes on.
    """
    out = Path(out)
    if workers < 1 or threads < 1:
        raise ConfigError("workers and threads are counts", got=(workers, threads), wanted="1 or more")
    _check_names(jobs)
    done = _done(jobs, out)
    left = [job for job in jobs if job.name not in done]
    if done:
        progress(f"{len(done)} of {len(jobs)} are done already")
    pool = _Pool(function, out, workers=workers, threads=threads)
    for number, (job, seconds) in enumerate(pool.run(left), 1):
        result = done[job.name] = _read(out, job)
        failed = [row["status"] for row in result["rows"] if row["status"] != OK]
        to_go = f"{len(left) - number} to go" if number < len(left) else "all done"
        progress(f"{job.name}: {failed[0] if failed else OK}, {seconds:.0f} s; {to_go}")
    return [row for job in jobs for row in done[job.name]["rows"]]


def rows_so_far(jobs: Sequence[Job], out: str | Path) -> list[Row]:
    """The rows of the jobs that have ended, also while others are running."""
    ended = [job for job in jobs if _path(Path(out), job).exists()]
    return [row for job in ended for row in _read(Path(out), job)["rows"]]


class _Pool:
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
                    if process.exitcode or not _path(self._out, job).exists():
                        cause = _died(process.exitcode, _folder(self._out, job) / "log.txt")
                        _write(self._out, job, _text(job, _failed(job, cause)))
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
        text = _text(job, rows)
    except Exception as error:  # whatever it is: the table is to say so, and the other jobs are to go on
        traceback.print_exc()
        kind = "" if isinstance(error, PossmError) else f"{type(error).__name__}: "
        text = _text(job, _failed(job, kind + str(error).replace(str(folder), job.name)))
    _write(out, job, text)


def _fresh_folder(out: Path, job: Job) -> Path:
    """The job's folder, without what an unfinished try of other parameters may have left there."""
    folder, text = _folder(out, job), json.dumps(_plain(job.parameters), indent=1)
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


def _check_names(jobs: Sequence[Job]) -> None:
    seen: set[str] = set()
    for job in jobs:
        if job.name.lower() in seen:  # not every file system tells the cases apart
            raise ConfigError("two jobs have the same name", got=job.name)
        seen.add(job.name.lower())


def _done(jobs: Sequence[Job], out: Path) -> dict[str, dict[str, Any]]:
    """The results that are there already, by name; those that failed are to be tried again."""
    found, foreign = {}, []
    for job in jobs:
        if not _path(out, job).exists():
            continue
        result = _read(out, job)
        if any(row["status"].startswith(FAILED) for row in result["rows"]):
            continue
        if result["parameters"] != _plain(job.parameters):
            foreign.append(job.name)
        found[job.name] = result
    if foreign:
        raise ConfigError(
            f"{len(foreign)} result(s) here were made with other settings",
            about=out / "jobs",
            got=", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else ""),
            fix="choose another folder, or delete these from jobs/ and runs/ to make them anew",
        )
    return found


def _read(out: Path, job: Job) -> dict[str, Any]:
    return json.loads(_path(out, job).read_text(encoding="utf-8"))


def _write(out: Path, job: Job, text: str) -> None:
    with atomic_path(_path(out, job)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _text(job: Job, rows: Sequence[Row]) -> str:
    made = {"name": job.name, "parameters": _plain(job.parameters), "rows": _plain(rows)}
    return json.dumps(made, indent=1, allow_nan=False)


def _plain(value: Any) -> Any:
    """As JSON gives it back: a tuple is a list, a config a dict with its class, what is not finite null."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _plain({"class": type(value).__name__, **fields})
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy
        return _plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _failed(job: Job, cause: str) -> list[Row]:
    return [{**row, "status": FAILED + " ".join(cause.split())} for row in job.expected]


def _died(exitcode: int, log: Path) -> str:
    if exitcode < 0:
        memory = ", perhaps for want of memory" if exitcode == -signal.SIGKILL else ""
        return f"its process was killed by signal {-exitcode}{memory} (see {log})"
    return f"its process ended with status {exitcode} (see {log})"


def _path(out: Path, job: Job) -> Path:
    return out / "jobs" / f"{job.name}.json"


def _folder(out: Path, job: Job) -> Path:
    return out / "runs" / job.name


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
