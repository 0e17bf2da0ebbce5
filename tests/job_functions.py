"""Jobs that other processes are to find by name, for tests of `possm.bench.jobs`."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from possm.bench.jobs import Job
from possm.errors import ConfigError


def squared(job: Job, folder: Path):
    """Counts its runs in its folder, and does what its parameters say on the way."""
    with (folder / "runs.txt").open("a") as file:
        file.write("run\n")
    print("number", job.parameters["number"])
    match job.parameters.get("then"):
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
