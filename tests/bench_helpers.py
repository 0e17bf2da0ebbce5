"""For tests of benches: jobs that other processes are to find by name, and files of toy recordings."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from possm.bench.jobs import Job
from possm.errors import ConfigError


def write_toy(path: Path, **settings):
    """A toy recording whose behavior has a name that files can hold, as it is and as a file."""
    import toys  # here, for it loads torch, which the jobs below would wait for
    from possm.data.formats import write_hdf5

    made = toys.recording(**settings)
    made = replace(made, signals={"cursor.vel": made.signals["vel"]})
    write_hdf5(made, path)
    return made


def squared(job: Job, folder: Path):
    """Counts its runs in its folder, and has an accident in the first one if its parameters say so."""
    with (folder / "runs.txt").open("a") as file:
        file.write("run\n")
    print("number", job.parameters["number"])
    again = len((folder / "runs.txt").read_text().splitlines()) > 1
    match None if again else job.parameters.get("first"):
        case "refuse":
            raise ConfigError("too many", got=3, fix="take fewer")
        case "break":
            raise KeyError("lost")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "leave":
            os._exit(0)
        case "sleep":
            time.sleep(60)
    value = np.float32(job.parameters["number"] ** 2)
    return [{"number": job.parameters["number"], "square": value, "odd": (float("nan"), np.int64(1))}]


def environment(job: Job, folder: Path):
    """What a job sees around it."""
    return [{"threads": os.environ["OMP_NUM_THREADS"], "process": os.getpid(), "status": "marked"}]


def together(job: Job, folder: Path):
    """Waits until as many jobs as it is told have begun."""
    (folder.parent / f"{job.name}.began").touch()
    until_s = time.monotonic() + 60
    while len(list(folder.parent.glob("*.began"))) < job.parameters["wanted"]:
        if time.monotonic() > until_s:
            raise TimeoutError("alone")
        time.sleep(0.02)
    return [{}]
