"""Jobs in processes: what is done stays done, what fails is a row, and nothing is left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import bench_helpers
from possm.bench.jobs import Job, run_jobs
from possm.errors import ConfigError


def jobs(*numbers: int, first: dict[int, str] | None = None) -> list[Job]:
    """One for each number, some with an accident in their first run."""
    accidents = first or {}
    return [
        Job(
            name=f"n{number}",
            parameters={"number": number, **({"first": accidents[number]} if number in accidents else {})},
            expected=({"number": number, "square": None},),
        )
        for number in numbers
    ]


def times_run(out: Path, name: str) -> int:
    path = out / "runs" / name / "runs.txt"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_rows_in_the_order_of_jobs_and_nothing_done_twice(tmp_path):
    lines: list[str] = []
    rows = run_jobs(jobs(3, 1, 2), bench_helpers.squared, tmp_path, workers=2, progress=lines.append)
    assert [row["number"] for row in rows] == [3, 1, 2]
    assert rows[0] == {"number": 3, "square": 9.0, "odd": [None, 1], "status": "ok"}
    assert len(lines) == 3 and "all done" in lines[-1] and all(": ok, " in line for line in lines)
    assert json.loads((tmp_path / "jobs" / "n3.json").read_text())["rows"] == rows[:1]
    assert (tmp_path / "runs" / "n3" / "log.txt").read_text() == "number 3\n"

    again = run_jobs(jobs(1, 2, 3, 4), bench_helpers.squared, tmp_path)
    assert [row["square"] for row in again] == [1, 4, 9, 16]
    assert [times_run(tmp_path, f"n{number}") for number in (1, 2, 3, 4)] == [1, 1, 1, 1]


CAUSES = {
    "refuse": "failed: too many got: 3 fix: take fewer",
    "break": "failed: KeyError: 'lost'",
    "die": "failed: its process was killed by signal 9, perhaps for want of memory (see {log})",
    "leave": "failed: its process ended with status 0 (see {log})",
}


def test_a_job_that_fails_is_a_row_and_is_tried_again(tmp_path):
    accidents = dict(enumerate(CAUSES))
    made = jobs(0, 1, 2, 3, 4, first=accidents)
    rows = run_jobs(made, bench_helpers.squared, tmp_path, workers=3)
    for number, accident in accidents.items():
        log = tmp_path / "runs" / f"n{number}" / "log.txt"
        wanted = {"number": number, "square": None, "status": CAUSES[accident].format(log=log)}
        assert rows[number] == wanted
    assert rows[4]["square"] == 16 and rows[4]["status"] == "ok"
    assert "Traceback" in (tmp_path / "runs" / "n1" / "log.txt").read_text()

    rows = run_jobs(made, bench_helpers.squared, tmp_path, workers=3)
    assert [row["square"] for row in rows] == [0, 1, 4, 9, 16]
    assert times_run(tmp_path, "n1") == 2 and times_run(tmp_path, "n4") == 1


def test_at_the_same_time_and_with_few_threads(tmp_path):
    pair = [Job(name=name, parameters={"wanted": 2}) for name in "ab"]
    assert run_jobs(pair, bench_helpers.together, tmp_path, workers=2) == [{"status": "ok"}] * 2

    before = os.environ.get("OMP_NUM_THREADS")
    rows = run_jobs([Job(name="c"), Job(name="d")], bench_helpers.environment, tmp_path, threads=3)
    assert {row["threads"] for row in rows} == {"3"}
    assert len({row["process"] for row in rows} - {os.getpid()}) == 2
    assert [row["status"] for row in rows] == ["marked", "marked"]
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_results_of_other_settings_are_refused(tmp_path):
    run_jobs(jobs(1), bench_helpers.squared, tmp_path)
    other = Job(name="n1", parameters={"number": 2})
    with pytest.raises(ConfigError, match="made with other settings"):
        run_jobs([*jobs(5), other], bench_helpers.squared, tmp_path)
    assert times_run(tmp_path, "n5") == 0


def test_an_unfinished_try_of_other_settings_is_forgotten(tmp_path):
    """The folder of a job is kept for the same job only."""
    for first in ("break", "refuse"):
        (row,) = run_jobs(jobs(1, first={1: first}), bench_helpers.squared, tmp_path)
        assert row["status"] == CAUSES[first]
        assert times_run(tmp_path, "n1") == 1


def test_names(tmp_path):
    with pytest.raises(ConfigError, match="same name"):
        run_jobs([Job(name="a"), Job(name="A")], bench_helpers.squared, tmp_path)
    for name in ("", "a/b", "a b", "x" * 200):
        with pytest.raises(ConfigError, match="not a name"):
            Job(name=name)
    with pytest.raises(ConfigError, match="counts"):
        run_jobs([], bench_helpers.squared, tmp_path, workers=0)


BENCH = """
import sys
import bench_helpers
from pathlib import Path
from possm.bench.jobs import Job, run_jobs

if __name__ == "__main__":
    made = [{"number": 1}, {"number": 2, "first": "sleep"}]
    made = [Job(name=f"n{one['number']}", parameters=one) for one in made]
    try:
        run_jobs(made, bench_helpers.squared, Path(sys.argv[1]), workers=2)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_bench_that_is_stopped_leaves_nothing_running_and_goes_on(tmp_path, sent):
    """By Ctrl-C, which reaches all processes of a terminal, and by a signal that nobody can see to."""
    out, script = tmp_path / "out", tmp_path / "bench_script.py"
    script.write_text(BENCH)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(out)]
    bench = subprocess.Popen(
        command, env=environment, start_new_session=True, stderr=subprocess.PIPE, preexec_fn=hear_ctrl_c
    )
    wait_for(lambda: (out / "jobs" / "n1.json").exists() and times_run(out, "n2") == 1)
    if sent == signal.SIGINT:
        os.killpg(bench.pid, sent)
        assert bench.wait(30) == 130
        assert b"Traceback" not in bench.stderr.read()
    else:
        bench.kill()
        bench.wait(30)
    bench.stderr.close()
    wait_for(lambda: not group_lives(bench.pid))

    rows = run_jobs(jobs(1, 2, first={2: "sleep"}), bench_helpers.squared, out)
    assert [row["square"] for row in rows] == [1, 4]
    assert (times_run(out, "n1"), times_run(out, "n2")) == (1, 2)


def hear_ctrl_c() -> None:
    """A shell that starts the tests in the background tells their processes to ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def group_lives(group: int) -> bool:
    """Whether a process of the group is left (a zombie that nobody reaps is none)."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True).stdout
    pairs = [line.split() for line in listed.splitlines()]
    return any(int(pgid) == group and not stat.startswith("Z") for pgid, stat in pairs)


def wait_for(condition) -> None:
    until_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.05)
