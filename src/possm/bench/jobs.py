"""Many independent jobs, a few at a time, each in a process of its own; what is done stays done.

    jobs = [Job(name="day1-gru-seed0", parameters={"recording": "day1.h5", "seed": 0}), ...]
    rows = run_jobs(jobs, function, out, workers=2)

`function(job, folder)` returns the rows of one job. Every job ends in one file, `out/jobs/NAME.json`, written
atomically by the job itself, and keeps its own files and its log in `out/runs/NAME`. A bench that was killed
and is started again does what is missing. A job that fails makes rows that say why, and the others go on;
started again, it is tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from possm.bench.pool import JobFunction, Pool
from possm.bench.results import FAILED, OK, Job, Row, plain, read_result, result_path
from possm.errors import ConfigError

__all__ = ["FAILED", "OK", "Job", "JobFunction", "Row", "rows_so_far", "run_jobs"]


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
    pool = Pool(function, out, workers=workers, threads=threads)
    for number, (job, seconds) in enumerate(pool.run(left), 1):
        result = done[job.name] = read_result(out, job)
        failed = [row["status"] for row in result["rows"] if row["status"] != OK]
        to_go = f"{len(left) - number} to go" if number < len(left) else "all done"
        progress(f"{job.name}: {failed[0] if failed else OK}, {seconds:.0f} s; {to_go}")
    return [row for job in jobs for row in done[job.name]["rows"]]


def rows_so_far(jobs: Sequence[Job], out: str | Path) -> list[Row]:
    """The rows of the jobs that have ended, also while others are running."""
    ended = [job for job in jobs if result_path(Path(out), job).exists()]
    return [row for job in ended for row in read_result(Path(out), job)["rows"]]


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
        if not result_path(out, job).exists():
            continue
        result = read_result(out, job)
        if any(row["status"].startswith(FAILED) for row in result["rows"]):
            continue
        if result["parameters"] != plain(job.parameters):
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
